"""What a corruption operator is, and how its SPEC string is read.

    y = A(x) + sigma_obs eps

An operator knows A alone; the noise is added by `observe`. Operators register under their SPEC name.
"""

import inspect
from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor

from rsd_fast import ops


class Corruption:
    """A linear operator A, the same for every image or drawn for each as a function of (seed, index).

    Subclasses take their parameters as keyword arguments of __init__ (int, float or str), validate them there
    (ValueError), set `spec` to the SPEC string with every parameter, and define `forward` and `adjoint`.
    """

    name: str  # set by `register`
    spec: str
    operator: ops.Operator | None = None  # A as the fused kernels know it, where they do; the same as `forward`

    def forward(self, x: Tensor, *, index: Tensor | None = None, seed: int = 0) -> Tensor:
        """A x: [B, C, H, W] -> [B, *observation_shape]; index [B] identifies the images. Differentiable in x."""
        raise NotImplementedError

    def adjoint(self, y: Tensor, *, index: Tensor | None = None, seed: int = 0) -> Tensor:
        """A* y: [B, *observation_shape] -> [B, C, H, W], with <A x, y> = <x, A* y>."""
        raise NotImplementedError

    def observation_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Shape [C, H, W] of the observation of one image of image_shape. ValueError where A cannot act on it."""
        return image_shape

    def __repr__(self) -> str:
        return self.spec


_Operator = TypeVar("_Operator", bound=type[Corruption])
_REGISTRY: dict[str, type[Corruption]] = {}


def register(name: str) -> Callable[[_Operator], _Operator]:
    """Class decorator: make the operator available as SPEC `name` or `name:key=value,...`."""

    def add(cls: _Operator) -> _Operator:
        cls.name = name
        _REGISTRY[name] = cls
        return cls

    return add


def names() -> list[str]:
    return sorted(_REGISTRY)


def parse(spec: str) -> Corruption:
    """The operator of a SPEC, `name` or `name:key=value,key=value`.

    Raises ValueError that lists what is known, on an unknown name or key, or a value out of range.
    """
    name, _, arguments = spec.strip().partition(":")
    if name not in _REGISTRY:
        raise ValueError(f"unknown corruption '{name}'; known: {', '.join(names())}")
    cls = _REGISTRY[name]
    parameters = inspect.signature(cls, eval_str=True).parameters
    values = {}
    for item in filter(None, (part.strip() for part in arguments.split(","))):
        key, equals, text = item.partition("=")
        if key not in parameters:
            known = ", ".join(parameters) or "none, it takes no keys"
            raise ValueError(f"corruption '{name}': unknown key '{key}'; known: {known}")
        if not equals or key in values:
            raise ValueError(f"corruption '{name}': expected key=value once for each key, got '{item}'")
        values[key] = _convert(name, key, text, parameters[key].annotation)
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"corruption '{name}': {error}") from None


def _convert(name: str, key: str, text: str, kind: type) -> object:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"corruption '{name}': {key} expects {kind.__name__}, got '{text}'") from None


def observe(
    corruption: Corruption,
    x: Tensor,
    *,
    index: Tensor,
    sigma_obs: float,
    seed: int,
    step: int = 0,
    channels_last: bool = False,
) -> Tensor:
    """y = A(x) + sigma_obs eps, float32 or wider, as a pure function of (seed, index, step).

    x: [B, C, H, W], uint8 (0 to 255) or floating-point in [-1, 1]; index: [B]. step 0 is the one permanent observation
    of a data set's image; later steps are fresh draws. channels_last: the memory format of y. No gradient.
    """
    if corruption.operator is not None:
        operator = corruption.operator
    else:  # no kernel knows A: it acts first, and the noise comes by itself
        operator = ops.Operator.identity()
        if x.dtype == torch.uint8:
            x = cast(Tensor, ops.observe(x, index, operator, 0.0, seed))
        x = corruption.forward(x, index=index, seed=seed)
    y = ops.observe(x, index, operator, sigma_obs, seed, step=step, channels_last=channels_last)
    return cast(Tensor, y)
