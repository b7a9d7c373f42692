"""The published U-Nets, DDPM++, NCSN++ and ADM, with the parameter names of the EDM checkpoints.

Sources: Song et al. 2021 (arXiv 2011.13456) for DDPM++ and NCSN++, Dhariwal and Nichol 2021 (arXiv 2105.05233) for ADM,
as reparametrised by Karras et al. 2022 (arXiv 2206.00364, appendix F.1). A network here is the raw F(x, c_noise);
`precond.Denoiser` makes the denoiser D(x, sigma) of it.
"""

import abc
import dataclasses
import math

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rsd_fast import config

from .blocks import ADM, SONG, Block, Style
from .layers import Conv2d, FourierEmbedding, GroupNorm, Linear, positional_angles
from .shape import Shape


class UNet(nn.Module, abc.ABC):
    """Encoder and decoder of one level per entry of channel_mult, each half the size of the last; no embedding yet.

    The shape's image_size is the height the network is named and built for; other sizes that the levels divide run too,
    because attention is chosen by level.
    """

    style: Style
    attend_in_every_block = False  # of a decoder level with attention, or only in its last
    has_auxiliary = False  # a residual pyramid of the input beside the encoder
    checkpoint_activations = False  # keep only the input of each block, and evaluate the block again for its gradient
    first_multiplied = False  # the first convolution goes to the width of the first level

    def __init__(self, settings: config.UNet, shape: Shape):
        super().__init__()
        size, self.stride = shape.image_size, settings.stride
        self.in_channels, self.out_channels = shape.in_channels, shape.out_channels
        self.label_dim, self.label_dropout = shape.label_dim, settings.label_dropout
        self.model_channels, self.embedding_dim = settings.model_channels, 4 * settings.model_channels
        self.levels = [f"{size >> i}x{size >> i}" for i in range(settings.levels)]
        self.widths = [settings.model_channels * mult for mult in settings.channel_mult]
        self.num_blocks, self.attn_levels, self.dropout = settings.num_blocks, settings.attn_levels, settings.dropout
        kind = dataclasses.replace(self.style.convolutions, gated=settings.gated)
        self.style = dataclasses.replace(self.style, convolutions=kind)
        self.build_embedding(settings.augment_dim)
        skips = self.build_encoder()
        self.build_decoder(skips)

    @abc.abstractmethod
    def build_embedding(self, augment_dim: int) -> None:
        """The parameters of `embed`."""

    @abc.abstractmethod
    def embed(self, c_noise: Tensor, labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """[B], [B, label_dim], [B, augment_dim] -> [B, 4 model_channels]."""

    def block(self, c_in: int, c_out: int, *, resample: str | None = None, attention: bool = False) -> Block:
        return Block(
            c_in,
            c_out,
            self.embedding_dim,
            self.style,
            resample=resample,
            attention=attention,
            dropout=self.dropout,
        )

    def conv(self, c_in: int, c_out: int, *, resample: str | None = None, gain: float = 1.0) -> Conv2d:
        return Conv2d(c_in, c_out, 3, resample=resample, kind=self.style.convolutions, gain=gain)

    def build_encoder(self) -> list[int]:
        """The encoder; returns the widths of what it leaves on the skip stack."""
        self.enc = nn.ModuleDict()
        channels = self.widths[0] if self.first_multiplied else self.model_channels
        auxiliary = self.in_channels
        skips: list[int] = []
        for level, (name, width) in enumerate(zip(self.levels, self.widths, strict=True)):
            if level == 0:
                self.enc[f"{name}_conv"] = self.conv(self.in_channels, channels)
            else:
                self.enc[f"{name}_down"] = self.block(channels, channels, resample="down")
                if self.has_auxiliary:
                    self.enc[f"{name}_aux_residual"] = self.conv(auxiliary, channels, resample="fused_down")
                    auxiliary = channels
            skips.append(channels)
            for i in range(self.num_blocks):
                attend = level in self.attn_levels
                self.enc[f"{name}_block{i}"] = self.block(channels, width, attention=attend)
                channels = width
                skips.append(channels)
        return skips

    def build_decoder(self, skips: list[int]) -> None:
        self.dec = nn.ModuleDict()
        channels = skips[-1]
        for level, (name, width) in reversed(list(enumerate(zip(self.levels, self.widths, strict=True)))):
            if level == len(self.levels) - 1:
                self.dec[f"{name}_in0"] = self.block(channels, channels, attention=True)
                self.dec[f"{name}_in1"] = self.block(channels, channels)
            else:
                self.dec[f"{name}_up"] = self.block(channels, channels, resample="up")
            for i in range(self.num_blocks + 1):
                attend = level in self.attn_levels and (self.attend_in_every_block or i == self.num_blocks)
                self.dec[f"{name}_block{i}"] = self.block(channels + skips.pop(), width, attention=attend)
                channels = width

    def check_labels(self, labels: Tensor | None, batch: int) -> Tensor | None:
        """Labels [B, label_dim] after label dropout; None for a network without, or where none were given."""
        if not self.label_dim or labels is None:
            return None
        if labels.shape != (batch, self.label_dim):
            raise ValueError(f"labels: expected one-hot [{batch}, {self.label_dim}], got {list(labels.shape)}")
        if self.training and self.label_dropout:
            labels = labels * (torch.rand(batch, 1, device=labels.device) >= self.label_dropout)
        return labels

    def features(self, x: Tensor, e: Tensor) -> Tensor:
        """[B, in_channels, H, W], [B, 4 model_channels] -> [B, model_channels * channel_mult[0], H, W]."""
        if x.shape[1] != self.in_channels or x.shape[2] % self.stride or x.shape[3] % self.stride:
            raise ValueError(
                f"x: expected [B, {self.in_channels}, H, W] with H and W divisible by {self.stride}, "
                f"got {list(x.shape)}"
            )
        skips: list[Tensor] = []
        auxiliary = x
        for module in self.enc.values():
            if isinstance(module, Conv2d) and module.resample:
                x = auxiliary = (x + module(auxiliary)) * self.style.scale
                skips[-1] = x
            else:
                x = self.evaluate(module, x, e) if isinstance(module, Block) else module(x)
                skips.append(x)
        for name, module in self.dec.items():
            if "_block" in name:
                x = torch.cat([x, skips.pop()], 1)
            if isinstance(module, Block):
                x = self.evaluate(module, x, e)
        return x

    def evaluate(self, block: nn.Module, x: Tensor, e: Tensor) -> Tensor:
        if not (self.checkpoint_activations and torch.is_grad_enabled()):
            return block(x, e)
        # Without dropout there is no random state to keep.
        drops = bool(self.dropout) and self.training
        return checkpoint(block, x, e, use_reentrant=False, preserve_rng_state=drops)


class SongUNet(UNet):
    """DDPM++."""

    style = SONG

    def build_embedding(self, augment_dim: int) -> None:
        dim = self.noise_dim
        self.map_label = Linear(self.label_dim, dim) if self.label_dim else None
        self.map_augment = Linear(augment_dim, dim, bias=False) if augment_dim else None
        self.map_layer0 = Linear(dim, self.embedding_dim)
        self.map_layer1 = Linear(self.embedding_dim, self.embedding_dim)

    @property
    def noise_dim(self) -> int:
        return self.model_channels

    def build_decoder(self, skips: list[int]) -> None:
        super().build_decoder(skips)
        name, width = self.levels[0], self.widths[0]
        self.dec[f"{name}_aux_norm"] = GroupNorm(width, eps=self.style.eps, silu=True)
        self.dec[f"{name}_aux_conv"] = self.conv(width, self.out_channels, gain=self.style.last_gain)

    def embed_noise(self, c_noise: Tensor) -> Tensor:
        angles = positional_angles(c_noise, self.noise_dim, self.noise_dim // 2 - 1)
        return torch.cat([angles.sin(), angles.cos()], 1)

    def embed(self, c_noise: Tensor, labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        e = self.embed_noise(c_noise)
        labels = self.check_labels(labels, c_noise.shape[0])
        if self.map_label is not None and labels is not None:
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
        x = self.features(x, self.embed(c_noise, labels, augment_labels))
        name = self.levels[0]
        return self.dec[f"{name}_aux_conv"](self.dec[f"{name}_aux_norm"](x))


class NCSNpp(SongUNet):
    """NCSN++: DDPM++ with a Fourier embedding, a wider resampling filter, and a residual pyramid of the input."""

    style = dataclasses.replace(SONG, convolutions=dataclasses.replace(SONG.convolutions, taps=(1, 3, 3, 1)))
    has_auxiliary = True

    def build_embedding(self, augment_dim: int) -> None:
        self.map_noise = FourierEmbedding(self.noise_dim)
        super().build_embedding(augment_dim)

    @property
    def noise_dim(self) -> int:
        return 2 * self.model_channels

    def embed_noise(self, c_noise: Tensor) -> Tensor:
        return self.map_noise(c_noise)


class DhariwalUNet(UNet):
    """ADM."""

    style = ADM
    attend_in_every_block = True
    first_multiplied = True

    def build_embedding(self, augment_dim: int) -> None:
        noise, e, initial = self.model_channels, self.embedding_dim, self.style.convolutions.initial
        self.map_augment = Linear(augment_dim, noise, bias=False, gain=0.0) if augment_dim else None
        self.map_layer0 = Linear(noise, e, initial=initial)
        self.map_layer1 = Linear(e, e, initial=initial)
        self.map_label = Linear(self.label_dim, e, bias=False) if self.label_dim else None
        if self.map_label is not None:
            nn.init.normal_(self.map_label.weight)

    def build_decoder(self, skips: list[int]) -> None:
        super().build_decoder(skips)
        self.out_norm = GroupNorm(self.widths[0], eps=self.style.eps, silu=True)
        self.out_conv = self.conv(self.widths[0], self.out_channels, gain=self.style.last_gain)

    def embed(self, c_noise: Tensor, labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        angles = positional_angles(c_noise, self.model_channels, self.model_channels // 2)
        e = torch.cat([angles.cos(), angles.sin()], 1)
        if self.map_augment is not None and augment_labels is not None:
            e = e + self.map_augment(augment_labels)
        e = self.map_layer1(nnf.silu(self.map_layer0(e)))
        labels = self.check_labels(labels, c_noise.shape[0])
        if self.map_label is not None and labels is not None:
            e = e + self.map_label(labels)
        return nnf.silu(e)

    def forward(
        self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        """As `SongUNet.forward`."""
        return self.out_conv(self.out_norm(self.features(x, self.embed(c_noise, labels, augment_labels))))
