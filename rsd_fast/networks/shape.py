"""What the data decides of a network."""

from dataclasses import dataclass

from rsd_fast.config import Settings, setting


@dataclass(frozen=True, kw_only=True)
class Shape(Settings):
    """Sizes of a network's input and output. FieldError for one that is too small.

    image_size: height in pixels, for which the network is built and its levels are named. in_channels: with those of a
    condition, where there is one. label_dim: classes, 0 for none.
    """

    image_size: int = setting(at_least=1)
    in_channels: int = setting(at_least=1)
    out_channels: int = setting(at_least=1)
    label_dim: int = setting(0, at_least=0)
