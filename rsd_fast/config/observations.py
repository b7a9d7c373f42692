"""Settings of the data."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsd_fast.errors import FieldError

from .setting import Setting, Settings, setting

MOST_CLASSES, MOST_PIXELS = 2**20, 2**14  # far beyond any use
MOVES = ("hflip", "vflip", "transpose")  # moves of the image plane; the last swaps height and width
AUGMENTATIONS: dict[str, tuple[str, ...]] = {"none": (), "hflip": MOVES[:1], "flips": MOVES[:2], "all": MOVES}


@dataclass(frozen=True, kw_only=True)
class Observations(Settings):
    """What the observations are, and how they came about: y = A(x) + sigma_obs eps."""

    data: str = setting(type=str | Path, metavar="SRC", help="Source of images: {sources}.")
    # The source holds clean images, each corrupted once as a function of (seed, index).
    simulate: bool = setting(help="SRC holds clean images: corrupt each once.", default_text="no")
    corruption: str = setting(
        metavar="SPEC", help="How the observations came about, A: {operators}.", default_text="identity"
    )
    # The noise of an image, or the greatest where the images differ: between sigma_obs_min and this.
    sigma_obs: float = setting(
        at_least=0,
        takes=Setting(
            type=float | tuple[float, float] | str,
            at_least=0,
            choices=("data", "estimate"),
            metavar="S",
            help="Standard deviation of the observations' noise, images in [-1, 1]; 0 for none; LEAST:GREATEST where "
            "it differs from image to image; data: `sigma_obs` of an npz says; estimate: from the observations.",
        ),
    )
    sigma_obs_min: float | None = setting(None, at_least=0, derived=True)
    clean_share: float = setting(0.0, at_least=0, below=1, metavar="P", help="Share of the images that hold no noise.")
    # The source says for each image; the two above are the least and the greatest.
    sigma_obs_in_data: bool = setting(False, derived=True)
    seed: int = setting(at_least=0, below=2**64)
    num_images: int = setting(at_least=0, derived=True)
    image_shape: tuple[int, int, int] = setting(  # the shape of x
        at_least=1, at_most=MOST_PIXELS, type_text="C, H and W", derived=True
    )
    observation_shape: tuple[int, int, int] = setting(  # the shape of y
        at_least=1, at_most=MOST_PIXELS, type_text="C, H and W", derived=True
    )
    # The number of classes; 0 where the data has no labels or they are not used.
    label_dim: int = setting(
        0,
        at_least=0,
        at_most=MOST_CLASSES,
        takes=Setting(name="cond", type=bool, help="Condition on the data's labels.", default_text="no"),
    )
    # Symmetries of A by which observations are moved.
    augment: tuple[str, ...] = setting(
        (),
        choices=MOVES,
        takes=Setting(
            type=str,
            choices=AUGMENTATIONS,
            help="Move observations and masks: mirrored left to right, in both directions, or with quarter turns, "
            "too; where A and the image's shape permit.",
            default_text="none",
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma_obs_min is not None and self.sigma_obs_min > self.sigma_obs:
            problem = f"expected 0 <= least <= greatest, got {self.sigma_obs_min}:{self.sigma_obs}"
            raise FieldError("sigma_obs", problem)

    @property
    def clean(self) -> bool:
        """Are they the images themselves?"""
        return self.corruption == "identity" and self.sigma_obs == 0

    @property
    def sigma_least(self) -> float:
        """The least noise level of an observation: from there on a teacher is trained, below it is not."""
        if self.clean_share:
            return 0.0
        return self.sigma_obs if self.sigma_obs_min is None else self.sigma_obs_min

    @classmethod
    def as_options(cls, values: Mapping[str, Any], height: int | None = None) -> dict[str, Any]:
        rest = dict(values)
        by_option: dict[str, Any] = {}
        level, least = rest.pop("sigma_obs", None), rest.get("sigma_obs_min")
        if rest.get("sigma_obs_in_data"):
            level = "data"
        elif level is not None and least is not None:
            level = (least, level)
        elif least is not None:
            raise FieldError("sigma_obs_min", "is the least level of images whose greatest, sigma_obs, is not given")
        if level is not None:
            by_option["sigma_obs"] = level
        if "label_dim" in rest:
            by_option["cond"] = rest.pop("label_dim") > 0
        if "augment" in rest:
            moves = rest.pop("augment")
            words = [word for word, meant in AUGMENTATIONS.items() if set(meant) == set(moves)]
            if not words:
                known = ", ".join(str(list(meant)) for meant in AUGMENTATIONS.values())
                raise FieldError("augment", f"expected one of {known}, got {list(moves)}")
            by_option["augment"] = words[0]
        if "seed" in rest:
            by_option["seed"] = rest.pop("seed")
        return {**super().as_options(rest, height), **by_option}
