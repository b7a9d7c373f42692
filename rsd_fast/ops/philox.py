r"""Counter-based random numbers: every number is a pure function of (seed, sample, element, step, stream).

Philox-4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a
counter of four 32-bit words and a key of two into four random words. Here

    counter = (element, sample, step, stream),   key = (seed mod 2^32, seed div 2^32)

and one of its ten rounds, with hi and lo the halves of a 64-bit product, is

    (c0, c1, c2, c3) <- (hi(M1 c2) ^ c1 ^ k0,  lo(M1 c2),  hi(M0 c0) ^ c3 ^ k1,  lo(M0 c0))
    (k0, k1)         <- (k0 + W0, k1 + W1)

A block of four words gives four normals by Box and Muller's transform, all of it in float32: with
u_j = (w_j + 1/2) 2^-32,

    (r cos(2 pi u_1), r sin(2 pi u_1))   with   r = sqrt(-2 ln u_0),   and the same of (u_2, u_3).

The logarithm and the circular functions are polynomials, evaluated with nothing but additions,
multiplications and a square root. IEEE arithmetic rounds each of these in one way only, so the normals too
are the same, bit for bit, on every backend, in every batch and at every vector length, which no library's
logarithm promises. The coefficients are relative minimax fits; u's exponent and quarter turn are split off
exactly.
"""

import math
import operator
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from . import _library, edm


class Stream(IntEnum):
    """What a random number is for: the counter's last word, so that no two uses share a number."""

    OBSERVATION_NOISE = 0
    OBSERVATION_MASK = 1
    DIFFUSION_NOISE = 2
    SIGMA = 3
    FURTHER_MASK = 4
    LATENT = 5
    LABEL = 6
    AUGMENTATION = 7
    CONSISTENCY = 8


def philox(seed: int, sample: int | Tensor, element: int | Tensor, step: int | Tensor, stream: int) -> Tensor:
    """Philox-4x32-10: uint32 tensor of shape [*broadcast(sample, element, step), 4].

    seed: 0 <= seed < 2**64. sample, element, step: int, or int32 or int64 tensor, on one device; they
    broadcast, and are taken modulo 2**32, as is stream. ``element`` is the block: four words come of each.
    Raises TypeError for another type, ValueError for a seed out of range or tensors on two devices.
    """
    return torch.ops.rsd_fast.philox.default(*_philox_arguments(seed, sample, element, step, stream))


def randn(shape: Sequence[int], seed: int, sample: Tensor, step: int | Tensor, stream: int) -> Tensor:
    """Standard normals, float32 of ``shape`` [B, ...], on the device of ``sample``.

    sample: int32 or int64 [B], the id of each sample of the batch; step: int, or integer tensor of one
    element or [B]. Element i of a sample, counted in C order over shape[1:], is normal i % 4 of block i // 4:
    it does not depend on the rest of the shape or of the batch. Raises TypeError for another dtype,
    ValueError for a seed out of range, a shape that does not begin with B, or tensors on two devices.
    """
    return torch.ops.rsd_fast.randn.default(*_randn_arguments(shape, seed, sample, step, stream))


def uniform(shape: Sequence[int], seed: int, sample: Tensor, step: int | Tensor, stream: int) -> Tensor:
    """Uniform numbers in (0, 1), float64 of ``shape`` [B, ...]: (word + 1/2) 2^-32, exactly.

    Arguments and errors as for ``randn``; element i of a sample is word i % 4 of block i // 4.
    """
    return _uniform(torch.ops.rsd_fast.philox.default, *_randn_arguments(shape, seed, sample, step, stream))


def philox_reference(seed: int, sample: int | Tensor, element: int | Tensor, step: int | Tensor, stream: int) -> Tensor:
    """``philox`` in plain PyTorch."""
    arguments = _philox_arguments(seed, sample, element, step, stream)
    _check_philox(*arguments)
    return _philox(*arguments)


def randn_reference(shape: Sequence[int], seed: int, sample: Tensor, step: int | Tensor, stream: int) -> Tensor:
    """``randn`` in plain PyTorch."""
    arguments = _randn_arguments(shape, seed, sample, step, stream)
    _check_randn(*arguments)
    return _randn(*arguments)


def uniform_reference(shape: Sequence[int], seed: int, sample: Tensor, step: int | Tensor, stream: int) -> Tensor:
    """``uniform`` in plain PyTorch."""
    return _uniform(_philox, *_randn_arguments(shape, seed, sample, step, stream))


_WORD = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85
# -2 ln(1 + z) / z on [1/sqrt(2) - 1, sqrt(2) - 1]; sin(2 pi t) / t and (cos(2 pi t) - 1) / t^2 in t^2 on
# [0, 1/64]. The same digits stand in csrc/random.h and kernels/philox.py.
_LOG = (-2.0, 0.999999762, -0.666666508, 0.50003171, -0.400039375, 0.332180262, -0.283636749, 0.264869303, -0.25809294, 0.152421817)  # fmt: skip  # noqa: E501
_SIN = (6.28318548, -41.3416634, 81.5923538, -75.3935547)
_COS = (-19.7392082, 64.9393692, -85.448761, 59.4217072)
_TWO_LN_2 = 1.38629436
_SQRT_HALF_BITS = 0x3F3504F3


