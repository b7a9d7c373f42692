"""Networks with fresh weights, of the shapes and settings of a run."""

import torch

from . import corruptions, networks
from .config import Network, RunConfig
from .corruptions import Corruption
from .networks import Denoiser, Shape


def build_denoiser(config: RunConfig, corruption: Corruption | None = None) -> Denoiser:
    """A network with fresh weights, of the shapes and settings of a run. Raises ValueError on what does not fit.

    corruption: the operator of the run, where its SPEC does not say all.
    """
    observations = config.observations
    channels, conditional = observations.image_shape[0], config.objective.conditional
    _, height, width = observations.observation_shape
    problem = config.network.why_not((channels, height, width))
    if problem is not None:
        raise ValueError(f"{observations.data}: {problem}")
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
    `build_network(choose_network(presets.load("edm-cifar10").network, {}, 32), (3, 32, 32))`. The rest as
    `networks.create`."""
    channels, height, _ = image_shape
    shape = Shape(image_size=height, in_channels=channels, out_channels=channels, label_dim=label_dim)
    return networks.build(network, shape, condition_channels=condition_channels, hidden=hidden)
