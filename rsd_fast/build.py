"""Networks with fresh weights, of the shapes and settings of a run."""

import torch

from . import corruptions, networks, objectives
from .config import Network, RunConfig
from .corruptions import Corruption
from .networks import Denoiser


def build_denoiser(config: RunConfig, corruption: Corruption | None = None) -> Denoiser:
    """A network with fresh weights, of the shapes and settings of a run. Raises ValueError on what does not fit.

    corruption: the operator of the run, where its SPEC does not say all.
    """
    observations = config.observations
    channels, conditional = observations.image_shape[0], objectives.create(config.objective).conditional
    _, height, width = observations.observation_shape
    levels = len(config.network.channel_mult)
    if height % 2 ** (levels - 1) or width % 2 ** (levels - 1):
        raise ValueError(
            f"{observations.data}: {height}x{width} images do not divide by {2 ** (levels - 1)}, as a network of "
            f"{levels} levels needs; pad or crop them, or give channel_mult fewer entries"
        )
    hidden = "pixels"
    if conditional and config.network.hidden_noise == "sigma":
        hidden = "sigma"
    elif conditional:
        with torch.device("cpu"):  # where a network is built on another, the operator's kernel need not be there
            hidden = (corruption or corruptions.parse(observations.corruption)).hidden
    return build_network(
        config.network,
        (channels, height, width),
        label_dim=observations.label_dim,
        condition_channels=channels if conditional else 0,
        hidden=hidden,
    )


def build_network(
    network: Network,
    image_shape: tuple[int, int, int],
    *,
    label_dim: int = 0,
    condition_channels: int = 0,
    hidden: str = "pixels",
) -> Denoiser:
    """A network with fresh weights for images [C, H, W], of a config's settings, or of a preset's:
    `build_network(Network(**presets.load("edm-cifar10").network), (3, 32, 32))`. The rest as `networks.create`."""
    channels, height, _ = image_shape
    levels = len(network.channel_mult)
    if max(network.attn_levels, default=0) >= levels or min(network.attn_levels, default=0) < 0:
        raise ValueError(f"attn_levels: {list(network.attn_levels)} are not among the {levels} levels")
    return networks.create(
        network.architecture,
        image_size=height,
        in_channels=channels,
        out_channels=channels,
        model_channels=network.model_channels,
        channel_mult=network.channel_mult,
        num_blocks=network.num_blocks,
        attn_resolutions=tuple(height >> level for level in network.attn_levels),
        label_dim=label_dim,
        augment_dim=network.augment_dim,
        dropout=network.dropout,
        sigma_data=network.sigma_data,
        label_dropout=network.label_dropout,
        gated=network.gated,
        preconditioning=network.preconditioning,
        condition_channels=condition_channels,
        hidden=hidden,
    )
