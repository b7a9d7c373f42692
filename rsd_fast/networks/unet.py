"""The DDPM++ U-Net of score-based diffusion, with the parameter names of the published EDM checkpoints.

Source: Song et al. 2021 (arXiv 2011.13456), as reparametrised by Karras et al. 2022 (arXiv 2206.00364,
appendix F.1). A network here is the raw F(x, c_noise); `precond.Denoiser` makes the denoiser D(x, sigma) of it.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from rsd_fast import ops

SKIP_SCALE = math.sqrt(0.5)  # keeps the variance of a sum of two unit-variance branches


def xavier_uniform(shape: Sequence[int], gain: float = 1.0) -> nn.Parameter:
    """A weight [out, in, ...], uniform with bound sqrt(6 / (fan_in + fan_out)), times `gain`."""
    area = math.prod(shape[2:])
    bound = math.sqrt(6 / ((shape[0] + shape[1]) * area))
    return nn.Parameter(gain * bound * (2 * torch.rand(*shape) - 1))


class Linear(nn.Module):
    """y = x W^T (+ b); weight [out, in]."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True):
        super().__init__()
        self.weight = xavier_uniform((out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:  # [B, in] -> [B, out]
        return nnf.linear(x, self.weight, self.bias)


class Conv2d(nn.Module):
    """Convolution of odd kernel with zero padding, stride 1, optionally after a resampling by 2.

    kernel 0 has no weight and only resamples. The resampling filter (1, 1) / 2 along each axis is averaging of 2x2
    pixels on the way down and pixel repetition on the way up; it is held as a buffer for the published state dicts.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        resample: str | None = None,
        gain: float = 1.0,
    ):
        super().__init__()
        self.resample = resample
        self.weight: nn.Parameter | None
        self.bias: nn.Parameter | None
        if kernel:
            self.weight = xavier_uniform((out_channels, in_channels, kernel, kernel), gain)
            self.bias = nn.Parameter(torch.zeros(out_channels))
        else:
            self.weight = self.bias = None
        if resample:
            self.register_buffer("resample_filter", torch.full((1, 1, 2, 2), 0.25))

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W] -> [B, C', H', W']
        if self.resample == "down":
            x = nnf.avg_pool2d(x, 2)
        elif self.resample == "up":
            x = nnf.interpolate(x, scale_factor=2, mode="nearest")
        if self.weight is None:
            return x
        return nnf.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)


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

    def forward(self, x: Tensor) -> Tensor:
        return ops.group_norm_silu(x, self.weight, self.bias, self.groups, self.eps, silu=self.silu)


def attention(qkv: Tensor, heads: int) -> Tensor:
    """Self-attention over the H*W positions; qkv [B, 3C, H, W] read as [B, heads, C/heads, 3] -> [B, C, H, W].

    q, k and v are interleaved (index 3 fastest), as in the published checkpoints.
    """
    batch, channels, height, width = qkv.shape
    q, k, v = qkv.reshape(batch, heads, channels // (3 * heads), 3, height * width).transpose(-1, 2).unbind(3)
    out = nnf.scaled_dot_product_attention(q, k, v)  # [B, heads, H*W, C/heads]
    return out.transpose(-1, -2).reshape(batch, channels // 3, height, width)


class Block(nn.Module):
    """Residual block with additive embedding, and self-attention where asked for.

    h = conv1(dropout(silu(norm1(conv0(silu(norm0(x))) + affine(e)))))
    x = (h + skip(x)) sqrt(1/2),   then   x = (x + proj(attention(qkv(norm2(x))))) sqrt(1/2)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_dim: int,
        *,
        resample: str | None = None,
        attention: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.dropout = dropout
        self.norm0 = GroupNorm(in_channels, silu=True)
        self.conv0 = Conv2d(in_channels, out_channels, 3, resample=resample)
        self.affine = Linear(embedding_dim, out_channels)
        self.norm1 = GroupNorm(out_channels, silu=True)
        self.conv1 = Conv2d(out_channels, out_channels, 3, gain=1e-5)
        needs_skip = in_channels != out_channels or resample
        self.skip = Conv2d(in_channels, out_channels, 1, resample=resample) if needs_skip else None
        if attention:
            self.norm2 = GroupNorm(out_channels)
            self.qkv = Conv2d(out_channels, 3 * out_channels, 1, gain=math.sqrt(0.2))
            self.proj = Conv2d(out_channels, out_channels, 1, gain=1e-5)
        self.has_attention = attention

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # [B, C, H, W], [B, E] -> [B, C', H', W']
        h = self.conv0(self.norm0(x))
        h = self.norm1(h + self.affine(embedding)[:, :, None, None])
        h = self.conv1(nnf.dropout(h, self.dropout, self.training))
        x = (h + (x if self.skip is None else self.skip(x))) * SKIP_SCALE
        if self.has_attention:
            x = (x + self.proj(attention(self.qkv(self.norm2(x)), heads=1))) * SKIP_SCALE
        return x


def positional_embedding(c_noise: Tensor, dim: int) -> Tensor:
    """(sin, cos) of c_noise * freq_i with freq_i = 10000^(-i / (dim/2 - 1)); [B] -> [B, dim]."""
    half = dim // 2
    index = torch.arange(half, device=c_noise.device, dtype=torch.float32)
    angle = c_noise.float().outer(10000.0 ** (-index / (half - 1)))
    return torch.cat([angle.sin(), angle.cos()], 1)


class SongUNet(nn.Module):
    """DDPM++: F(x, c_noise) with a U-Net of one level per entry of channel_mult, each half the size of the last.

    image_size is the height the network is named and built for; other sizes that the levels divide run too, because
    attention is chosen by level. Raises ValueError on settings that do not fit together.
    """

    def __init__(
        self,
        *,
        image_size: int,
        in_channels: int = 3,
        out_channels: int = 3,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (2, 2, 2),
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        label_dim: int = 0,
        augment_dim: int = 0,
        dropout: float = 0.0,
        label_dropout: float = 0.0,
    ):
        super().__init__()
        self.stride = 2 ** (len(channel_mult) - 1)
        _check_settings(image_size, self.stride, model_channels, channel_mult, attn_resolutions)
        for name, value, least in (
            ("in_channels", in_channels, 1),
            ("out_channels", out_channels, 1),
            ("num_blocks", num_blocks, 1),
            ("label_dim", label_dim, 0),
            ("augment_dim", augment_dim, 0),
        ):
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected 0 <= dropout < 1, got {dropout}")
        self.in_channels = in_channels
        self.label_dim, self.label_dropout = label_dim, label_dropout
        self.noise_dim = model_channels
        embedding_dim = 4 * model_channels

        self.map_label = Linear(label_dim, self.noise_dim) if label_dim else None
        self.map_augment = Linear(augment_dim, self.noise_dim, bias=False) if augment_dim else None
        self.map_layer0 = Linear(self.noise_dim, embedding_dim)
        self.map_layer1 = Linear(embedding_dim, embedding_dim)

        def block(c_in: int, c_out: int, **options: object) -> Block:
            return Block(c_in, c_out, embedding_dim, dropout=dropout, **options)  # type: ignore[arg-type]

        levels = [(image_size >> i, model_channels * mult) for i, mult in enumerate(channel_mult)]
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        channels = model_channels
        skips = [channels]
        for level, (size, width) in enumerate(levels):
            if level == 0:
                self.enc[f"{size}x{size}_conv"] = Conv2d(in_channels, channels, 3)
            else:
                self.enc[f"{size}x{size}_down"] = block(channels, channels, resample="down")
                skips.append(channels)
            for i in range(num_blocks):
                attend = size in attn_resolutions
                self.enc[f"{size}x{size}_block{i}"] = block(channels, width, attention=attend)
                channels = width
                skips.append(channels)

        for level, (size, width) in reversed(list(enumerate(levels))):
            if level == len(levels) - 1:
                self.dec[f"{size}x{size}_in0"] = block(channels, channels, attention=True)
                self.dec[f"{size}x{size}_in1"] = block(channels, channels)
            else:
                self.dec[f"{size}x{size}_up"] = block(channels, channels, resample="up")
            for i in range(num_blocks + 1):
                attend = i == num_blocks and size in attn_resolutions
                self.dec[f"{size}x{size}_block{i}"] = block(channels + skips.pop(), width, attention=attend)
                channels = width
        self.dec[f"{image_size}x{image_size}_aux_norm"] = GroupNorm(channels, silu=True)
        self.dec[f"{image_size}x{image_size}_aux_conv"] = Conv2d(channels, out_channels, 3, gain=1e-5)

    def embed(self, c_noise: Tensor, labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """[B], [B, label_dim], [B, augment_dim] -> [B, 4 model_channels]."""
        e = positional_embedding(c_noise, self.noise_dim)
        if self.map_label is not None and labels is not None:
            if labels.shape != (len(c_noise), self.label_dim):
                raise ValueError(
                    f"labels: expected one-hot [{len(c_noise)}, {self.label_dim}], got {list(labels.shape)}"
                )
            if self.training and self.label_dropout:
                keep = torch.rand(len(labels), 1, device=labels.device) >= self.label_dropout
                labels = labels * keep
            e = e + self.map_label(labels * math.sqrt(self.label_dim))
        elif self.map_label is not None and self.map_label.bias is not None:
            e = e + self.map_label.bias  # no labels given to a conditional network means zeros
        if self.map_augment is not None and augment_labels is not None:
            e = e + self.map_augment(augment_labels)
        return nnf.silu(self.map_layer1(nnf.silu(self.map_layer0(e))))

    def forward(
        self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        """x [B, in_channels, H, W], c_noise [B], labels [B, label_dim] one-hot -> [B, out_channels, H, W]."""
        if x.shape[1] != self.in_channels or x.shape[2] % self.stride or x.shape[3] % self.stride:
            raise ValueError(
                f"x: expected [B, {self.in_channels}, H, W] with H and W divisible by {self.stride}, "
                f"got {list(x.shape)}"
            )
        e = self.embed(c_noise, labels, augment_labels)
        skips = []
        for module in self.enc.values():
            x = module(x, e) if isinstance(module, Block) else module(x)
            skips.append(x)
        for name, module in self.dec.items():
            if isinstance(module, Block):
                if "_block" in name:
                    x = torch.cat([x, skips.pop()], 1)
                x = module(x, e)
            else:
                x = module(x)
        return x


def _check_settings(
    image_size: int,
    stride: int,
    model_channels: int,
    channel_mult: Sequence[int],
    attn_resolutions: Sequence[int],
) -> None:
    if not channel_mult or min(channel_mult) < 1:
        raise ValueError(f"channel_mult: expected positive integers, got {list(channel_mult)}")
    if image_size < 1 or image_size % stride:
        raise ValueError(
            f"image_size: {len(channel_mult)} levels need a multiple of {stride}, got {image_size}; "
            "use fewer entries in channel_mult, or pad or crop the images"
        )
    if model_channels < 4 or model_channels % 4:
        raise ValueError(f"model_channels: expected a multiple of 4, got {model_channels}")
    sizes = [image_size >> i for i in range(len(channel_mult))]
    unknown = sorted(set(attn_resolutions) - set(sizes))
    if unknown:
        raise ValueError(f"attn_resolutions: {unknown} are not among the levels' sizes {sizes}")
