"""Frechet distance between Gaussians fitted to two sets of features (Heusel et al. 2017, arXiv 1706.08500).

|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))
"""

import numpy as np
from torch import Tensor

MAX_FEATURES = 4096  # a covariance of 4096^2 float64 takes 128 MiB


class Moments:
    """Mean and covariance of feature vectors that come in batches, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = np.zeros(0)
        self.outer = np.zeros((0, 0))
        self.shift = np.zeros(0)  # a first guess of the mean, against cancellation in the covariance

    def add(self, features: Tensor) -> None:
        """features: [B, D]. Raises ValueError where D is too large for a covariance, or not that of before."""
        values = features.double().cpu().numpy()
        length = values.shape[1]
        if length > MAX_FEATURES:
            raise ValueError(
                f"{length} features an image; the Frechet distance of pixels is for small images, of at most "
                f"{MAX_FEATURES} values each"
            )
        if self.count == 0:
            self.shift, self.sum, self.outer = values.mean(0), np.zeros(length), np.zeros((length, length))
        if length != len(self.sum):
            raise ValueError(f"features of length {length} cannot be added to those of length {len(self.sum)}")
        values = values - self.shift
        self.count += len(values)
        self.sum += values.sum(0)
        self.outer += values.T @ values

    def fit(self) -> tuple[np.ndarray, np.ndarray]:
        """(mean [D], unbiased covariance [D, D]). Raises ValueError for fewer than two vectors."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 images, got {self.count}")
        mean = self.sum / self.count
        covariance = (self.outer - self.count * np.outer(mean, mean)) / (self.count - 1)
        return mean + self.shift, covariance


def frechet_distance(first: Moments, second: Moments) -> float:
    """The distance above, at least 0. Raises ValueError where the features' lengths differ."""
    (mean1, cov1), (mean2, cov2) = first.fit(), second.fit()
    if mean1.shape != mean2.shape:
        raise ValueError(f"features of length {len(mean1)} cannot be compared with those of length {len(mean2)}")
    # The eigenvalues of C1 C2 are those of the symmetric C1^(1/2) C2 C1^(1/2), which are real and at least 0.
    values, vectors = np.linalg.eigh(cov1)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov2 @ root).clip(0)).sum()
    distance = ((mean1 - mean2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * cross
    return max(float(distance), 0.0)
