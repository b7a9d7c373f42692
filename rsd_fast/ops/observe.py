"""Observations of images, and observations noised on, from a single pass over the images.

    y = A(x) + sigma_obs eps,      x = v / 127.5 - 1 of a uint8 image,  eps ~ N(0, I)
    x_t, net_input = perturb(y, ...)                                          # `observe_perturb`, see `perturb`

A random mask keeps pixel e of an image where its random word (stream OBSERVATION_MASK, step 0: a mask is permanent)
is at least missing 2^32, and y is 0 where it does not: what is not observed holds no noise either.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _library, edm
from .blur import blur_reference, check_host_kernel, check_kernel, host_kernel
from .downsample import check_factor, downsample_reference, small_size
from .key import Key
from .perturb import InputOptions, Perturbation, check_perturbation
from .philox import Counter, Stream, integers, philox_reference, randn_reference, signed_seed

KINDS = ("identity", "mask", "blur", "downsample")
MASK_FORMATS = ("", "uint8", "packed")


@dataclass(frozen=True, eq=False)
class Operator:
    """An operator A that the fused kernels know. Made by the class methods, which say what the fields mean."""

    kind: str = "identity"
    kernel: Tensor | None = None
    factor: int = 1
    missing: float = 0.0
    shared: bool = True

    @classmethod
    def identity(cls) -> "Operator":
        return cls()

    @classmethod
    def mask(cls, missing: float, *, shared: bool = True) -> "Operator":
        """Each pixel is missing with that probability; all channels of a pixel together where shared."""
        return cls("mask", missing=missing, shared=shared)

    @classmethod
    def blur(cls, kernel: Tensor) -> "Operator":
        """`ops.blur` by the kernel, [n] or [n, m]."""
        return cls("blur", kernel=host_kernel(kernel).clone())

    @classmethod
    def downsample(cls, factor: int) -> "Operator":
        """`ops.downsample` by the factor."""
        return cls("downsample", factor=factor)

    @property
    def arguments(self) -> tuple[str, Tensor | None, int, float, bool]:
        return self.kind, self.kernel, self.factor, self.missing, self.shared


def _operator(corruption: Any) -> Operator:
    """The operator itself, or that of a corruption that offers one."""
    operator = getattr(corruption, "operator", corruption)
    if not isinstance(operator, Operator):
        raise TypeError(f"corruption: expected an ops.Operator, or an object that has one, got {corruption!r}")
    return operator


def observe(
    images: Tensor,
    index: Tensor,
    corruption: Any,
    sigma_obs: Tensor | float,
    seed: int,
    *,
    step: int | Tensor = 0,
    mask: str | None = None,
    channels_last: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y [B, C, H', W'] in float32 (float64 for float64 images): a pure function of (seed, index, step).

    images: [B, C, H, W] uint8 (0 to 255), or floating-point and taken as they are. index: [B] integers that identify
    the images. corruption: an `Operator`, or an object whose `operator` is one. sigma_obs: [B] or a number.
    step: int or tensor; 0 is the one permanent observation of an image, others are fresh noise on the same mask.
    mask: None, or "uint8" for (y, mask [B, 1 or C, H, W] of 0 and 1), or "packed" for (y, mask [B, bytes]), where
    element e is bit e % 8 of byte e // 8. channels_last: the memory format of y. No gradient.
    Raises ValueError or TypeError on arguments that do not fit.
    """
    y, drawn = torch.ops.rsd_fast.observe.default(
        *_observation(images, index, corruption, sigma_obs, seed, step, mask), channels_last
    )
    return y if mask is None else (y, drawn)


def observe_perturb(
    images: Tensor,
    corruption: Any,
    sigma_obs: Tensor | float,
    sigma: Tensor | float,
    key: Key,
    *,
    observation_key: Key | None = None,
    mask: str | None = None,
    options: InputOptions | None = None,
) -> tuple[Tensor, ...]:
    """(y, x_t, net_input), and the mask where asked for: `observe` and `perturb` of its result in one pass.

    key: of the diffusion noise. observation_key: of the observations, its `sample` being the `index` of `observe`; None
    takes `key`, so that every step has fresh ones. The other arguments are those of the two, and so are the errors.
    """
    y, drawn, x_t, net_input = torch.ops.rsd_fast.observe_perturb.default(
        *_observation_and_perturbation(images, corruption, sigma_obs, sigma, key, observation_key, mask, options)
    )
    return (y, x_t, net_input) if mask is None else (y, x_t, net_input, drawn)