def _rounds(seed: int, element: Tensor, sample: Tensor, step: Tensor, stream: int) -> list[Tensor]:
    """The four words, each int64 of the broadcast shape: torch computes little in uint32."""
    c0, c1, c2 = (word.to(torch.int64) & _WORD for word in (element, sample, step))
    c3 = torch.full((), stream & _WORD, dtype=torch.int64, device=c0.device)
    k0, k1 = seed & _WORD, seed >> 32 & _WORD
    for _ in range(10):
        # The product overflows int64, harmlessly: it is right modulo 2^64, and the mask removes the copied
        # sign.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> 32 ^ c1 ^ k0) & _WORD, p1 & _WORD, (p0 >> 32 ^ c3 ^ k1) & _WORD, p0 & _WORD
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return [c0, c1, c2, c3]


def _unit(word: Tensor) -> Tensor:
    return (word.to(torch.float32) + 0.5) * 2.0**-32  # in (0, 1]: the sum may round up


def _horner(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    total = x * coefficients[-1] + coefficients[-2]
    for coefficient in coefficients[-3::-1]:
        total = total * x + coefficient
    return total


def _radius(u: Tensor) -> Tensor:
    """sqrt(-2 ln u): u = 2^-n (1 + z) with 1 + z within [1/sqrt(2), sqrt(2))."""
    bits = u.view(torch.int32)
    n = (bits - _SQRT_HALF_BITS >> 23).neg()
    z = (bits + (n << 23)).view(torch.float32) - 1
    square = n * _TWO_LN_2 + z * _horner(z, _LOG)  # never negative: n >= 0 and, where n = 0, z <= 0
    return square.to(torch.float64).sqrt().to(torch.float32)  # torch's float32 root is off by one place on some CPUs


def _cos_sin(u: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of 2 pi u: u = quarter / 4 + t with |t| <= 1/8."""
    quarter = (u * 4 + 0.5).to(torch.int32)
    t = u - quarter * 0.25
    square = t * t
    cos, sin = square * _horner(square, _COS) + 1, t * _horner(square, _SIN)
    odd, cos_negative, sin_negative = quarter & 1, (quarter + 1) & 2, quarter & 2
    cos, sin = torch.where(odd == 0, cos, sin), torch.where(odd == 0, sin, cos)
    return torch.where(cos_negative == 0, cos, -cos), torch.where(sin_negative == 0, sin, -sin)


# Registration: what follows takes the seed as a signed 64-bit integer and every other number as a tensor.


def _philox(seed: int, sample: Tensor, element: Tensor, step: Tensor, stream: int) -> Tensor:
    words = torch.broadcast_tensors(*_rounds(seed, element, sample, step, stream))
    return torch.stack(words, dim=-1).to(torch.uint32)


def _randn(shape: Sequence[int], seed: int, sample: Tensor, step: Tensor, stream: int) -> Tensor:
    inner = math.prod(shape[1:])
    block = torch.arange(_blocks(inner), device=sample.device)
    words = _rounds(seed, block, sample[:, None], step.reshape(-1, 1), stream)
    u0, u1, u2, u3 = (_unit(word) for word in words)
    radius, (cos, sin) = _radius(torch.stack((u0, u2), -1)), _cos_sin(torch.stack((u1, u3), -1))
    normals = torch.stack((radius * cos, radius * sin), dim=-1)  # [B, blocks, 2, 2]
    return normals.flatten(1)[:, :inner].reshape(shape).contiguous()


def _uniform(
    op: Callable[..., Tensor], shape: Sequence[int], seed: int, sample: Tensor, step: Tensor, stream: int
) -> Tensor:
    _check_randn(shape, seed, sample, step, stream)
    inner = math.prod(shape[1:])
    block = torch.arange(_blocks(inner), device=sample.device)
    words = op(seed, sample[:, None], block, step.reshape(-1, 1), stream)  # [B, blocks, 4]
    return ((words.flatten(1)[:, :inner].to(torch.float64) + 0.5) * 2.0**-32).reshape(shape)


def _blocks(inner: int) -> int:
    return (inner + 3) // 4


def signed_seed(seed: int) -> int:
    """The 64 bits of the seed as torch's schemas want them."""
    seed = seed if isinstance(seed, int) else operator.index(seed)
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed: expected 0 <= seed < 2**64, got {seed}")
    return seed - 2**64 if seed >= 2**63 else seed


def _word(name: str, value: int | Tensor, device: torch.device) -> Tensor:
    if isinstance(value, Tensor):
        return value
    value = value if isinstance(value, int) else operator.index(value)
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{name}: expected a 64-bit integer, got {value}")
    return torch.full((), value, dtype=torch.int64, device=device)  # a fill: torch.tensor would wait for a GPU


def integers(*, step: int | Tensor, **sample: Tensor) -> tuple[Tensor, Tensor]:
    """(sample, step) as the ops take them; the name of the first is its keyword. TypeError where it is no tensor."""
    ((name, ids),) = sample.items()
    if not isinstance(ids, Tensor):
        raise TypeError(f"{name}: expected an integer tensor [B], got {type(ids).__name__}")
    return ids, _word("step", step, ids.device)


def _philox_arguments(
    seed: int, sample: int | Tensor, element: int | Tensor, step: int | Tensor, stream: int
) -> tuple[int, Tensor, Tensor, Tensor, int]:
    words = {"sample": sample, "element": element, "step": step}
    device = next((w.device for w in words.values() if isinstance(w, Tensor)), torch.device("cpu"))
    sample, element, step = (_word(name, w, device) for name, w in words.items())
    return signed_seed(seed), sample, element, step, int(stream)


def _randn_arguments(
    shape: Sequence[int], seed: int, sample: Tensor, step: int | Tensor, stream: int
) -> tuple[list[int], int, Tensor, Tensor, int]:
    sample, step = integers(sample=sample, step=step)
    return list(shape), signed_seed(seed), sample, step, int(stream)


def _check_words(**words: Tensor) -> None:
    first, *_ = words
    edm.check_layout(**words)
    device = words[first].device
    for name, word in words.items():
        if word.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"{name}: expected int32 or int64, got {word.dtype}")
        if word.device != device:
            raise ValueError(f"{name}: expected the device of {first}, {device}, got {word.device}")


def _check_counter(sample: Tensor, step: Tensor, name: str = "sample") -> None:
    """TypeError or ValueError unless these are integers [B] and one or [B], on one device."""
    _check_words(**{name: sample, "step": step})
    if sample.ndim != 1:
        raise ValueError(f"{name}: expected one dimension, [B], got shape {tuple(sample.shape)}")
    if step.ndim > 1 or step.numel() not in (1, sample.shape[0]):
        raise ValueError(f"step: expected one element or [{sample.shape[0]}], got shape {tuple(step.shape)}")


class Counter(NamedTuple):
    """The random numbers of a batch, as ops take them: seed, sample [B] and step [B] or of one number."""

    seed: int
    sample: Tensor
    step: Tensor

    @classmethod
    def of(cls, seed: int, sample: Tensor, step: Tensor) -> "Counter":
        """From an op's arguments, of which the seed is signed."""
        return cls(seed % 2**64, sample, step)

    def check(self, images: Tensor, name: str = "sample") -> None:
        """TypeError or ValueError unless there is a counter for each image; `name` is what the samples are called."""
        _check_counter(self.sample, self.step, name)
        if len(self.sample) != len(images):
            raise ValueError(f"{name}: expected one id an image, [{len(images)}], got {list(self.sample.shape)}")
        if self.sample.device != images.device:
            raise ValueError(f"{name}: expected the device of the images, {images.device}, got {self.sample.device}")


def _check_philox(seed: int, sample: Tensor, element: Tensor, step: Tensor, stream: int) -> None:
    _check_words(sample=sample, element=element, step=step)
    shapes = [tuple(word.shape) for word in (sample, element, step)]
    try:
        torch.broadcast_shapes(*shapes)
    except RuntimeError:
        raise ValueError(
            "sample, element, step: expected shapes that broadcast, got {}, {}, {}".format(*shapes)
        ) from None


def _check_randn(shape: Sequence[int], seed: int, sample: Tensor, step: Tensor, stream: int) -> None:
    _check_counter(sample, step)
    if len(shape) == 0 or shape[0] != sample.shape[0] or any(size < 0 for size in shape):
        raise ValueError(f"shape: expected ({sample.shape[0]}, ...) to match sample, got {tuple(shape)}")
    if _blocks(math.prod(shape[1:])) > 2**32:
        raise ValueError(f"shape: expected at most 2**34 elements a sample, got {tuple(shape)}")


_library.define(
    "philox", "(int seed, Tensor sample, Tensor element, Tensor step, int stream) -> Tensor", _philox, _check_philox
)
_library.define(
    "randn", "(SymInt[] shape, int seed, Tensor sample, Tensor step, int stream) -> Tensor", _randn, _check_randn
)


@_library.fake("philox")
def _(seed: int, sample: Tensor, element: Tensor, step: Tensor, stream: int) -> Tensor:
    shape = torch.broadcast_shapes(sample.shape, element.shape, step.shape)
    return sample.new_empty((*shape, 4), dtype=torch.uint32)


@_library.fake("randn")
def _(shape: Sequence[int], seed: int, sample: Tensor, step: Tensor, stream: int) -> Tensor:
    return sample.new_empty(shape, dtype=torch.float32)
