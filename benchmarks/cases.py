"""What the benchmark of the ops calls: inputs, the least traffic, and the code a user would write instead."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
IMAGES = [(3, 64, 64), (3, 32, 32), (3, 256, 256)]  # [C, H, W]
FEATURES = [(64, 128, 16, 16), (32, 128, 32, 32), (16, 128, 64, 64)]  # [B, C, H, W] inside a network, channels-last
CORRUPTIONS = ("identity", "mask", "blur", "downsample")
SEED, MISSING, FACTOR, SIGMA_OBS, GROUPS, EPS = 7, 0.6, 2, 0.3, 32, 1e-5


class Traffic(NamedTuple):
    forward: Callable[[int], float]
    backward: Callable[[int], float] | None = None  # None: no gradients


# The bytes of each element of an image (or of x) that cannot be avoided, d of them in the network's dtype: every tensor
# is read or written once, images are float32 (4) or uint8 (1), and [B] tensors, masks and taps do not count. A
# backward pass comes later than its forward pass, and so reads again what its gradients depend on.
TRAFFIC = {
    "randn": Traffic(lambda d: 4),  # noise
    "observe": Traffic(lambda d: 1 + 4),  # images; y
    "observe downsample": Traffic(lambda d: 1 + 4 / FACTOR**2),
    "perturb": Traffic(lambda d: 4 + 4 + d),  # y; x_t, net_input
    "observe_perturb": Traffic(lambda d: 1 + 4 + 4 + d),  # images; y, x_t, net_input
    "denoise": Traffic(lambda d: d + 4 + 4, lambda d: 4 + d + 4),  # F, x_t; D.  dD; dF, dx_t
    "denoising_loss": Traffic(lambda d: d + 4 + 4, lambda d: d + 4 + 4 + d),  # F, x_t, y.  The same; dF
    "score_difference_loss": Traffic(  # F_teacher, F_fake, u_t, u.  The same; their gradients
        lambda d: 2 * d + 2 * 4, lambda d: 2 * (2 * d + 2 * 4)
    ),
    "blur": Traffic(lambda d: 4 + 4, lambda d: 4 + 4),  # x; y.  dy; dx
    "blur_adjoint": Traffic(lambda d: 4 + 4, lambda d: 4 + 4),
    "downsample": Traffic(lambda d: 4 + 4 / FACTOR**2, lambda d: 4 + 4 / FACTOR**2),
    "downsample_adjoint": Traffic(lambda d: 4 + 4 / FACTOR**2, lambda d: 4 + 4 / FACTOR**2),
    "group_norm_silu": Traffic(lambda d: d + d, lambda d: d + d + d),  # x; y.  dy, x; dx
}
OPS = tuple(name for name in TRAFFIC if " " not in name)


@dataclass(frozen=True)
class Case:
    """A line of the benchmark, without the backend."""

    op: str
    variant: str  # the corruption, or ""
    shape: tuple[int, ...]  # [B, C, H, W] of the images or features
    dtype: str  # of the network's raw output and input; images are float32
    backward: bool

    def __str__(self) -> str:
        return " ".join(filter(None, [self.op, self.variant, self.size, self.dtype, self.passes]))

    @property
    def size(self) -> str:
        return "x".join(map(str, self.shape))

    @property
    def passes(self) -> str:
        return "forward+backward" if self.backward else "forward"

    @property
    def nbytes(self) -> int:
        """The traffic of the pass."""
        traffic, d = _traffic(self.op, self.variant), DTYPES[self.dtype].itemsize
        passes = [traffic.forward, traffic.backward] if self.backward else [traffic.forward]
        return int(math.prod(self.shape) * sum(count(d) for count in passes if count))


def cases(ops: list[str], shapes: list[tuple[int, ...]], dtypes: list[str], batch: int, quick: bool) -> Iterator[Case]:
    """What to measure, shape by shape: four numbers are for `group_norm_silu`, three for all else."""
    for shape in shapes:
        for op in ops:
            if (len(shape) == 4) != (op == "group_norm_silu"):
                continue
            variants = {"observe": CORRUPTIONS, "observe_perturb": CORRUPTIONS[:2]}.get(op, ("",))
            traffic = TRAFFIC[op]
            for dtype in dtypes if traffic.forward(2) != traffic.forward(4) else ["fp32"]:
                for variant in variants:
                    for backward in [False, True][: 1 if quick or traffic.backward is None else 2]:
                        yield Case(op, variant, shape if len(shape) == 4 else (batch, *shape), dtype, backward)


class Call(NamedTuple):
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    differentiated: tuple[Tensor, ...]


def call(case: Case, ops: ModuleType, device: str) -> Call:
    """What the op is called with: the same numbers in every process."""
    random = torch.Generator(device).manual_seed(SEED)
    batch, channels, height, width = case.shape
    d = DTYPES[case.dtype]

    def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape or case.shape, generator=random, device=device).to(dtype)

    def with_gradients(*tensors: Tensor, **options: Any) -> Call:
        """Called with the tensors, and for a backward pass differentiated in the first of them."""
        differentiated = tensors[: _DIFFERENTIATED[case.op]] if case.backward else ()
        return Call(tensors, options, tuple(tensor.requires_grad_() for tensor in differentiated))

    sample, input_options = torch.arange(batch, device=device), ops.InputOptions(dtype=d)
    sigma = SIGMA_OBS + 2 * torch.rand(batch, generator=random, device=device)
    if case.op == "randn":
        return Call((case.shape, SEED, sample, 0, ops.Stream.DIFFUSION_NOISE), {}, ())
    if case.op in ("observe", "observe_perturb"):
        images = torch.randint(0, 256, case.shape, generator=random, device=device, dtype=torch.uint8)
        operator = {
            "identity": lambda: ops.Operator.identity(),
            "mask": lambda: ops.Operator.mask(missing=MISSING, shared=True),
            "blur": lambda: ops.Operator.blur(taps(device)),
            "downsample": lambda: ops.Operator.downsample(FACTOR),
        }[case.variant]()
        if case.op == "observe":
            return Call((images, sample, operator, SIGMA_OBS, SEED), {}, ())
        return Call((images, operator, SIGMA_OBS, sigma, ops.Key(SEED, sample)), {"options": input_options}, ())
    if case.op == "perturb":
        return Call((normal(), sigma, SIGMA_OBS, SEED, sample, 0), {"options": input_options}, ())
    if case.op == "denoise":
        return with_gradients(normal(dtype=d), normal(), sigma)
    if case.op == "denoising_loss":
        return with_gradients(normal(dtype=d), normal(), normal(), sigma, sigma_obs=SIGMA_OBS)
    if case.op == "score_difference_loss":
        return with_gradients(normal(dtype=d), normal(dtype=d), normal(), normal(), sigma)
    if case.op in ("blur", "blur_adjoint"):
        return with_gradients(normal(), taps(device))
    if case.op == "downsample":
        return with_gradients(normal(), factor=FACTOR)
    if case.op == "downsample_adjoint":
        return with_gradients(normal(batch, channels, height // FACTOR, width // FACTOR), factor=FACTOR)
    x = normal(dtype=d).to(memory_format=torch.channels_last)  # group_norm_silu
    weight, bias = (normal(channels, dtype=d) for _ in range(2))
    return with_gradients(x, weight, bias, groups=GROUPS, eps=EPS)


_DIFFERENTIATED = {  # in how many of its first arguments
    "denoise": 2,
    "denoising_loss": 1,
    "score_difference_loss": 4,
    "blur": 1,
    "blur_adjoint": 1,
    "downsample": 1,
    "downsample_adjoint": 1,
    "group_norm_silu": 3,
}


def taps(device: str, size: int = 9, std: float = 2.0) -> Tensor:
    """A Gaussian along one axis, of sum 1."""
    offset = torch.arange(size, dtype=torch.float32, device=device) - size // 2
    weights = (-0.5 * (offset / std) ** 2).exp()
    return weights / weights.sum()


# With noise from torch.randn: what one writes where noise need not be a function of the image.


def _observe(images: Tensor, variant: str) -> Tensor:
    x = images.float() / 127.5 - 1
    if variant == "mask":
        x = x * (torch.rand(len(x), 1, *x.shape[2:], device=x.device) >= MISSING)
    if variant == "blur":
        kernel, channels = taps(str(x.device)), x.shape[1]
        n = len(kernel)
        x = nnf.pad(x, [n // 2] * 4, mode="reflect")
        x = nnf.conv2d(x, kernel.view(1, 1, n, 1).expand(channels, 1, n, 1), groups=channels)
        x = nnf.conv2d(x, kernel.view(1, 1, 1, n).expand(channels, 1, 1, n), groups=channels)
    if variant == "downsample":
        x = nnf.avg_pool2d(x, FACTOR)
    return x + SIGMA_OBS * torch.randn_like(x)


def _perturb(y: Tensor, sigma: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    sigma = sigma.view(-1, 1, 1, 1)
    x_t = y + (sigma**2 - SIGMA_OBS**2).sqrt() * torch.randn_like(y)
    return x_t, (x_t / (sigma**2 + 0.25).sqrt()).to(dtype)


def with_torch_randn(case: Case, called: Call) -> Callable[[], Any] | None:
    first, *rest = called.arguments
    dtype = DTYPES[case.dtype]
    if case.op == "observe":
        return lambda: _observe(first, case.variant)
    if case.op == "perturb":
        return lambda: _perturb(first, rest[0], dtype)
    if case.op == "observe_perturb":
        return lambda: _perturb(_observe(first, case.variant), rest[2], dtype)
    return None


def _traffic(op: str, variant: str) -> Traffic:
    return TRAFFIC.get(f"{op} {variant}", TRAFFIC[op])