def _observation(
    images: Tensor,
    index: Tensor,
    corruption: Any,
    sigma_obs: Tensor | float,
    seed: int,
    step: int | Tensor,
    mask: str | None,
) -> tuple[Any, ...]:
    """The arguments of the ops that say what is observed."""
    edm.check_tensors(images=images)
    edm.check_no_gradient(images=images)
    seed, (index, step) = signed_seed(seed), integers(index=index, step=step)
    levels = edm.levels(sigma_obs, images, "sigma_obs")
    return images, index, levels, seed, step, *_operator(corruption).arguments, mask or ""


def _observation_and_perturbation(
    images: Tensor,
    corruption: Any,
    sigma_obs: Tensor | float,
    sigma: Tensor | float,
    key: Key,
    observation_key: Key | None,
    mask: str | None,
    options: InputOptions | None,
) -> tuple[Any, ...]:
    """The arguments of the op `observe_perturb`."""
    first = key if observation_key is None else observation_key
    observation = _observation(images, first.sample, corruption, sigma_obs, first.seed, first.step, mask)
    counter = signed_seed(key.seed), *integers(sample=key.sample, step=key.step)
    return *observation, edm.levels(sigma, images), *counter, *(options or InputOptions.like(images))


def observe_reference(
    images: Tensor,
    index: Tensor,
    corruption: Any,
    sigma_obs: Tensor | float,
    seed: int,
    *,
    step: int | Tensor = 0,
    mask: str | None = None,
    channels_last: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The mathematics above in plain PyTorch."""
    arguments = _observation(images, index, corruption, sigma_obs, seed, step, mask)
    y, drawn = _observe(*_unpack(*arguments, channels_last))
    return y if mask is None else (y, drawn)


def observe_perturb_reference(
    images: Tensor,
    corruption: Any,
    sigma_obs: Tensor | float,
    sigma: Tensor | float,
    key: Key,
    *,
    observation_key: Key | None = None,
    mask: str | None = None,
    options: InputOptions | None = None,
) -> tuple[Tensor, ...]:
    """The mathematics above in plain PyTorch."""
    arguments = _observation_and_perturbation(images, corruption, sigma_obs, sigma, key, observation_key, mask, options)
    y, drawn, x_t, net_input = _observe_perturb(*_unpack_both(*arguments))
    return (y, x_t, net_input) if mask is None else (y, x_t, net_input, drawn)


def threshold(missing: float) -> int:
    """The least random word, of 0 to 2^32 - 1, that keeps a pixel."""
    return math.ceil(missing * 2**32)


def normalised(images: Tensor) -> Tensor:
    """Images in the dtype they are computed with, uint8 mapped to [-1, 1]."""
    if images.dtype != torch.uint8:
        return images.to(edm.accumulation_dtype(images))
    # CUDA multiplies by the reciprocal of a Python number, an ulp off; it divides by a tensor.
    return images.to(torch.float32) / torch.full((), 127.5, device=images.device) - 1


def mask_shape(images: Tensor, shared: bool) -> tuple[int, int, int, int]:
    batch, channels, height, width = images.shape
    return batch, 1 if shared else channels, height, width


# Registration


class Acquisition(NamedTuple):
    """How images are observed: arguments of the ops `observe` and `observe_perturb`."""

    counter: Counter
    sigma_obs: Tensor  # [B] or [1]
    operator: Operator
    mask_format: str


def _unpack(images: Tensor, index: Tensor, sigma_obs: Tensor, seed: int, step: Tensor, *rest: Any) -> tuple[Any, ...]:
    """What both ops begin with, as two objects, and then what comes after it."""
    kind, kernel, factor, missing, shared, mask_format, *rest_of_op = rest
    operator = Operator(kind, kernel, factor, missing, shared)
    return images, Acquisition(Counter.of(seed, index, step), sigma_obs, operator, mask_format), *rest_of_op


def _unpack_both(*arguments: Any) -> tuple[Tensor, Acquisition, Perturbation]:
    images, acquisition, *perturbation = _unpack(*arguments)
    return images, acquisition, Perturbation.of(*perturbation)


def _check(images: Tensor, acquisition: Acquisition, channels_last: bool) -> None:
    counter, sigma_obs, operator, mask_format = acquisition
    edm.check_layout(images=images)
    if images.dtype != torch.uint8 and images.dtype not in edm.DTYPES:
        raise TypeError(f"images: expected uint8 or a floating-point dtype, got {images.dtype}")
    edm.check_size("images", images)
    if images.ndim != 4:
        raise ValueError(f"images: expected [B, C, H, W], got {list(images.shape)}")
    edm.check_levels(images, sigma_obs=sigma_obs)
    counter.check(images, "index")
    if operator.kind not in KINDS:
        raise ValueError(f"operator: expected one of {', '.join(KINDS)}, got {operator.kind!r}")
    if operator.kind == "blur":
        if operator.kernel is None:
            raise ValueError("kernel: expected taps for the operator 'blur', got None")
        check_host_kernel(operator.kernel)
        check_kernel(operator.kernel, *images.shape[2:])
    check_factor(operator.factor)
    if not 0 <= operator.missing <= 1:
        raise ValueError(f"missing: expected a probability, got {operator.missing}")
    if mask_format not in MASK_FORMATS:
        raise ValueError(f"mask: expected None, 'uint8' or 'packed', got {mask_format!r}")
    if mask_format and operator.kind != "mask":
        raise ValueError(f"mask: the operator '{operator.kind}' draws none")


def _check_both(images: Tensor, acquisition: Acquisition, perturbation: Perturbation) -> None:
    _check(images, acquisition, perturbation.options.channels_last)
    check_perturbation(images, acquisition.sigma_obs, perturbation)


def _observe(images: Tensor, acquisition: Acquisition, channels_last: bool) -> tuple[Tensor, Tensor]:
    counter, sigma_obs, operator, mask_format = acquisition
    x = normalised(images)
    kept = None
    if operator.kernel is not None and operator.kind == "blur":
        x = blur_reference(x, operator.kernel)
    elif operator.kind == "downsample":
        x = downsample_reference(x, operator.factor)
    elif operator.kind == "mask":
        shape = mask_shape(images, operator.shared)
        elements = math.prod(shape[1:])
        blocks = torch.arange((elements + 3) // 4, device=images.device)
        words = philox_reference(counter.seed, counter.sample[:, None], blocks, 0, Stream.OBSERVATION_MASK).flatten(1)
        kept = (words.to(torch.int64)[:, :elements] >= threshold(operator.missing)).reshape(shape)
    # Product and sum one by one: fused in a vector loop but not in its remainder, their bits would depend on the batch.
    y = x + edm.per_sample(sigma_obs, x) * randn_reference(x.shape, *counter, Stream.OBSERVATION_NOISE)
    if kept is not None:
        y = torch.where(kept, y, 0)
    return edm.laid_out(y, y.dtype, channels_last), _mask_output(kept, images, mask_format)


def _mask_output(kept: Tensor | None, images: Tensor, mask_format: str) -> Tensor:
    if kept is None or not mask_format:
        return torch.empty(0, dtype=torch.uint8, device=images.device)
    bits = kept.to(torch.uint8)
    if mask_format == "uint8":
        return bits
    elements = math.prod(bits.shape[1:])
    bits = torch.nn.functional.pad(bits.reshape(len(bits), elements), (0, -elements % 8))
    bits = bits.reshape(len(bits), -(-elements // 8), 8)
    return (bits << torch.arange(8, dtype=torch.uint8, device=bits.device)).sum(2, dtype=torch.uint8)


def _observe_perturb(
    images: Tensor, acquisition: Acquisition, perturbation: Perturbation
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    y, drawn = _observe(images, acquisition, perturbation.options.channels_last)
    return y, drawn, *perturbation.reference(y, acquisition.sigma_obs)


_OBSERVATION = (
    "Tensor images, Tensor index, Tensor sigma_obs, int seed, Tensor step, str operator, Tensor? kernel, int factor,"
    " float missing, bool shared, str mask_format"
)
_library.define("observe", f"({_OBSERVATION}, bool channels_last) -> (Tensor, Tensor)", _observe, _check, _unpack)
_library.define(
    "observe_perturb",
    f"({_OBSERVATION.replace('Tensor step', 'Tensor observation_step')}, Tensor sigma, int noise_seed, Tensor sample,"
    " Tensor step, float sigma_data, ScalarType dtype, bool channels_last) -> (Tensor, Tensor, Tensor, Tensor)",
    _observe_perturb,
    _check_both,
    _unpack_both,
)


def new_outputs(images: Tensor, acquisition: Acquisition, channels_last: bool) -> tuple[Tensor, Tensor]:
    """(y, mask) without their values."""
    operator = acquisition.operator
    batch, channels, height, width = images.shape
    if operator.kind == "downsample":
        height, width = small_size(images, operator.factor)
    y = torch.empty(
        (batch, channels, height, width),
        dtype=edm.accumulation_dtype(images),
        device=images.device,
        memory_format=edm.memory_format(channels_last),
    )
    shape = mask_shape(images, operator.shared)
    mask_shapes = {"": (0,), "uint8": shape, "packed": (batch, -(-math.prod(shape[1:]) // 8))}
    return y, images.new_empty(mask_shapes[acquisition.mask_format], dtype=torch.uint8)


_library.fake("observe")(new_outputs)


@_library.fake("observe_perturb")
def _(images: Tensor, acquisition: Acquisition, perturbation: Perturbation) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _, dtype, channels_last = perturbation.options
    y, drawn = new_outputs(images, acquisition, channels_last)
    return y, drawn, torch.empty_like(y), torch.empty_like(y, dtype=dtype)


_library.not_differentiable("observe", "observe_perturb")
