"""Networks F, and the denoisers D(x, sigma) made of them."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from rsd_fast.config import ARCHITECTURES, Network, UNet
from rsd_fast.errors import FieldError

from .hidden import HIDDEN, Hidden
from .precond import (
    BANKS,
    PRECONDITIONINGS,
    Denoiser,
    cast_weights,
    compile_network,
    place,
    set_checkpointing,
    set_precision,
)
from .shape import Shape

__all__ = [
    "ARCHITECTURES",
    "BANKS",
    "HIDDEN",
    "PRECONDITIONINGS",
    "Denoiser",
    "Hidden",
    "Shape",
    "build",
    "cast_weights",
    "compile_network",
    "create",
    "names",
    "one_hot",
    "place",
    "set_checkpointing",
    "set_precision",
]


def names() -> list[str]:
    return list(ARCHITECTURES)


def create(
    name: str,
    *,
    image_size: int = 32,
    in_channels: int = 3,
    out_channels: int = 3,
    condition_channels: int = 0,
    hidden: str = "pixels",
    **settings: Any,
) -> Denoiser:
    """A denoiser of the named architecture with fresh weights (torch's global generator).

    name: one of `ARCHITECTURES`. image_size: height in pixels the levels are named for. condition_channels: further
    inputs, which say what of a masked image was observed; hidden: what may be missing, "pixels", "columns" of k-space,
    "all" of k-space where the two cannot be told apart, or "sigma" for published networks of masked images, which have
    as many further outputs (see `Denoiser`).

    settings: label_dim, the number of classes, 0 for none; the fields of the architecture's settings, of U-Nets
    `config.UNet`: model_channels=128, channel_mult=(2, 2, 2), num_blocks=4, augment_dim=0 (length of the augmentation
    labels, 0 for none), dropout=0.0, label_dropout=0.0 (share of labels withheld in training), gated=False (gated
    convolutions, as in ambient diffusion's inpainting networks), preconditioning="edm" ("vp" or "ve" for weights that
    were trained with those), sigma_data=0.5 (standard deviation of the clean images); and attn_resolutions=(16,),
    heights with attention at image_size, which are stored by level.

    Raises FieldError on an unknown name or setting, or settings that do not fit together.
    """
    shape = Shape(
        image_size=image_size,
        in_channels=in_channels,
        out_channels=out_channels,
        label_dim=settings.pop("label_dim", 0),
    )
    kind = ARCHITECTURES[name].settings
    if issubclass(kind, UNet) and "attn_levels" not in settings:
        settings = {"attn_resolutions": (16,), **settings}
    network = kind.from_options({"architecture": name, **settings}, image_size)
    return build(network, shape, condition_channels=condition_channels, hidden=hidden)


def build(network: Network, shape: Shape, *, condition_channels: int = 0, hidden: str = "pixels") -> Denoiser:
    """A denoiser with fresh weights of an architecture's settings, for images of a shape. The rest as `create`."""
    problem = network.why_not((shape.in_channels, shape.image_size, shape.image_size))
    if problem is not None:
        raise FieldError("image_size", problem)
    further_outputs = condition_channels if HIDDEN[hidden].predicts_condition else 0
    inside = dataclasses.replace(
        shape, in_channels=shape.in_channels + condition_channels, out_channels=shape.out_channels + further_outputs
    )
    return Denoiser(
        ARCHITECTURES[network.architecture].load()(network, inside),
        sigma_data=network.sigma_data,
        label_dim=shape.label_dim,
        condition_channels=condition_channels,
        hidden=hidden,
        preconditioning=network.preconditioning,
    )


def one_hot(labels: Tensor, label_dim: int) -> Tensor | None:
    """Class indices [B] as float32 [B, label_dim]; None where label_dim is 0. An index of -1 becomes zeros."""
    if label_dim == 0:
        return None
    classes = torch.arange(label_dim, device=labels.device)
    return (labels[:, None] == classes).float()
