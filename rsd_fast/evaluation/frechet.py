"""Frechet distance between Gaussians fitted to two sets of features (Heusel et al. 2017, arXiv 1706.08500).

|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))
"""

import numpy as np
from torch import Tensor

ROWS = 4096  # feature vectors that are held in float64 at once
MAX_FEATURES = 4096  # a covariance of 4096^2 float64 takes 128 MiB


class Moments:
    """Mean and covariance of feature vectors that come in batches, in float64."""

    def __init__(self, *batches: Tensor) -> None:
        self.count = 0
        self.sum = np.zeros(0)
        self.outer = np.zeros((0, 0))
        self.shift = np.zeros(0)  # a first guess of the mean, against cancellation in the covariance
        for batch in batches:
            self.add(batch)

    def add(self, features: Tensor) -> None:
        """features: [B, D]. Raises ValueError where D is too large for a covariance, or not that of before."""
        values = features.double().cpu().numpy()
        length = values.shape[1]
        check_length(length)
        if self.count == 0:
            self.shift, self.sum, self.outer = values.mean(0), np.zeros(length), np.zeros((length, length))
        if length != len(self.sum):
            raise ValueError(f"features of length {length} cannot be added to those of length {len(self.sum)}")
        values = values - self.shift
        self.count += len(values)
        self.sum += values.sum(0)
        self.outer += values.T @ values

    def __add__(self, other: "Moments") -> "Moments":
        """The moments of both sets together."""
        if not (self.count and other.count):
            return self if self.count else other
        both, moved = Moments(), other.shift - self.shift
        both.count, both.shift = self.count + other.count, self.shift
        both.sum = self.sum + other.sum + other.count * moved
        cross = np.outer(other.sum, moved)
        both.outer = self.outer + other.outer + cross + cross.T + other.count * np.outer(moved, moved)
        return both

    def fit(self) -> tuple[np.ndarray, np.ndarray]:
        """(mean [D], unbiased covariance [D, D]). Raises ValueError for fewer than two vectors."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 images, got {self.count}")
        mean = self.sum / self.count
        covariance = (self.outer - self.count * np.outer(mean, mean)) / (self.count - 1)
        return mean + self.shift, covariance


def check_length(length: int) -> None:
    """ValueError for features so long that their covariance would not be kept."""
    if length > MAX_FEATURES:
        raise ValueError(
            f"{length} features an image; the Frechet distance of pixels is for small images, of at most "
            f"{MAX_FEATURES} values each"
        )


def frechet_distance(first: Moments, second: Moments) -> float:
    """The distance above, at least 0. Raises ValueError where the features' lengths differ."""
    (mean1, cov1), (mean2, cov2) = first.fit(), second.fit()
    if mean1.shape != mean2.shape:
        raise ValueError(f"features of length {len(mean1)} cannot be compared with those of length {len(mean2)}")
    # The eigenvalues of C1 C2 are those of the symmetric C1^(1/2) C2 C1^(1/2), which are real and at least 0.
    root = _root(cov1)
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov2 @ root).clip(0)).sum()
    distance = ((mean1 - mean2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * cross
    return max(float(distance), 0.0)


def standard_error(features: Tensor, mean: np.ndarray, covariance: np.ndarray) -> float:
    """The error of the Frechet distance of `features` [N, D] to a Gaussian, as another N of their kind scatter it.

    The infinitesimal jackknife, to first order what a bootstrap of the features gives: the standard deviation over N of
    the distance's derivative in each one's weight, 2 (m1 - m2) . x + x^T (1 - T) x with x = f - m1, where
    T = C1^(-1/2) (C1^(1/2) C2 C1^(1/2))^(1/2) C1^(-1/2) is the optimal transport map. The scatter of the reference is
    not in it: two models are compared with the same one.
    """
    parts = features.cpu().split(ROWS)
    mean1, covariance1 = Moments(*parts).fit()
    root = _root(covariance1)
    inverse = np.linalg.pinv(root, rcond=1e-6, hermitian=True)
    transport = inverse @ _root(root @ covariance @ root) @ inverse

    def derivative(values: np.ndarray) -> np.ndarray:
        # Where C1 is 0 nothing varies, and x has no part.
        return 2 * values @ (mean1 - mean) + ((values - values @ transport) * values).sum(1)

    influence = np.concatenate([derivative(part.double().numpy() - mean1) for part in parts])
    return float(influence.std(ddof=1) / len(features) ** 0.5)


def _root(matrix: np.ndarray) -> np.ndarray:
    """The symmetric root of a symmetric matrix whose eigenvalues are at least 0, but for rounding."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T
