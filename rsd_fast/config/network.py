"""Settings of a network. Each architecture has its own: `ARCHITECTURES` says which, and where its module is."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rsd_fast.errors import FieldError, nearest
from rsd_fast.registry import Registry

from .setting import Setting, Settings, options_of, setting, types_of

HIDDEN_NOISE = ("infinite", "sigma")
PRECONDITIONINGS = ("edm", "vp", "ve")  # `networks.PRECONDITIONINGS` holds what they are
MOST_BLOCKS, MOST_CHANNELS = 256, 2**15  # far beyond any use


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """An architecture that --architecture names.

    about: its name in words. settings: the class of its settings. network: "module:class" of the torch module, which is
    imported only where one is built, so that settings are read, and options listed, without torch. The class is called
    with the settings and a `networks.Shape`, and its modules with (x, c_noise, labels, augment_labels).
    """

    about: str
    settings: "type[Network]"
    network: str

    def load(self) -> Callable[..., Any]:
        """The class of the torch module."""
        module, _, name = self.network.partition(":")
        return getattr(importlib.import_module(module), name)


ARCHITECTURES: Registry[Architecture] = Registry("architecture", "network")


@dataclass(frozen=True, kw_only=True)
class Named(Settings):
    """The name of an architecture, which stands first in config.json."""

    architecture: str = setting("ddpmpp", choices=ARCHITECTURES, help="Network.")


@dataclass(frozen=True, kw_only=True)
class Network(Named):
    """What the settings of every architecture hold: how the denoiser is made of the network."""

    hidden_noise: str = setting(
        "infinite",
        choices=HIDDEN_NOISE,
        help="ambient, fourier: the noise level that hidden pixels count as in preconditioning and loss; sigma is "
        "ambient diffusion's own, with outputs for the mask, too.",
    )
    preconditioning: str = setting("edm", choices=PRECONDITIONINGS)  # "vp" and "ve" for weights trained with those
    sigma_data: float = setting(0.5, more_than=0, help="Standard deviation of clean images.")

    def __post_init__(self) -> None:
        super().__post_init__()
        expected = ARCHITECTURES[self.architecture].settings
        if type(self) is not expected:
            raise FieldError(
                "architecture", f"'{self.architecture}' has the settings {expected.__name__}, not {type(self).__name__}"
            )

    @classmethod
    def variants(cls) -> tuple[type[Settings], ...]:
        if cls is not Network:
            return (cls,)
        return tuple(dict.fromkeys(architecture.settings for architecture in ARCHITECTURES.values()))

    @classmethod
    def variant(cls, values: Mapping[str, Any]) -> "type[Network]":
        """The settings of the architecture that the values name."""
        name = values.get("architecture", Named.architecture)
        if not isinstance(name, str):
            raise FieldError("architecture", f"expected str, got {name!r}")
        return ARCHITECTURES[name].settings

    @classmethod
    def from_options(cls, values: Mapping[str, Any], height: int) -> "Network":
        """The settings of values by option or by field, for images of a height in pixels.

        FieldError for a name that is neither.
        """
        known = [*types_of(cls), *(option.name for option in options_of(cls))]
        for name in values:
            if name not in known:
                architecture = values.get("architecture", cls.architecture)
                raise FieldError(name, f"network '{architecture}' has no such setting{nearest(name, known)}")
        return cls(**values)

    def describe(self) -> str:
        """In words, of the size that tells it from others."""
        return self.architecture

    def why_not(self, image_shape: tuple[int, int, int]) -> str | None:
        """Why no network of these settings can be had for images [C, H, W], or None where one can."""
        return None

    def without_dropout(self) -> "Network":
        """For training in which nothing is dropped, neither features nor labels."""
        return self

    def augmented(self, augment_dim: int) -> "Network":
        """With inputs for augmentation labels of a length, 0 for none. FieldError where it can have none."""
        if augment_dim:
            raise FieldError("augment_probability", f"network '{self.architecture}' cannot be told of augmentations")
        return self


@dataclass(frozen=True, kw_only=True)
class UNetSize(Named):
    """What only U-Nets have; their attention is by level (0 is the full resolution), so that it fits any size."""

    model_channels: int = setting(128, at_least=1, metavar="N", help="Channels of the first level.")
    channel_mult: tuple[int, ...] = setting(
        (2, 2, 2), at_least=1, metavar="N,..", help="Multiples of them, one a level."
    )
    num_blocks: int = setting(4, at_least=1, metavar="N", help="Residual blocks a level.")
    attn_levels: tuple[int, ...] = setting(
        (1,),
        at_least=0,
        takes=Setting(
            name="attn_resolutions",
            type=tuple[int, ...],
            at_least=1,
            metavar="N,..",
            help="Heights with self-attention in pixels, or none.",
        ),
    )
    augment_dim: int = setting(0, at_least=0, derived=True)
    dropout: float = setting(0.0, at_least=0, below=1, help="Share of features dropped in training.")
    label_dropout: float = setting(0.0, at_least=0, below=1, help="Share of labels withheld in training.")
    gated: bool = setting(False, help="Gated convolutions.")


@dataclass(frozen=True, kw_only=True)
class UNet(Network, UNetSize):
    """Settings of the published U-Nets. In config.json the fields of `UNetSize` stand before those of every network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.channel_mult:
            raise FieldError("channel_mult", "expected a number for each level, got none")
        if self.model_channels % 4:
            raise FieldError("model_channels", f"expected a multiple of 4, got {self.model_channels}")
        # So that a file of a few bytes cannot ask for a network that takes all memory and time to describe.
        if self.levels * self.num_blocks > MOST_BLOCKS:
            problem = f"at most {MOST_BLOCKS} blocks in all levels, got {self.num_blocks} in each"
            raise FieldError("num_blocks", problem)
        widest = self.model_channels * max(self.channel_mult)
        if widest > MOST_CHANNELS:
            raise FieldError("model_channels", f"at most {MOST_CHANNELS} in a level, got {widest}")
        if self.augment_dim > MOST_CHANNELS:
            raise FieldError("augment_dim", f"at most {MOST_CHANNELS}, got {self.augment_dim}")
        if max(self.attn_levels, default=0) >= self.levels:
            raise FieldError("attn_levels", f"{list(self.attn_levels)} are not among the {self.levels} levels")

    @property
    def levels(self) -> int:
        return len(self.channel_mult)

    @property
    def stride(self) -> int:
        """Pixels of the image along a side of the last level's pixel."""
        return 2 ** (self.levels - 1)

    @classmethod
    def from_options(cls, values: Mapping[str, Any], height: int) -> "UNet":
        fields = dict(values)
        resolutions = fields.pop("attn_resolutions", None)
        if resolutions is not None:
            fields["attn_levels"] = ()
        unet = super().from_options(fields, height)
        assert isinstance(unet, UNet)
        if resolutions is None:
            return unet
        problem = unet.why_not((1, height, height))
        if problem is not None:
            raise FieldError("image_size", problem)
        heights = [height >> level for level in range(unet.levels)]
        unknown = sorted(set(resolutions) - set(heights))
        if unknown:
            raise FieldError("attn_resolutions", f"{unknown} are not among the levels' heights {heights}")
        return dataclasses.replace(unet, attn_levels=tuple(heights.index(resolution) for resolution in resolutions))

    @classmethod
    def as_options(cls, values: Mapping[str, Any], height: int | None = None) -> dict[str, Any]:
        fields = dict(values)
        levels = fields.pop("attn_levels", None)
        by_option = super().as_options(fields, height)
        if levels is None:
            return by_option
        if height is None:
            raise FieldError("attn_levels", "says levels; say attn_resolutions, in pixels, where no data is described")
        return {**by_option, "attn_resolutions": tuple(height >> level for level in levels)}

    def attn_resolutions(self, height: int) -> tuple[int, ...]:
        """The heights with self-attention of images of a height, in pixels."""
        return tuple(height >> level for level in self.attn_levels)

    def describe(self) -> str:
        return f"{self.architecture}, {self.model_channels} channels x ({', '.join(map(str, self.channel_mult))})"

    def why_not(self, image_shape: tuple[int, int, int]) -> str | None:
        _, height, width = image_shape
        if height % self.stride or width % self.stride:
            return (
                f"{height}x{width} images do not divide by {self.stride}, as a network of {self.levels} levels needs; "
                "pad or crop them, or give channel_mult fewer entries"
            )
        return None

    def without_dropout(self) -> "UNet":
        return dataclasses.replace(self, dropout=0.0, label_dropout=0.0)

    def augmented(self, augment_dim: int) -> "UNet":
        return dataclasses.replace(self, augment_dim=augment_dim)


UNETS = "rsd_fast.networks.unet"
ARCHITECTURES.add("ddpmpp", Architecture(about="DDPM++", settings=UNet, network=f"{UNETS}:SongUNet"))
ARCHITECTURES.add("ncsnpp", Architecture(about="NCSN++", settings=UNet, network=f"{UNETS}:NCSNpp"))
ARCHITECTURES.add("adm", Architecture(about="ADM", settings=UNet, network=f"{UNETS}:DhariwalUNet"))


def choose_network(preset: Mapping[str, Any], options: Mapping[str, Any], height: int) -> Network:
    """The settings of options for images of a height in pixels, over those of a preset, by field.

    Options that are None count as not given. Of a preset for another architecture only what this one has, too, is used.
    FieldError for an option that the architecture does not have.
    """
    names = {option.name for option in options_of(Network)}
    chosen = {name: value for name, value in options.items() if name in names and value is not None}
    kind = Network.variant({**preset, **chosen})
    shared = {name: value for name, value in preset.items() if name in types_of(kind)}
    return kind.from_options({**shared, **chosen}, height)
