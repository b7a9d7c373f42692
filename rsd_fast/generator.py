"""The one-step generator as a module: latents in, images out."""

import torch
from torch import Tensor, nn

from . import objectives, ops
from .config import Distill
from .corruptions import Corruption, Draw, Identity, View
from .methods.base import corruption_of
from .methods.distill import WHOLE, generate
from .networks import Denoiser, one_hot
from .ops import Key


class Generator(nn.Module):
    """A one-step generator: images = D(sigma_init z, sigma_init) of latents z ~ N(0, I).

    image_shape is [C, H, W]; label_dim the number of classes, 0 for none; config the run's. corruption: the operator of
    the run, where its SPEC does not say all.
    """

    def __init__(self, denoiser: Denoiser, config: Distill, corruption: Corruption | None = None):
        super().__init__()
        self.denoiser = denoiser
        self.config = config
        self.sigma_init = config.distillation.sigma_init
        self.image_shape = config.observations.image_shape
        self.label_dim = denoiser.label_dim
        self.objective = objectives.create(config.objective)
        self.corruption: Corruption = Identity()  # a generator that sees all of its latents needs no other
        if self.config.objective.conditional:
            self.corruption = corruption_of(config.observations, denoiser, corruption)

    def forward(self, latents: Tensor, labels: Tensor | None = None, view: View = WHOLE) -> Tensor:
        """latents [B, C, H, W], labels [B, label_dim] one-hot or None -> images [B, C, H, W], about [-1, 1].

        view: what a generator from masked images or k-space sees of its latents, by `view`; by default all.
        """
        return generate(self.denoiser, latents, self.sigma_init, labels, view)

    def view(self, index: Tensor, seed: int) -> View:
        """What it sees of the latents number `index` [B] of `seed`, as in training."""
        return self.objective.latent_view(self.corruption, self.image_shape, Key(seed, index))

    def view_of_mask(self, mask: Tensor) -> View:
        """The view that leaves of the latents what `View.kept` of `view` says."""
        return self.corruption.view(Draw(mask=mask), self.image_shape)

    @torch.no_grad()
    def sample(self, num: int, seed: int = 0, *, labels: Tensor | None = None, batch: int = 256) -> Tensor:
        """`num` images, float32 [num, C, H, W] clipped to [-1, 1]; image i is a function of (seed, i) alone.

        labels: [num] class indices; a conditional generator draws them uniformly where they are not given.
        batch: images a forward pass. Raises ValueError if num < 1 or labels do not fit.
        """
        if num < 1:
            raise ValueError(f"num: expected at least 1, got {num}")
        device = next(self.parameters()).device
        images = []
        for first in range(0, num, batch):
            index = torch.arange(first, min(first + batch, num), device=device)
            z, one_hot_labels = latents(self.image_shape, self.label_dim, index, seed, labels)
            images.append(self(z, one_hot_labels, self.view(index, seed)).clamp(-1, 1))
        return torch.cat(images)


def latents(
    shape: tuple[int, int, int], label_dim: int, index: Tensor, seed: int, labels: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """(z [B, *shape] ~ N(0, I), one-hot labels [B, label_dim] or None) of the samples number `index` [B] of `seed`.

    labels: class indices by sample number; where they are not given, uniform over the classes.
    """
    z = ops.randn((len(index), *shape), seed, index, 0, ops.Stream.LATENT)
    if not label_dim:
        if labels is not None:
            raise ValueError("labels: the network is not conditional on labels")
        return z, None
    if labels is None:
        classes = (ops.uniform((len(index),), seed, index, 0, ops.Stream.LABEL) * label_dim).long()
    else:
        if len(labels) <= int(index.max()):
            raise ValueError(f"labels: expected one for each image, got {len(labels)}")
        classes = labels.to(index.device)[index]
        if int(classes.min()) < 0 or int(classes.max()) >= label_dim:
            raise ValueError(f"labels: expected 0 to {label_dim - 1}, got {int(classes.min())} to {int(classes.max())}")
    return z, one_hot(classes, label_dim)
