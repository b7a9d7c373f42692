"""What a corruption operator is, and how its SPEC string is read.

    y = A(x) + sigma_obs eps

An operator knows only A; `observe` adds the noise. Operators register under their SPEC name.
"""

import contextlib
import contextvars
import copy
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import NoReturn, TypeVar

import numpy as np
from torch import Tensor

from rsd_fast import ops
from rsd_fast.errors import nearest
from rsd_fast.ops import Key

from .batch import BatchOperator, DrawnOperator, image_shape_of
from .parameters import Bank, Draw, Measured
from .view import View

LATENT_SEED = 0x9E3779B97F4A7C15  # is added to the seed of latents
HFLIP, VFLIP, TRANSPOSE = "hflip", "vflip", "transpose"  # moves of the image plane; the last swaps height and width
ALL_SYMMETRIES = frozenset({HFLIP, VFLIP, TRANSPOSE})


class Corruption:
    """A linear operator A, the same for every image or drawn for each as a function of (seed, index).

    Subclasses take their parameters as keyword arguments of __init__ (int, float, bool or str), validate them there
    (ValueError), set `spec` to the SPEC string with every parameter, and define `forward` and `adjoint`. What else is
    asked of an operator, it answers by the attributes and methods below: nobody asks for its class.
    """

    name: str  # set by `register`
    spec: str
    about = ""  # what it does, in a line of help, report and docs
    example = ""  # a SPEC to copy, with the parameters that matter; by default the name
    random = False  # is A drawn for each image?
    operator: ops.Operator | None = None  # A as the fused kernels know it, where they do; the same as `forward`
    symmetries: frozenset[str] = frozenset()  # those of the image plane that turn A into itself, or into another draw
    objective: str | None = None  # the teacher's objective that its observations ask for; None: one of whole images
    measures_kspace = False  # are its observations k-space, rather than images?
    further_hides_by_share = True  # does `further` hide each part with probability delta?
    bank: Bank | None = None  # the draws that came with the data
    parts: tuple["Corruption", ...] = ()  # the operators it is made of

    @property
    def is_projection(self) -> bool:
        """Is A* A an orthogonal projection, which tells what is seen of an image from what is not?"""
        return False

    @property
    def hidden(self) -> str:
        """What a denoiser may not see of an image, a name of `networks.HIDDEN`: parts of k-space can be told from what
        is seen where A* A is a projection."""
        if self.objective == "ambient":
            return "pixels"
        return "columns" if self.measures_kspace and self.is_projection else "all"

    def refuse_hiding(self) -> NoReturn:
        """TypeError for an operator of which nothing can be hidden."""
        raise TypeError(
            f"corruption '{self}' has no draws, so that nothing of it can be hidden from a denoiser; derive it from "
            "DrawnCorruption"
        )

    def forward(self, x: Tensor, *, index: Tensor | None = None, seed: int = 0) -> Tensor:
        """A x: [B, C, H, W] -> [B, *observation_shape]; index [B] identifies the images. Differentiable in x."""
        raise NotImplementedError  # pragma: no cover

    def adjoint(self, y: Tensor, *, index: Tensor | None = None, seed: int = 0) -> Tensor:
        """A* y: [B, *observation_shape] -> [B, C, H, W], with <A x, y> = <x, A* y>."""
        raise NotImplementedError  # pragma: no cover

    def observation_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Shape [C, H, W] of the observation of one image of image_shape. ValueError where A cannot act on it."""
        return image_shape

    def image_shape(self, observation_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The inverse of `observation_shape`."""
        return observation_shape

    def picture(self, y: Tensor, draw: Draw | None) -> Tensor:
        """Observations as images [B, C, H, W] to look at and to compute features of."""
        return y

    def batch(
        self,
        image_shape: tuple[int, int, int],
        index: Tensor,
        seed: int,
        rows: Mapping[str, Tensor] | None = None,
    ) -> BatchOperator:
        """A for images of image_shape, number index [B]: a pure function of (seed, index). rows: as for `Bank.draw`."""
        return BatchOperator(self, image_shape, index, seed)

    def drawn(self, draw: Draw, image_shape: tuple[int, int, int], index: Tensor, seed: int) -> BatchOperator:
        """The operator of a batch, as `batch` makes it, where its draw is at hand."""
        return self.batch(image_shape, index, seed)

    def latent_view(self, image_shape: tuple[int, int, int], key: Key, delta: float) -> View:
        """What a generator sees of its latents: as much as a teacher sees of images in training."""
        self.refuse_hiding()

    def view(self, draw: Draw, image_shape: tuple[int, int, int]) -> View:
        """What a denoiser of images [C, H, W] sees through a draw. Its `kept` is the mask of the draw."""
        self.refuse_hiding()

    def bound_to(self, measured: Measured) -> "Corruption":
        """The operator with the masks and maps that came with data. ValueError where the data are none of its kind."""
        if measured.kspace_coils is not None:
            raise ValueError(f"k-space is complex data, and '{self}' acts on real images; use fourier")
        if measured.mask is not None:
            raise ValueError(f"has masks, but '{self}' has none; use random_mask or box_mask")
        return self

    def bound(self, bank: Bank) -> "Corruption":
        """A copy whose draws are those of the bank. ValueError where they are no draws of this operator."""
        raise ValueError(f"corruption '{self.name}' has neither masks nor maps")

    def pooled(self) -> "Corruption":
        """A copy that takes the draws of its bank at random, whatever the number of images."""
        return self

    def why_unlearnable(self, image_shape: tuple[int, int, int], sigma_obs: float) -> str | None:
        """Why nothing shows what its observations of images of image_shape lack; None where something does."""
        return None

    def same_as(self, other: "Corruption") -> bool:
        """Is it the operator that `other` says, but for what only the data know?"""
        return self.spec == other.spec

    @classmethod
    def from_arguments(cls, arguments: str) -> "Corruption":
        """The operator of what follows `name:` in a SPEC, key=value,key=value. Raises ValueError."""
        parameters = inspect.signature(cls, eval_str=True).parameters
        values = {}
        for item in filter(None, (part.strip() for part in arguments.split(","))):
            key, equals, text = item.partition("=")
            if key not in parameters:
                known = ", ".join(parameters) or "none, it takes no keys"
                raise ValueError(
                    f"corruption '{cls.name}': unknown key '{key}'; known: {known}{nearest(key, parameters)}"
                )
            if not equals or key in values:
                raise ValueError(f"corruption '{cls.name}': expected key=value once for each key, got '{item}'")
            values[key] = _convert(cls.name, key, text, parameters[key].annotation)
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"corruption '{cls.name}': {error}") from None

    def __repr__(self) -> str:
        return self.spec


