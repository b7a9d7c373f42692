"""Layers of the published U-Nets: the parameters, names and arithmetic of their checkpoints."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from rsd_fast import ops

Bound = Callable[[Sequence[int]], float]  # of a uniform distribution, by a weight's shape [out, in, ...]


def xavier(shape: Sequence[int]) -> float:
    return math.sqrt(6 / ((shape[0] + shape[1]) * math.prod(shape[2:])))


def fan_in(shape: Sequence[int]) -> float:
    return math.sqrt(1 / math.prod(shape[1:]))


class Initial:
    """How the parameters of an architecture start: weights uniform within `bound`; biases likewise, or 0."""

    def __init__(self, bound: Bound, *, biases: bool):
        self.bound, self.biases = bound, biases

    def weight(self, shape: Sequence[int], gain: float) -> nn.Parameter:
        return nn.Parameter(gain * self.bound(shape) * (2 * torch.rand(*shape) - 1))

    def bias(self, weight_shape: Sequence[int], gain: float) -> nn.Parameter:
        scale = gain * self.bound(weight_shape) if self.biases else 0.0
        return nn.Parameter(scale * (2 * torch.rand(weight_shape[0]) - 1))


XAVIER = Initial(xavier, biases=False)
FAN_IN = Initial(fan_in, biases=True)


class Linear(nn.Module):
    """y = x W^T (+ b); weight [out, in]."""

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = True, initial: Initial = XAVIER, gain: float = 1.0
    ):
        super().__init__()
        shape = (out_features, in_features)
        self.weight = initial.weight(shape, gain)
        self.bias = initial.bias(shape, gain) if bias else None

    def forward(self, x: Tensor) -> Tensor:  # [B, in] -> [B, out]
        return nnf.linear(x, self.weight, self.bias)


def resample_filter(taps: Sequence[int]) -> Tensor:
    """[1, 1, n, n], of sum 1."""
    along = torch.tensor(taps, dtype=torch.float32)
    return (along.outer(along) / along.sum() ** 2)[None, None]


@dataclass(frozen=True, kw_only=True)
class Convolutions:
    """What the convolutions of a network have in common.

    taps: the resampling filter along each axis; held as the buffer resample_filter, normalised, for the published state
    dicts. gated: the gated convolution of ambient diffusion's inpainting networks (Daras et al. 2023), conv(x)
    sigmoid(sigmoid(gate(x))) + bias, its sigmoid taken twice as their weights were trained.
    """

    taps: tuple[int, ...] = (1, 1)
    initial: Initial = XAVIER
    gated: bool = False


PLAIN = Convolutions()


class Conv2d(nn.Module):
    """Convolution of odd kernel with zero padding, stride 1, optionally resampled by 2 with a fixed filter.

    resample: "up" or "down" before the convolution; "fused_down" after it, with padding wide enough for both. kernel 0
    has no weight and only resamples. gain: factor of the initial weights.
    """

    gate_weight: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        resample: str | None = None,
        kind: Convolutions = PLAIN,
        gain: float = 1.0,
    ):
        super().__init__()
        self.resample, self.taps, initial = resample, kind.taps, kind.initial
        self.weight: nn.Parameter | None
        self.bias: nn.Parameter | None
        self.weight = self.bias = self.gate_weight = None
        if kernel:
            shape = (out_channels, in_channels, kernel, kernel)
            self.weight = initial.weight(shape, gain)
            self.bias = initial.bias(shape, gain)
            if kind.gated:
                self.gate_weight = initial.weight(shape, gain)
        if resample:
            self.register_buffer("resample_filter", resample_filter(self.taps))

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W] -> [B, C', H', W']
        if self.resample == "down":
            x = self.down(x, (len(self.taps) - 1) // 2)
        elif self.resample == "up":
            x = self.up(x)
        if self.weight is None:
            return x
        padding = self.weight.shape[-1] // 2
        if self.resample != "fused_down":
            return self.convolve(x, padding)
        return self.down(self.convolve(x, padding + (len(self.taps) - 1) // 2), 0)

    def convolve(self, x: Tensor, padding: int) -> Tensor:
        assert self.weight is not None and self.bias is not None
        if self.gate_weight is None:
            return nnf.conv2d(x, self.weight, self.bias, padding=padding)
        gate = nnf.conv2d(x, self.gate_weight, padding=padding).sigmoid().sigmoid()
        return nnf.conv2d(x, self.weight, padding=padding) * gate + self.bias.to(gate.dtype)[:, None, None]

    def down(self, x: Tensor, padding: int) -> Tensor:
        if self.taps == (1, 1):
            return nnf.avg_pool2d(x, 2)
        return nnf.conv2d(x, self.filter(x), stride=2, padding=padding, groups=x.shape[1])

    def up(self, x: Tensor) -> Tensor:
        if self.taps == (1, 1):
            return nnf.interpolate(x, scale_factor=2, mode="nearest")
        padding = (len(self.taps) - 1) // 2
        return nnf.conv_transpose2d(x, 4 * self.filter(x), stride=2, padding=padding, groups=x.shape[1])

    def filter(self, x: Tensor) -> Tensor:
        """[C, 1, n, n], one and the same for each channel of x."""
        assert isinstance(self.resample_filter, Tensor)
        return self.resample_filter.to(x.dtype).expand(x.shape[1], -1, -1, -1)


class GroupNorm(nn.Module):
    """Group normalisation with min(32, C // 4) groups; the next lower number that divides C where that does not.

    Followed by SiLU where asked for. Its result has the dtype of x: autocast does not widen it.
    """

    def __init__(self, channels: int, *, eps: float = 1e-6, silu: bool = False):
        super().__init__()
        self.silu = silu
        self.groups = next(n for n in range(min(32, channels // 4), 0, -1) if channels % n == 0)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """norm(x) (1 + scale) + shift, with scale and shift [B, C] where given."""
        return ops.group_norm_silu(
            x, self.weight, self.bias, self.groups, self.eps, scale=scale, shift=shift, silu=self.silu
        )


def dropout(x: Tensor, probability: float) -> Tensor:
    """x / (1 - probability), and 0 instead with that probability (to 2^-16), by torch's global generator.

    On a CPU torch draws a number for each element, in one thread, which took a third of a training step. Four of 16
    bits come from one draw here.
    """
    dense = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not dense:
        return nnf.dropout(x, probability)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = draws.view(torch.int16).as_strided(x.shape, x.stride())
    scale, zero = x.new_full((), 1 / (1 - probability)), x.new_zeros(())
    return x * torch.where(bits >= round(probability * 2**16) - 2**15, scale, zero)


def attention(qkv: Tensor, heads: int) -> Tensor:
    """Self-attention over the H*W positions; qkv [B, 3C, H, W] read as [B, heads, C/heads, 3] -> [B, C, H, W].

    q, k and v are interleaved (index 3 fastest), as in the published checkpoints. They are taken apart into memory of
    their own: where a head's channels lie apart, attention falls back to whole matrices of scores.
    """
    batch, channels, height, width = qkv.shape
    apart = qkv.permute(0, 2, 3, 1).reshape(batch, height * width, heads, channels // (3 * heads), 3)
    q, k, v = apart.permute(4, 0, 2, 1, 3).contiguous().unbind(0)
    out = nnf.scaled_dot_product_attention(q, k, v)  # [B, heads, H*W, C/heads]
    return out.transpose(1, 2).reshape(batch, height, width, channels // 3).permute(0, 3, 1, 2)


def positional_angles(c_noise: Tensor, dim: int, last: int) -> Tensor:
    """c_noise 10000^(-i / last), i = 0 .. dim/2 - 1, of which the embedding is cosines and sines; [B] -> [B, dim/2]."""
    index = torch.arange(dim // 2, device=c_noise.device, dtype=torch.float32)
    return c_noise.float().outer(10000.0 ** (-index / last))


class FourierEmbedding(nn.Module):
    """(sin, cos) of 2 pi c_noise freqs, of fixed random frequencies (Tancik et al. 2020); [B] -> [B, dim], float32."""

    def __init__(self, dim: int, scale: float = 16.0):
        super().__init__()
        self.register_buffer("freqs", torch.randn(dim // 2) * scale)

    def forward(self, c_noise: Tensor) -> Tensor:
        assert isinstance(self.freqs, Tensor)
        angle = c_noise.float().outer(2 * math.pi * self.freqs.float())
        return torch.cat([angle.sin(), angle.cos()], 1)
