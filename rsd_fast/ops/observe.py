"""Observations of images, and observations noised on, from a single pass over the images.

    y = A(x) + sigma_obs eps,      x = v / 127.5 - 1 of a uint8 image,  eps ~ N(0, I)
    x_t, net_input = perturb(y, ...)                                          # `observe_perturb`, see `perturb`

A random mask keeps pixel e of an image where its random word (stream OBSERVATION_MASK, step 0: a mask is permanent)
is at least missing 2^32, and y is 0 where it does not: what is not observed holds no noise either.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import _library, edm
from .blur import blur_reference, check_host_kernel, check_kernel, host_kernel
from .downsample import check_factor, downsample_reference
from .perturb import check_perturbation, perturb_reference
from .philox import Stream, check_counter, integers, philox_reference, randn_reference, signed_seed

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
    index: Tensor,
    corruption: Any,
    sigma_obs: Tensor | float,
    seed: int,
    sigma: Tensor | float,
    sample: Tensor,
    step: int | Tensor,
    *,
    noise_seed: int | None = None,
    observation_step: int | Tensor = 0,
    sigma_data: float = 0.5,
    dtype: torch.dtype = torch.float32,
    mask: str | None = None,
    channels_last: bool = False,
) -> tuple[Tensor, ...]:
    """(y, x_t, net_input), and the mask where asked for: `observe` and `perturb` of its result in one pass.

    noise_seed: of the diffusion noise; None takes `seed`. The other arguments are those of the two.
    """
    observation = _observation(images, index, corruption, sigma_obs, seed, observation_step, mask)
    counter = signed_seed(seed if noise_seed is None else noise_seed), *integers(sample=sample, step=step)
    y, drawn, x_t, net_input = torch.ops.rsd_fast.observe_perturb.default(
        *observation, edm.levels(sigma, images), *counter, sigma_data, dtype, channels_last
    )
    return (y, x_t, net_input) if mask is None else (y, x_t, net_input, drawn)


def _observation(images, index, corruption, sigma_obs, seed, step, mask):
    """The arguments of the ops that say what is observed."""
    edm.check_tensors(images=images)
    edm.check_no_gradient(images=images)
    counter = signed_seed(seed), *integers(index=index, step=step)
    levels = edm.levels(sigma_obs, images, "sigma_obs")
    return images, counter[1], levels, counter[0], counter[2], *_operator(corruption).arguments, mask or ""


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
    y, drawn = _observe(*_observation(images, index, corruption, sigma_obs, seed, step, mask), channels_last)
    return y if mask is None else (y, drawn)


def observe_perturb_reference(
    images: Tensor,
    index: Tensor,
    corruption: Any,
    sigma_obs: Tensor | float,
    seed: int,
    sigma: Tensor | float,
    sample: Tensor,
    step: int | Tensor,
    *,
    noise_seed: int | None = None,
    observation_step: int | Tensor = 0,
    sigma_data: float = 0.5,
    dtype: torch.dtype = torch.float32,
    mask: str | None = None,
    channels_last: bool = False,
) -> tuple[Tensor, ...]:
    """The mathematics above in plain PyTorch."""
    observation = _observation(images, index, corruption, sigma_obs, seed, observation_step, mask)
    counter = signed_seed(seed if noise_seed is None else noise_seed), *integers(sample=sample, step=step)
    arguments = edm.levels(sigma, images), *counter, sigma_data, dtype, channels_last
    y, drawn, x_t, net_input = _observe_perturb(*observation, *arguments)
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


def _check(images, index, sigma_obs, seed, step, kind, kernel, factor, missing, shared, mask_format, channels_last):
    edm.check_layout(images=images)
    if images.dtype != torch.uint8 and images.dtype not in edm.DTYPES:
        raise TypeError(f"images: expected uint8 or a floating-point dtype, got {images.dtype}")
    edm.check_size("images", images)
    if images.ndim != 4:
        raise ValueError(f"images: expected [B, C, H, W], got {list(images.shape)}")
    edm.check_levels(images, sigma_obs=sigma_obs)
    check_counter(index, step, "index")
    if len(index) != len(images):
        raise ValueError(f"index: expected one id an image, [{len(images)}], got {list(index.shape)}")
    if index.device != images.device:
        raise ValueError(f"index: expected the device of the images, {images.device}, got {index.device}")
    if kind not in KINDS:
        raise ValueError(f"operator: expected one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "blur":
        if kernel is None:
            raise ValueError("kernel: expected taps for the operator 'blur', got None")
        check_host_kernel(kernel)
        check_kernel(kernel, *images.shape[2:])
    check_factor(factor)
    if not 0 <= missing <= 1:
        raise ValueError(f"missing: expected a probability, got {missing}")
    if mask_format not in MASK_FORMATS:
        raise ValueError(f"mask: expected None, 'uint8' or 'packed', got {mask_format!r}")
    if mask_format and kind != "mask":
        raise ValueError(f"mask: the operator '{kind}' draws none")


def _check_both(images, index, sigma_obs, seed, observation_step, *rest):
    *operator, mask_format, sigma, noise_seed, sample, step, sigma_data, dtype, channels_last = rest
    _check(images, index, sigma_obs, seed, observation_step, *operator, mask_format, channels_last)
    check_perturbation(images, sigma, sigma_obs, noise_seed, sample, step, sigma_data, dtype, channels_last)


def _observe(images, index, sigma_obs, seed, step, *rest):
    kind, kernel, factor, missing, shared, mask_format, channels_last = rest
    x = normalised(images)
    kept = None
    if kind == "blur":
        x = blur_reference(x, kernel)
    elif kind == "downsample":
        x = downsample_reference(x, factor)
    elif kind == "mask":
        shape = mask_shape(images, shared)
        elements = math.prod(shape[1:])
        blocks = torch.arange((elements + 3) // 4, device=images.device)
        words = philox_reference(seed % 2**64, index[:, None], blocks, 0, Stream.OBSERVATION_MASK).flatten(1)
        kept = (words.to(torch.int64)[:, :elements] >= threshold(missing)).reshape(shape)
    # Product and sum one by one: fused in a vector loop but not in its remainder, their bits would depend on the batch.
    noise = randn_reference(x.shape, seed % 2**64, index, step, Stream.OBSERVATION_NOISE)
    y = x + edm.per_sample(sigma_obs, x) * noise
    if kept is not None:
        y = torch.where(kept, y, 0)
    return edm.laid_out(y, y.dtype, channels_last), _mask_output(kept, images, mask_format)


def _mask_output(kept, images, mask_format):
    if not mask_format:
        return torch.empty(0, dtype=torch.uint8, device=images.device)
    bits = kept.to(torch.uint8)
    if mask_format == "uint8":
        return bits
    elements = math.prod(bits.shape[1:])
    bits = torch.nn.functional.pad(bits.reshape(len(bits), elements), (0, -elements % 8))
    bits = bits.reshape(len(bits), -(-elements // 8), 8)
    return (bits << torch.arange(8, dtype=torch.uint8, device=bits.device)).sum(2, dtype=torch.uint8)


def _observe_perturb(images, index, sigma_obs, seed, observation_step, *rest):
    *operator, mask_format, sigma, noise_seed, sample, step, sigma_data, dtype, channels_last = rest
    y, drawn = _observe(images, index, sigma_obs, seed, observation_step, *operator, mask_format, channels_last)
    arguments = y, sigma, sigma_obs, noise_seed % 2**64, sample, step
    x_t, net_input = perturb_reference(*arguments, sigma_data=sigma_data, dtype=dtype, channels_last=channels_last)
    return y, drawn, x_t, net_input


_OBSERVATION = (
    "Tensor images, Tensor index, Tensor sigma_obs, int seed, Tensor step, str operator, Tensor? kernel, int factor,"
    " float missing, bool shared, str mask_format"
)
_library.define("observe", f"({_OBSERVATION}, bool channels_last) -> (Tensor, Tensor)", _observe, _check)
_library.define(
    "observe_perturb",
    f"({_OBSERVATION.replace('Tensor step', 'Tensor observation_step')}, Tensor sigma, int noise_seed, Tensor sample,"
    " Tensor step, float sigma_data, ScalarType dtype, bool channels_last) -> (Tensor, Tensor, Tensor, Tensor)",
    _observe_perturb,
    _check_both,
)


def new_outputs(
    images: Tensor, kind: str, factor: int, shared: bool, mask_format: str, channels_last: bool
) -> tuple[Tensor, Tensor]:
    """(y, mask) without their values."""
    batch, channels, height, width = images.shape
    if kind == "downsample":
        height, width = -(-height // factor), -(-width // factor)
    y = torch.empty(
        (batch, channels, height, width),
        dtype=edm.accumulation_dtype(images),
        device=images.device,
        memory_format=edm.memory_format(channels_last),
    )
    shape = mask_shape(images, shared)
    mask_shapes = {"": (0,), "uint8": shape, "packed": (batch, -(-math.prod(shape[1:]) // 8))}
    return y, images.new_empty(mask_shapes[mask_format], dtype=torch.uint8)


@_library.fake("observe")
def _(images, index, sigma_obs, seed, step, kind, kernel, factor, missing, shared, mask_format, channels_last):
    return new_outputs(images, kind, factor, shared, mask_format, channels_last)


@_library.fake("observe_perturb")
def _(images, index, sigma_obs, seed, observation_step, kind, kernel, factor, missing, shared, mask_format, *rest):
    *_, dtype, channels_last = rest
    y, drawn = new_outputs(images, kind, factor, shared, mask_format, channels_last)
    return y, drawn, torch.empty_like(y), torch.empty_like(y, dtype=dtype)


_library.not_differentiable("observe", "observe_perturb")
