"""Networks F, and the denoisers D(x, sigma) made of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .hidden import HIDDEN, Hidden
from .precond import BANKS, PRECONDITIONINGS, Denoiser, cast_weights, compile_network, place, set_precision
from .unet import DhariwalUNet, NCSNpp, SongUNet, UNet

__all__ = [
    "ARCHITECTURES",
    "BANKS",
    "HIDDEN",
    "PRECONDITIONINGS",
    "Denoiser",
    "Hidden",
    "cast_weights",
    "compile_network",
    "create",
    "names",
    "one_hot",
    "place",
    "set_precision",
]

ARCHITECTURES: dict[str, type[UNet]] = {"ddpmpp": SongUNet, "ncsnpp": NCSNpp, "adm": DhariwalUNet}


def names() -> list[str]:
    return list(ARCHITECTURES)


def create(
    name: str,
    *,
    image_size: int = 32,
    in_channels: int = 3,
    out_channels: int = 3,
    model_channels: int = 128,
    channel_mult: Sequence[int] = (2, 2, 2),
    num_blocks: int = 4,
    attn_resolutions: Sequence[int] = (16,),
    label_dim: int = 0,
    augment_dim: int = 0,
    dropout: float = 0.0,
    sigma_data: float = 0.5,
    label_dropout: float = 0.0,
    gated: bool = False,
    preconditioning: str = "edm",
    condition_channels: int = 0,
    hidden: str = "pixels",
) -> Denoiser:
    """A denoiser of the named architecture with fresh weights (torch's global generator).

    name: "ddpmpp", "ncsnpp" or "adm". image_size: height in pixels the levels are named for. attn_resolutions: those of
    image_size, stored by level. label_dim: classes, 0 for none; label_dropout: share of labels withheld in training.
    augment_dim: length of the augmentation labels, 0 for none. sigma_data: standard deviation of the clean images.
    gated: gated convolutions, as in ambient diffusion's inpainting networks. preconditioning: "edm", or "vp" or "ve"
    for weights that were trained with those. condition_channels: further inputs, which say what of a masked image was
    observed; hidden: what may be missing, a name of `HIDDEN`: "pixels", "columns" of k-space, "all" where what is seen
    and what is not cannot be told apart, or "sigma" for published networks of masked images, which have as many further
    outputs.
    Raises ValueError on an unknown name or settings that do not fit together.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown network '{name}'; known: {', '.join(names())}")
    if not 0 < sigma_data < float("inf"):
        raise ValueError(f"sigma_data: expected more than 0, got {sigma_data}")
    model = ARCHITECTURES[name](
        image_size=image_size,
        in_channels=in_channels + condition_channels,
        out_channels=out_channels + (condition_channels if HIDDEN[hidden].predicts_condition else 0),
        model_channels=model_channels,
        channel_mult=channel_mult,
        num_blocks=num_blocks,
        attn_resolutions=attn_resolutions,
        label_dim=label_dim,
        augment_dim=augment_dim,
        dropout=dropout,
        label_dropout=label_dropout,
        gated=gated,
    )
    return Denoiser(
        model,
        sigma_data=sigma_data,
        label_dim=label_dim,
        condition_channels=condition_channels,
        hidden=hidden,
        preconditioning=preconditioning,
    )


def one_hot(labels: Tensor, label_dim: int) -> Tensor | None:
    """Class indices [B] as float32 [B, label_dim]; None where label_dim is 0. An index of -1 becomes zeros."""
    if label_dim == 0:
        return None
    classes = torch.arange(label_dim, device=labels.device)
    return (labels[:, None] == classes).float()
