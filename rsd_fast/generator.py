"""The one-step generator as a module: latents in, images out."""

import torch
from torch import Tensor, nn

from . import objectives, ops
from .config import Distill
from .corruptions import Corruption, Draw, View
from .errors import FieldError
from .methods.base import sampling_operator
from .methods.distill import generate
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
        self.corruption = sampling_operator(config, denoiser, corruption)

    def forward(self, latents: Tensor, labels: Tensor | None = None, view: View | None = None) -> Tensor:
        """latents [B, C, H, W], labels [B, label_dim] one-hot or None -> images [B, C, H, W], about [-1, 1].

        view: what a generator from masked images or k-space sees of its latents, by `view`; None: all.
        """
        return generate(self.denoiser, latents, self.sigma_init, labels, view)

    def view(self, index: Tensor, seed: int) -> View:
        """What it sees of the latents number `index` [B] of `seed`, as in training."""
        return self.objective.latent_view(self.corruption, self.image_shape, Key(seed, index))

    def view_of_mask(self, mask: Tensor) -> View:
        """The view that leaves of the latents what `View.kept` of `view` says."""
        return self.corruption.view(Draw(mask=mask), self.image_shape)

    @torch.no_grad()
    def sample(self, num: int, seed: int = 0, *, labels: Tensor | int | None = None, batch: int = 256) -> Tensor:
        """`num` images, float32 [num, C, H, W] clipped to [-1, 1]; image i is a function of (seed, i) and its class.

        labels: class indices, one for each image or one for all; a conditional generator draws them uniformly where
        they are None. batch: images a forward pass. Raises FieldError if num < 1 or labels do not fit.
        """
        if num < 1:
            raise FieldError("num", f"expected at least 1, got {num}")
        device = next(self.parameters()).device
        classes = checked_labels(labels, self.label_dim, num)
        images = []
        for first in range(0, num, batch):
            index = torch.arange(first, min(first + batch, num), device=device)
            own = None if classes is None else classes[first : first + batch].to(device)
            z, one_hot_labels = latents(self.image_shape, self.label_dim, index, seed, own)
            images.append(self(z, one_hot_labels, self.view(index, seed)).clamp(-1, 1))
        return torch.cat(images)


def latents(
    shape: tuple[int, int, int], label_dim: int, index: Tensor, seed: int, labels: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """(z [B, *shape] ~ N(0, I), one-hot labels [B, label_dim] or None) of the samples number `index` [B] of `seed`.

    labels: class indices [B] of these samples, unchecked; None: those that `drawn_labels` says.
    """
    z = ops.randn((len(index), *shape), seed, index, 0, ops.Stream.LATENT)
    classes = drawn_labels(label_dim, index, seed) if labels is None else labels
    return z, None if classes is None else one_hot(classes, label_dim)


def drawn_labels(label_dim: int, index: Tensor, seed: int) -> Tensor | None:
    """Class indices [B] of the samples number `index` [B] of `seed`, uniform; None for an unconditional network."""
    if not label_dim:
        return None
    return (ops.uniform((len(index),), seed, index, 0, ops.Stream.LABEL) * label_dim).long()


def checked_labels(labels: Tensor | int | None, label_dim: int, num: int) -> Tensor | None:
    """Class indices [num] int64 out of `labels`, which holds one for each of `num` samples or one for all.

    None stays None: no class is asked for. Raises FieldError for labels that the network does not have.
    """
    if labels is None:
        return None
    if not label_dim:
        raise FieldError("labels", "the network is not conditional on labels")
    classes = torch.as_tensor(labels)
    if classes.is_floating_point() or classes.ndim > 1:
        raise FieldError("labels", f"expected integers [{num}], got {classes.dtype} {list(classes.shape)}")
    if classes.ndim == 1 and len(classes) < num:
        raise FieldError("labels", f"expected one for each image, got {len(classes)}")
    classes = classes.long()[:num] if classes.ndim else classes.long().expand(num)
    least, greatest = int(classes.min()), int(classes.max())
    if least < 0 or greatest >= label_dim:
        raise FieldError("labels", f"expected 0 to {label_dim - 1}, got {least} to {greatest}")
    return classes
