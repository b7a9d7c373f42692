"""What a report draws from the model: the nearest observations of its samples, and paths between latents."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rsd_fast.config import Distill
from rsd_fast.data import ObservedDataset
from rsd_fast.evaluation.observed import observe_as
from rsd_fast.generator import latents
from rsd_fast.methods.distill import generate
from rsd_fast.sampler import Sampler

SHOWN, NEAREST = 8, 3  # samples of which the nearest observations are shown, and how many of them
SAMPLES, MOST_OBSERVATIONS, MOST_VALUES = 512, 20_000, 2**27  # compared with each other; values in all of them
ENOUGH = 100  # samples; of fewer, a single one would look like a sign
QUERIES = 1024  # observations whose own nearest one is looked for
COST = 1e12  # parameters x pixels x evaluations x samples: some 10 s on a core; fewer samples where it would be more
ROWS, COLUMNS = 4, 9  # of the paths


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Samples beside the observations nearest to them."""

    samples: Tensor  # [SHOWN, C, H, W]
    corrupted: Tensor  # [SHOWN, C, h, w], as the data was
    nearest: Tensor  # [SHOWN, NEAREST, C, h, w]
    ratios: list[float]  # [SHOWN]: the nearest one's distance, over the usual one between observations
    nearer_share: float  # of all samples, that are nearer than 1 % of the observations are to any other
    count: int  # samples
    compared: int  # observations

    @property
    def share(self) -> float | None:
        """nearer_share, where there are enough samples to speak of one per cent."""
        return self.nearer_share if self.count >= ENOUGH else None


def parameters_of(sampler: Sampler) -> int:
    return sum(parameter.numel() for parameter in sampler.denoiser.parameters())


def affordable(sampler: Sampler) -> int:
    """Samples to draw: fewer of a teacher and of a large network, but for a GPU."""
    if sampler.device.type == "cuda":
        return SAMPLES
    evaluations = 1 if sampler.one_step else 2 * sampler.how.steps - 1
    each = parameters_of(sampler) * math.prod(sampler.shape[1:]) * evaluations
    return min(SAMPLES, max(SHOWN, int(COST / each)))


@torch.no_grad()
def neighbours(sampler: Sampler, dataset: ObservedDataset, seed: int) -> Neighbours:
    """By Euclidean distance of observations, or of pictures of k-space.

    Samples are corrupted as the data was, noise included, so that one of the data's own law is as far from its nearest
    observation as an observation is from its nearest other one: without noise of their own they would all be nearer.
    """
    samples = torch.cat(list(sampler.batches(affordable(sampler), seed, 64)))
    corrupted = observe_as(dataset, sampler.config, seed)(samples, torch.arange(len(samples)))
    count = min(len(dataset), MOST_OBSERVATIONS, MOST_VALUES // math.prod(corrupted.shape[1:]))
    chosen = torch.arange(count) * len(dataset) // count
    pictures = torch.cat([dataset.pictures(part) for part in chosen.split(1024)])
    queries = torch.arange(min(QUERIES, count)) * count // min(QUERIES, count)
    own, _ = nearest(pictures[queries], pictures, min(2, count))
    usual = own[:, -1].numpy()  # the first is the image itself
    distances, index = nearest(corrupted, pictures, min(NEAREST, count))
    order = np.random.default_rng(seed).permutation(len(samples))[:SHOWN]
    return Neighbours(
        samples=samples[order],
        corrupted=corrupted[order],
        nearest=pictures[index[order]],
        ratios=(distances[order, 0] / float(np.median(usual))).tolist(),
        nearer_share=float((distances[:, 0].numpy() < np.percentile(usual, 1)).mean()),
        count=len(samples),
        compared=count,
    )


def nearest(queries: Tensor, images: Tensor, count: int, chunk: int = 2048) -> tuple[Tensor, Tensor]:
    """(distances [Q, count], nearest first, and numbers [Q, count] of the images)."""
    queries = queries.flatten(1).float()
    distances, index = [], []
    for first in range(0, len(images), chunk):
        part = torch.cdist(queries, images[first : first + chunk].flatten(1).float())
        closest = part.topk(min(count, part.shape[1]), largest=False)
        distances.append(closest.values)
        index.append(closest.indices + first)
    best = torch.cat(distances, 1).topk(count, largest=False)
    return best.values, torch.cat(index, 1).gather(1, best.indices)


@torch.no_grad()
def paths(sampler: Sampler, seed: int) -> Tensor:
    """[ROWS * COLUMNS, C, H, W]: images along great circles between pairs of latents, a pair a row."""
    assert isinstance(sampler.config, Distill)
    images = []
    for row in range(ROWS):
        ends = torch.tensor([2 * row, 2 * row + 1], device=sampler.device)
        z, labels = latents(sampler.shape, sampler.denoiser.label_dim, ends, seed)
        between = spherical(z[0], z[1], COLUMNS)
        view = sampler.view(ends[:1].expand(COLUMNS), seed)
        labels = None if labels is None else labels[:1].expand(COLUMNS, -1)
        images.append(generate(sampler.denoiser, between, sampler.config.distillation.sigma_init, labels, view).cpu())
    return torch.cat(images)


def spherical(a: Tensor, b: Tensor, count: int) -> Tensor:
    """[count, *a.shape], from a to b at even angles; latents in between are as long as latents are."""
    cosine = (a * b).sum() / (a.norm() * b.norm())
    angle = cosine.clamp(-1, 1).acos()
    t = torch.linspace(0, 1, count, device=a.device).reshape(-1, *[1] * a.ndim)
    return (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin()
