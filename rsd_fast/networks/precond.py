"""The denoiser D(x, sigma): a network F inside the EDM preconditioning (Karras et al. 2022, equation 7).

Networks published with another preconditioning (VP, VE: table 1 there) are brought into EDM's form,

    F = ((1 - c_skip) x + s sigma F') / c_out = (sigma c_in x + s F' / c_in) / sigma_data,   s = -1 (VP) or 1 (VE),

whose D is exactly theirs, D = x + s sigma F'(c_in' x, c_noise'), so that all else need know of one form only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rsd_fast import ops
from rsd_fast.errors import FieldError
from rsd_fast.ops import edm

from .hidden import HIDDEN
from .layers import Conv2d, Linear

BANKS = ("mask_bank", "maps_bank", "sigma_bank")


@dataclass(frozen=True)
class Foreign:
    """The preconditioning D = x + sign sigma F'(c_in x, c_noise) of a published network; c_skip is 1."""

    sign: int
    c_in: Callable[[Tensor], Tensor]
    c_noise: Callable[[Tensor], Tensor]


def _vp_time(sigma: Tensor) -> Tensor:
    """999 t(sigma), the inverse of sigma^2 = exp(19.9 t^2 / 2 + .1 t) - 1 (beta_d 19.9, beta_min .1)."""
    return 999 * ((0.01 + 39.8 * torch.log1p(sigma**2)).sqrt() - 0.1) / 19.9


PRECONDITIONINGS: dict[str, Foreign | None] = {
    "edm": None,
    "vp": Foreign(-1, lambda sigma: (sigma**2 + 1).rsqrt(), _vp_time),
    "ve": Foreign(1, torch.ones_like, lambda sigma: (sigma / 2).log()),
}