class DrawnCorruption(Corruption):
    """An operator that is given by a `Draw`, made for each image by `generate` or brought along with the data."""

    unit = "pixel"  # what is observed or not

    def bound(self, bank: Bank) -> "DrawnCorruption":
        copied = copy.copy(self)
        copied.bank = bank
        copied.operator = None  # the kernels draw by the SPEC
        return copied

    def bound_to(self, measured: Measured) -> Corruption:
        if measured.kspace_coils is not None and not self.measures_kspace:
            return super().bound_to(measured)  # for its error
        mask, maps = measured.mask, measured.maps
        if mask is None and not measured.clean and measured.kspace_coils is None:
            raise ValueError(f"observations of '{self}' need their masks, and none came with them")
        if mask is not None:
            self.check_masks(mask, maps)
        return self if mask is None and maps is None else self.bound(Bank(mask=mask, maps=maps))

    def check_masks(self, mask: np.ndarray, maps: np.ndarray | None) -> None:
        """Raise ValueError for masks of the data that are none of A's, or that show nothing of what is missing."""
        if maps is None and (mask.max(0) == 0).any():
            raise ValueError(f"some {self.unit} is missing in every image, so that nothing shows what is there")

    def pooled(self) -> Corruption:
        return self if self.bank is None else self.bound(replace(self.bank, pool=True))

    def generate(self, image_shape: tuple[int, int, int], index: Tensor, seed: int) -> Draw:
        """What SPEC says of images of image_shape, index [B]."""
        raise NotImplementedError  # pragma: no cover

    def apply(self, x: Tensor, draw: Draw) -> Tensor:
        """A x for what was drawn."""
        raise NotImplementedError  # pragma: no cover

    def transpose(self, y: Tensor, draw: Draw) -> Tensor:
        """A* y for what was drawn."""
        raise NotImplementedError  # pragma: no cover

    def further(self, draw: Draw, delta: float, *, seed: int, sample: Tensor, step: int | Tensor) -> Draw:
        """The draw with less of it observed: each part that may go is gone with probability delta, drawn afresh for
        every (seed, sample, step). Which parts were gone before cannot be told from what remains."""
        raise NotImplementedError  # pragma: no cover

    def draw(
        self,
        image_shape: tuple[int, int, int],
        index: Tensor | None,
        seed: int,
        rows: Mapping[str, Tensor] | None = None,
    ) -> Draw:
        """The draw of images number index [B]: a pure function of (seed, index). rows: as for `Bank.draw`."""
        if index is None:
            raise ValueError(f"index: corruption '{self.name}' differs from image to image; say which they are")
        if self.bank is None:
            return self.generate(image_shape, index, seed)
        return self.bank.draw(lambda: self.generate(image_shape, index, seed), index, seed, rows)

    def drawn(self, draw: Draw, image_shape: tuple[int, int, int], index: Tensor, seed: int) -> DrawnOperator:
        return DrawnOperator(self, image_shape, index, seed, draw)

    def batch(
        self,
        image_shape: tuple[int, int, int],
        index: Tensor,
        seed: int,
        rows: Mapping[str, Tensor] | None = None,
    ) -> DrawnOperator:
        return self.drawn(self.draw(image_shape, index, seed, rows), image_shape, index, seed)

    def forward(self, x: Tensor, *, index: Tensor | None = None, seed: int = 0) -> Tensor:
        return self.apply(x, self.draw(image_shape_of(x), index, seed))

    def adjoint(self, y: Tensor, *, index: Tensor | None = None, seed: int = 0) -> Tensor:
        return self.transpose(y, self.draw(self.image_shape(image_shape_of(y)), index, seed))

    def latent_view(self, image_shape: tuple[int, int, int], key: Key, delta: float) -> View:
        """Latents of several coils are seen as through one: they need no maps, which sampling would have to have."""
        seed = (key.seed + LATENT_SEED) % 2**64  # apart from the draws that observe its images
        draw = Draw(mask=self.draw(image_shape, key.sample, seed).mask)
        return self.view(self.further(draw, delta, seed=seed, sample=key.sample, step=0), image_shape)


