"""The residual block that the published U-Nets are made of, and what differs between theirs."""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from .layers import FAN_IN, XAVIER, Conv2d, Convolutions, GroupNorm, Linear, attention, dropout


@dataclass(frozen=True, kw_only=True)
class Style:
    """What differs between the blocks of the architectures."""

    adaptive: bool  # the embedding scales and shifts the second norm, rather than being added before it
    scale: float  # of sums of two branches
    eps: float  # of the norms
    head_channels: int | None  # of attention; None: one head
    skip_convolves: bool  # where a block resamples between equal widths
    convolutions: Convolutions
    last_gain: float  # of what a branch ends with
    qkv_gain: float


SONG = Style(
    adaptive=False,
    scale=math.sqrt(0.5),  # keeps the variance of a sum of two unit-variance branches
    eps=1e-6,
    head_channels=None,
    skip_convolves=True,
    convolutions=Convolutions(initial=XAVIER),
    last_gain=1e-5,
    qkv_gain=math.sqrt(0.2),
)
ADM = Style(
    adaptive=True,
    scale=1.0,
    eps=1e-5,
    head_channels=64,
    skip_convolves=False,
    convolutions=Convolutions(initial=FAN_IN),
    last_gain=0.0,
    qkv_gain=1.0,
)


class Block(nn.Module):
    """Residual block, and self-attention where asked for; s is the style's scale.

    h = conv0(silu(norm0(x)))
    h = silu(norm1(h + affine(e))),   or adaptive:  (a, b) = affine(e),  h = silu(norm1(h) (1 + a) + b)
    x = (h' + skip(x)) s  with  h' = conv1(dropout(h)),   then   x = (x + proj(attention(qkv(norm2(x))))) s
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_dim: int,
        style: Style,
        *,
        resample: str | None = None,
        attention: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()

        def conv(c_in: int, c_out: int, kernel: int, resample: str | None = None, gain: float = 1.0) -> Conv2d:
            return Conv2d(c_in, c_out, kernel, resample=resample, kind=style.convolutions, gain=gain)

        self.style, self.dropout = style, dropout
        self.norm0 = GroupNorm(in_channels, eps=style.eps, silu=True)
        self.conv0 = conv(in_channels, out_channels, 3, resample)
        self.affine = Linear(embedding_dim, out_channels * (1 + style.adaptive), initial=style.convolutions.initial)
        self.norm1 = GroupNorm(out_channels, eps=style.eps, silu=True)
        self.conv1 = conv(out_channels, out_channels, 3, gain=style.last_gain)
        self.skip = None
        if in_channels != out_channels or resample:
            kernel = 1 if in_channels != out_channels or style.skip_convolves else 0
            self.skip = conv(in_channels, out_channels, kernel, resample)
        self.heads = 0
        if attention:
            most = out_channels // style.head_channels if style.head_channels else 1
            self.heads = next(n for n in range(max(most, 1), 0, -1) if out_channels % n == 0)
            self.norm2 = GroupNorm(out_channels, eps=style.eps)
            self.qkv = conv(out_channels, 3 * out_channels, 1, gain=style.qkv_gain)
            self.proj = conv(out_channels, out_channels, 1, gain=style.last_gain)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # [B, C, H, W], [B, E] -> [B, C', H', W']
        h, e = self.conv0(self.norm0(x)), self.affine(embedding)
        if self.style.adaptive:
            scale, shift = e.chunk(2, 1)
            h = self.norm1(h, scale, shift)
        else:
            h = self.norm1(h + e[:, :, None, None])
        if self.dropout and self.training:
            h = dropout(h, self.dropout)
        h = self.conv1(h)
        x = self.sum(h, x if self.skip is None else self.skip(x))
        if self.heads:
            x = self.sum(x, self.proj(attention(self.qkv(self.norm2(x)), self.heads)))
        return x

    def sum(self, x: Tensor, y: Tensor) -> Tensor:
        """(x + y) s, scaled in place: images of this size are bound by memory."""
        total = x + y
        return total if self.style.scale == 1 else total.mul_(self.style.scale)