class Denoiser(nn.Module):
    """D(x, sigma) = c_skip x + c_out F(c_in x, c_noise): the estimate of the clean signal in x.

    F runs in `compute_dtype` (float32, or bfloat16 by autocast with float32 master weights: see `set_precision`); all
    else in float32. `channels_last` says that its weights are, and its inputs best come, in that memory format.
    `model` is F, so that its parameters carry the published names (`model.enc.32x32_conv.weight`).

    Trained on masked images or undersampled k-space, F has condition_channels more inputs: what of x was observed.
    `hidden` says what was not, a name of `HIDDEN`; the attribute is its record. The buffers `BANKS` hold examples of
    masks, coil maps and noise levels that came with the data, where they did.

    preconditioning: what F was trained with, a key of `PRECONDITIONINGS`.
    """

    mask_bank: Tensor | None  # uint8, `corruptions.Draw.mask`
    maps_bank: Tensor | None  # float32 [N, 2 coils, H, W], `corruptions.Draw.maps` as real and imaginary parts
    sigma_bank: Tensor | None  # float32 [N]

    def __init__(
        self,
        model: nn.Module,
        *,
        sigma_data: float = 0.5,
        label_dim: int = 0,
        condition_channels: int = 0,
        hidden: str = "pixels",
        preconditioning: str = "edm",
    ):
        super().__init__()
        self.model = model
        self.sigma_data = sigma_data
        self.label_dim = label_dim
        self.condition_channels = condition_channels
        if preconditioning not in PRECONDITIONINGS:
            known = ", ".join(PRECONDITIONINGS)
            raise ValueError(f"preconditioning: expected one of {known}, got '{preconditioning}'")
        self.hidden = HIDDEN[hidden]
        self.foreign = PRECONDITIONINGS[preconditioning]
        for name in BANKS:
            self.register_buffer(name, None)
        self.compute_dtype = torch.float32
        self.channels_last = False

    def hold_banks(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what there is of `BANKS` among tensors by name."""
        for name in BANKS:
            if name in tensors:
                setattr(self, name, tensors[name])

    @property
    def input_options(self) -> ops.InputOptions:
        """How `ops.perturb` has to make the input of `raw`, so that nothing is left to convert."""
        return ops.InputOptions(self.sigma_data, self.input_dtype, self.channels_last)

    @property
    def input_dtype(self) -> torch.dtype:
        """The dtype of the input of `raw`. A foreign preconditioning adds that to F, and it has more digits than F."""
        return torch.float32 if self.foreign else self.compute_dtype

    def raw(
        self,
        net_input: Tensor,
        sigma: Tensor,
        labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> Tensor:
        """F of net_input = c_in(sigma) x_t, as `ops.perturb` returns it: [B, C, H, W], sigma [B] -> [B, C', H, W].

        condition: as for `forward`. Raises ValueError for one that a network has no inputs for.
        """
        sigma, x = sigma.float(), net_input
        c_noise = self.foreign.c_noise(sigma) if self.foreign else edm.c_noise(sigma)
        level = edm.per_sample(sigma, x)
        if self.foreign:
            x = x * (self.foreign.c_in(level) / edm.c_in(level, self.sigma_data))
        if self.condition_channels:
            x = torch.cat([x, self.as_channels(condition, x, level)], 1)
        elif condition is not None:
            raise ValueError("condition: the network takes none; it was not trained on masked data")
        reduced = self.compute_dtype != torch.float32
        with torch.autocast(x.device.type, self.compute_dtype, enabled=reduced):
            F = self.model(x, c_noise, labels, augment_labels)
        if self.hidden.predicts_condition:
            F = edm.laid_out(F[:, : net_input.shape[1]], F.dtype, self.channels_last)
        if self.foreign:
            scale = self.foreign.sign / edm.c_in(level, self.sigma_data)
            F = (level * net_input + scale * F) / self.sigma_data
        return F

    def as_channels(self, condition: Tensor | None, like: Tensor, level: Tensor) -> Tensor:
        """The condition beside a network's input; all is observed where there is none."""
        shape = (like.shape[0], self.condition_channels, *like.shape[2:])
        if condition is None:
            condition = like.new_ones(shape)
        if condition.shape != shape:
            raise ValueError(f"condition: expected {list(shape)}, got {list(condition.shape)}")
        c_in = self.foreign.c_in(level) if self.foreign else edm.c_in(level, self.sigma_data)
        return self.hidden.condition(condition, c_in).to(like.dtype)

    def forward(
        self,
        x: Tensor,
        sigma: Tensor | float,
        labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> Tensor:
        """D(x, sigma): x [B, C, H, W] = clean + sigma noise, sigma [B] or a number, labels [B, label_dim] one-hot.

        condition: [B, condition_channels, H, W], 1 where x was observed and 0 where it is missing (and x is 0), for a
        network that was trained on masks or k-space; None: nothing is missing.
        Returns [B, C, H, W] in float32, or float64 where x is float64 (F itself runs in compute_dtype).
        """
        if not isinstance(sigma, Tensor):
            sigma = torch.full((), sigma, dtype=edm.accumulation_dtype(x), device=x.device)
        # shape[0] and not len(x), which would tie an exported program to one size of batch.
        sigma = sigma.to(x.device, edm.accumulation_dtype(x)).expand(x.shape[0])
        net_input = edm.c_in(edm.per_sample(sigma, x), self.sigma_data) * x
        net_input = edm.laid_out(net_input, self.input_dtype, self.channels_last)
        return self.denoise(self.raw(net_input, sigma, labels, augment_labels, condition), x, sigma, condition)

    def denoise(self, F: Tensor, x: Tensor, sigma: Tensor, condition: Tensor | None = None) -> Tensor:
        """D(x, sigma) of F's output: `ops.denoise` for what was observed; what was not, `hidden` preconditions.

        Differentiable in F and x. condition: as for `forward`.
        """
        if condition is None or not self.condition_channels:
            return ops.denoise(F, x, sigma, self.sigma_data)
        return self.hidden.denoise(F, x, sigma, condition, self.sigma_data)


def cast_weights(denoiser: Denoiser) -> None:
    """Hold what F multiplies by in compute_dtype, of a network that is not trained: autocast would make the same of it,
    bit for bit, at every evaluation. Its state dict is then no longer its float32 weights."""
    for module in denoiser.modules():
        if isinstance(module, Conv2d | Linear):
            module.to(denoiser.compute_dtype)


def compile_network(denoiser: Denoiser) -> None:
    """Let F be compiled, in place, as one graph for each shape of its input, when it is first evaluated."""
    denoiser.model.compile(fullgraph=True, dynamic=False)


def place(
    denoiser: Denoiser, device: str | torch.device, layout: torch.memory_format = torch.channels_last
) -> Denoiser:
    """The denoiser on a device, its weights in a memory format: convolutions are fastest in channels-last."""
    where: dict[str, Any] = {"device": device, "memory_format": layout}  # no overload of `to` takes both
    return denoiser.to(**where)


def set_checkpointing(denoiser: Denoiser, on: bool) -> None:
    """Let F keep only the input of each block, and evaluate the block again for its gradient. FieldError where it has
    no blocks that can be evaluated so."""
    model: Any = denoiser.model
    if on and not hasattr(model, "checkpoint_activations"):
        raise FieldError("checkpoint_activations", "this network keeps what its layers make; it cannot do without")
    model.checkpoint_activations = on


def set_precision(denoiser: Denoiser, precision: str) -> None:
    """How F is computed: "fp32", "tf32" or "bf16". TF32 is a switch of the whole process, and set or cleared here."""
    denoiser.compute_dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