_Operator = TypeVar("_Operator", bound=type[Corruption])
_REGISTRY: dict[str, type[Corruption]] = {}
_BY_MODULE: dict[str, type[Corruption]] = {}  # the same by module.name: two modules may use one name
_PACKAGE = __name__.partition(".")[0]


def register(name: str) -> Callable[[_Operator], _Operator]:
    """Class decorator: make the operator available as SPEC `name` or `name:key=value,...`.

    The command line finds one that is registered in a module of yours as `module.name`. Raises ValueError for a name
    of this library's own.
    """

    def add(cls: _Operator) -> _Operator:
        if name in _REGISTRY and _is_ours(_REGISTRY[name]) and not _is_ours(cls):
            raise ValueError(f"corruption '{name}': the name is taken by {_REGISTRY[name].__module__}")
        cls.name = name
        _REGISTRY[name] = cls
        _BY_MODULE[f"{cls.__module__}.{name}"] = cls
        return cls

    return add


def is_ours(corruption: Corruption) -> bool:
    """Is all the operator's code this package's, that of its parts, too?"""
    return _is_ours(type(corruption)) and all(map(is_ours, corruption.parts))


def _is_ours(cls: type[Corruption]) -> bool:
    return cls.__module__.partition(".")[0] == _PACKAGE


def names() -> list[str]:
    return sorted(_REGISTRY)


def described() -> dict[str, tuple[str, str]]:
    """{name: (an example of its SPEC, what it does)} of every operator, for help and docs."""
    return {name: (_REGISTRY[name].example or name, _REGISTRY[name].about) for name in names()}


def parse(spec: str) -> Corruption:
    """The operator of a SPEC, `name` or `name:key=value,key=value`; `module.name` imports the module that registers it.

    Raises ValueError that lists what is known, on an unknown name or key, or a value out of range.
    """
    full_name, _, arguments = spec.strip().partition(":")
    module, _, name = full_name.rpartition(".")
    if module:
        _import(module)
    if name not in _REGISTRY:
        raise ValueError(f"unknown corruption '{full_name}'; known: {', '.join(names())}{nearest(full_name, names())}")
    corruption = _BY_MODULE.get(full_name, _REGISTRY[name]).from_arguments(arguments)
    if module:
        corruption.spec = f"{module}.{corruption.spec}"
    return corruption


_IMPORTING = contextvars.ContextVar("importing", default=True)


@contextlib.contextmanager
def without_imports() -> Iterator[None]:
    """For a SPEC of somebody else's file: `parse` imports nothing, and raises ValueError for a module it would."""
    token = _IMPORTING.set(False)
    try:
        yield
    finally:
        _IMPORTING.reset(token)


def _import(module: str) -> None:
    if not _IMPORTING.get():
        if module in sys.modules:
            return
        raise ValueError(
            f"names an operator in module {module[:80]!a}, which is not imported for a file's sake; "
            "in Python, import it first"
        )
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # where a user's own file lies; an installed command does not look there
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever the user's file raises
        raise ValueError(f"corruption: cannot import {module} ({type(error).__name__}: {error})") from error


_BOOLEANS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def _convert(name: str, key: str, text: str, kind: type) -> object:
    try:
        return _BOOLEANS[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        expected = "0 or 1" if kind is bool else kind.__name__
        raise ValueError(f"corruption '{name}': {key} expects {expected}, got '{text}'") from None
