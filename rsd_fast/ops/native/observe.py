from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .. import edm
from .._library import implement
from ..observe import KINDS, Acquisition, Operator, new_outputs, threshold
from ..perturb import Perturbation
from ..philox import Counter
from .blur import taps
from .launch import launch, raw_dtype, stride


@implement("observe", "native")
def observe(images: Tensor, acquisition: Acquisition, channels_last: bool) -> tuple[Tensor, Tensor]:
    y, mask = new_outputs(images, acquisition, channels_last)
    outputs = {"y": y, "mask": mask if acquisition.mask_format else None}
    run(images, y, outputs, acquisition.operator, acquisition.sigma_obs, **observation_fields(acquisition))
    return y, mask


@implement("observe_perturb", "native")
def observe_perturb(
    images: Tensor, acquisition: Acquisition, perturbation: Perturbation
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _, dtype, channels_last = perturbation.options
    y, mask = new_outputs(images, acquisition, channels_last)
    x_t, net_input = torch.empty_like(y), torch.empty_like(y, dtype=raw_dtype(y, dtype))
    outputs = {"y": y, "mask": mask if acquisition.mask_format else None, "x_t": x_t, "net_input": net_input}
    fields = observation_fields(acquisition) | perturbation_fields(perturbation)
    run(images, y, outputs, acquisition.operator, acquisition.sigma_obs, **fields)
    return y, mask, x_t, net_input.to(dtype)


def observation_fields(acquisition: Acquisition) -> dict[str, Any]:
    counter, _, operator, mask_format = acquisition
    return {
        **_counter_fields(counter, "index", "observation_step", "seed"),
        "threshold": threshold(operator.missing),
        "packed": mask_format == "packed",
        "factor": operator.factor,
        **(taps(operator.kernel) if operator.kind == "blur" and operator.kernel is not None else {}),
    }


def perturbation_fields(perturbation: Perturbation) -> dict[str, Any]:
    sigma, counter, options = perturbation
    return {
        **_counter_fields(counter, "sample", "step", "noise_seed"),
        "sigma": sigma,
        "sigma_stride": stride(sigma),
        "sigma_data": options.sigma_data,
    }


def _counter_fields(counter: Counter, sample: str, step: str, seed: str) -> dict[str, Any]:
    samples, steps = counter.sample.to(torch.int64), counter.step.to(torch.int64).reshape(-1)
    strides = {f"{sample}_stride": stride(samples), f"{step}_stride": stride(steps)}
    return {sample: samples, step: steps, seed: counter.seed, **strides}


def run(
    images: Tensor,
    out: Tensor,
    outputs: Mapping[str, Tensor | None],
    operator: Operator,
    sigma_obs: Tensor,
    **fields: Any,
) -> None:
    """Run csrc/observe.h on images of any layout; `out` is one of the outputs, of which all have its layout."""
    channels_last, out_channels_last = edm.is_channels_last(images), edm.is_channels_last(out)
    images = edm.laid_out(images, images.dtype if images.dtype == torch.uint8 else out.dtype, channels_last)
    batch, channels, height, width = images.shape if images.ndim == 4 else (len(images), 1, 1, images[:1].numel())
    size = {"in_height": height, "in_width": width, "channels": channels}
    size |= {"height": out.shape[2], "width": out.shape[3]} if out.ndim == 4 else {"height": height, "width": width}
    shared = operator.shared
    plain = operator.kind == "identity" or (operator.kind == "mask" and not shared)
    if plain and not channels_last and not out_channels_last:  # then a sample is one plane
        size = dict.fromkeys(("in_height", "height", "channels"), 1)
        size |= dict.fromkeys(("in_width", "width"), channels * height * width)
        shared = True
    net_input = outputs.get("net_input")
    launch(
        "observe",
        images.device,
        images=images,
        batch=batch,
        **size,
        **outputs,
        kind=KINDS.index(operator.kind),
        shared=shared,
        sigma_obs=sigma_obs,
        sigma_obs_stride=stride(sigma_obs),
        images_dtype=images.dtype,
        dtype=out.dtype,
        net_dtype=out.dtype if net_input is None else net_input.dtype,
        images_channels_last=channels_last,
        channels_last=out_channels_last,
        **fields,
    )
