"""The denoiser D(x, sigma): a network F inside the EDM preconditioning (Karras et al. 2022, equation 7)."""

from typing import Any

import torch
from torch import Tensor, nn

from rsd_fast import ops
from rsd_fast.ops import edm, fft

HIDDEN = ("pixels", "columns", "all")
BANKS = ("mask_bank", "maps_bank", "sigma_bank")


class Denoiser(nn.Module):
    """D(x, sigma) = c_skip x + c_out F(c_in x, c_noise): the estimate of the clean signal in x.

    F runs in `compute_dtype` (float32, or bfloat16 by autocast with float32 master weights: see `set_precision`); all
    else in float32. `channels_last` says that its weights are, and its inputs best come, in that memory format.
    `model` is F, so that its parameters carry the published names (`model.enc.32x32_conv.weight`).

    Trained on masked images or undersampled k-space, F has condition_channels more inputs: what of x was observed. What
    was not (`hidden`: "pixels"; "columns" of k-space; "all" of k-space where A* A mixes the two) is, to c_out, at
    infinite noise, where it is sigma_data: with c_out of sigma, which goes to 0 with it, F would have to grow as 1 /
    sigma there. The buffers `BANKS` hold examples of masks, coil maps and noise levels that came with the data, where
    they did.
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
    ):
        super().__init__()
        self.model = model
        self.sigma_data = sigma_data
        self.label_dim = label_dim
        self.condition_channels = condition_channels
        if hidden not in HIDDEN:
            raise ValueError(f"hidden: expected one of {', '.join(HIDDEN)}, got '{hidden}'")
        self.hidden = hidden
        for name in BANKS:
            self.register_buffer(name, None)
        self.compute_dtype = torch.float32
        self.channels_last = False

    @property
    def input_options(self) -> dict[str, Any]:
        """How `ops.perturb` has to make the input of `raw`, so that nothing is left to convert."""
        return {"sigma_data": self.sigma_data, "dtype": self.compute_dtype, "channels_last": self.channels_last}

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
        if self.condition_channels:
            net_input = torch.cat([net_input, self.as_channels(condition, net_input)], 1)
        elif condition is not None:
            raise ValueError("condition: the network takes none; it was not trained on masked data")
        reduced = self.compute_dtype != torch.float32
        with torch.autocast(net_input.device.type, self.compute_dtype, enabled=reduced):
            return self.model(net_input, edm.c_noise(sigma.float()), labels, augment_labels)

    def as_channels(self, condition: Tensor | None, like: Tensor) -> Tensor:
        """The condition beside a network's input, all observed where there is none."""
        shape = (len(like), self.condition_channels, *like.shape[2:])
        if condition is None:
            return like.new_ones(shape)
        if condition.shape != shape:
            raise ValueError(f"condition: expected {list(shape)}, got {list(condition.shape)}")
        return condition.to(like.dtype)

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
            sigma = torch.full((), sigma, device=x.device)
        sigma = sigma.to(x.device, edm.accumulation_dtype(x)).expand(len(x))
        net_input = edm.c_in(edm.per_sample(sigma, x), self.sigma_data) * x
        net_input = edm.laid_out(net_input, self.compute_dtype, self.channels_last)
        return self.denoise(self.raw(net_input, sigma, labels, augment_labels, condition), x, sigma, condition)

    def denoise(self, F: Tensor, x: Tensor, sigma: Tensor, condition: Tensor | None = None) -> Tensor:
        """D(x, sigma) of F's output: `ops.denoise` for what was observed, c_skip x + sigma_data F for what was not.

        Differentiable in F and x. condition: as for `forward`.
        """
        if condition is None or not self.condition_channels:
            return ops.denoise(F, x, sigma, self.sigma_data)
        F = F.to(edm.accumulation_dtype(F))
        if self.hidden == "pixels":
            return torch.where(condition > 0, ops.denoise(F, x, sigma, self.sigma_data), self.sigma_data * F)
        if self.hidden == "all":
            return edm.c_skip(edm.per_sample(sigma, x), self.sigma_data) * x + self.sigma_data * F
        seen = fft.to_channels(fft.ifft2c(fft.fft2c(fft.to_complex(F)) * condition[:, :1]), F.shape[1])
        return ops.denoise(seen, x, sigma, self.sigma_data) + self.sigma_data * (F - seen)


def set_precision(denoiser: Denoiser, precision: str) -> None:
    """How F is computed: "fp32", "tf32" or "bf16". TF32 is a switch of the whole process, and set or cleared here."""
    denoiser.compute_dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
