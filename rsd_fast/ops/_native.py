"""Kernels of csrc/, for "cpu" and, where built, "cuda". The only file that touches an address."""

import math
from typing import Any

import torch
from torch import Tensor

from rsd_fast import _C

from . import edm
from ._library import implement
from .downsample import new_images, small_size
from .group_norm_silu import affine, parameter_gradients
from .observe import KINDS, new_outputs, threshold

_DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3, torch.uint8: 4}  # csrc/dtype.h


def _field(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.data_ptr()
    if isinstance(value, torch.dtype):
        return _DTYPES[value]
    return value


def _run(op: str, device: torch.device, **fields: Any) -> None:
    """Run the kernel with these fields of its Args (csrc/<op>.h); None, or leaving it out, is 0 or the null pointer."""
    values = {name: _field(value) for name, value in fields.items() if value is not None}
    if device.type == "cpu":
        getattr(_C.cpu, op)(torch.get_num_threads(), **values)
    else:
        getattr(_C.cuda, op)(device.index, torch.cuda.current_stream(device).cuda_stream, **values)


def _images(channels_last: bool, *images: Tensor) -> tuple[Tensor, ...]:
    """Images as kernels take them: of one memory order, in the dtype that the first is computed with."""
    dtype = edm.accumulation_dtype(images[0])
    return tuple(edm.laid_out(image, dtype, channels_last) for image in images)


def _raw_dtype(x: Tensor, *dtypes: torch.dtype) -> torch.dtype:
    """In which kernels take raw network outputs of these dtypes beside images x: bfloat16 and float16 as they are."""
    long = edm.accumulation_dtype(x)
    short = long == torch.float32 and len(set(dtypes)) == 1 and dtypes[0] in (torch.bfloat16, torch.float16)
    return dtypes[0] if short else long


def _as(gradient: Tensor | None, dtype: torch.dtype | None, like: Tensor) -> Tensor:
    """What a backward op returns: the gradient in its tensor's dtype, or an empty tensor."""
    return edm.not_wanted(like) if gradient is None else gradient.to(dtype)


def _stride(value: Tensor) -> int:
    """Of a tensor [B], or [1] to serve every sample."""
    return value.stride(0) if value.shape[0] > 1 else 0


def _size(x: Tensor) -> dict[str, int]:
    return {"batch": x.shape[0], "inner": math.prod(x.shape[1:])}


def _mask(mask: Tensor | None, x: Tensor, channels_last: bool) -> tuple[Tensor | None, dict[str, Any] | None]:
    """MaskArgs of csrc/mask.h, and the tensor it points into, which must outlive the call."""
    if mask is None:
        return None, None
    mask = mask.view(torch.uint8) if mask.dtype == torch.bool else mask
    mask = mask if mask.dtype == torch.uint8 else mask.to(x.dtype)
    mask = mask.expand(x.shape)
    if x.ndim == 4:
        channels, height, width = x.shape[1:]
        batch_stride, channel_stride, row_stride, pixel_stride = mask.stride()
        if width == 1:
            pixel_stride = row_stride
        elif height > 1 and row_stride != width * pixel_stride:  # neither one value for all pixels nor dense rows
            mask = mask.contiguous()
            batch_stride, channel_stride, _, pixel_stride = mask.stride()
    else:
        mask = mask.contiguous().reshape(len(x), math.prod(x.shape[1:]))
        channels, batch_stride, channel_stride, pixel_stride = 1, mask.shape[1], 0, 1
    return mask, {
        "data": mask.data_ptr(),
        "batch_stride": batch_stride,
        "channel_stride": channel_stride,
        "pixel_stride": pixel_stride,
        "channels": channels,
        "pixels": x[0].numel() // channels if len(x) and channels else 0,
        "dtype": _DTYPES[mask.dtype],
        "channels_last": channels_last,
    }


def _partial(x: Tensor, sums: int) -> Tensor | None:
    """Where CUDA kernels leave their sums over chunks of each sample."""
    chunks = -(-math.prod(x.shape[1:]) // _C.chunk)
    return None if x.device.type == "cpu" else x.new_empty((len(x), chunks, sums))


def _counter(seed: int, stream: int) -> dict[str, int]:
    return {"seed": seed & 0xFFFFFFFFFFFFFFFF, "stream": stream & 0xFFFFFFFF}


@implement("philox", "native")
def philox(seed: int, sample: Tensor, element: Tensor, step: Tensor, stream: int) -> Tensor:
    shape = torch.broadcast_shapes(sample.shape, element.shape, step.shape)
    sample, element, step = (w.to(torch.int64).expand(shape).contiguous() for w in (sample, element, step))
    out = sample.new_empty((*shape, 4), dtype=torch.uint32)
    counter = {"sample": sample, "element": element, "step": step, **_counter(seed, stream)}
    _run("philox", sample.device, **counter, out=out, count=sample.numel())
    return out


@implement("randn", "native")
def randn(shape: list[int], seed: int, sample: Tensor, step: Tensor, stream: int) -> Tensor:
    sample, step = sample.to(torch.int64), step.to(torch.int64).reshape(-1)
    out = sample.new_empty(shape, dtype=torch.float32)
    strides = {"sample_stride": _stride(sample), "step_stride": _stride(step)}
    _run("randn", out.device, sample=sample, step=step, out=out, **_size(out), **strides, **_counter(seed, stream))
    return out


@implement("denoise", "native")
def denoise(F: Tensor, x_t: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    channels_last = edm.is_channels_last(F)
    F = edm.laid_out(F, _raw_dtype(x_t, F.dtype), channels_last)
    (x_t,) = _images(channels_last, x_t)
    D = torch.empty_like(x_t)
    level = {"sigma": sigma, "sigma_stride": _stride(sigma), "sigma_data": sigma_data}
    _run("denoise", D.device, F=F, x_t=x_t, D=D, **level, **_size(D), raw_dtype=F.dtype, dtype=D.dtype)
    return D


@implement("denoise_backward", "native")
def denoise_backward(
    grad: Tensor,
    sigma: Tensor,
    sigma_data: float,
    F_dtype: torch.dtype | None,
    x_t_dtype: torch.dtype | None,
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    (grad,) = _images(channels_last, grad)
    raw_dtype = grad.dtype if F_dtype is None else _raw_dtype(grad, F_dtype)
    dF = None if F_dtype is None else torch.empty_like(grad, dtype=raw_dtype)
    dx_t = None if x_t_dtype is None else torch.empty_like(grad)
    _run(
        "denoise_backward",
        grad.device,
        grad=grad,
        sigma=sigma,
        sigma_stride=_stride(sigma),
        sigma_data=sigma_data,
        grad_F=dF,
        grad_x_t=dx_t,
        **_size(grad),
        raw_dtype=raw_dtype,
        dtype=grad.dtype,
    )
    return _as(dF, F_dtype, grad), _as(dx_t, x_t_dtype, grad)


def _denoising_loss(op, F, x_t, y, sigma, sigma_obs, sigma_data, mask, **outputs):
    channels_last = edm.is_channels_last(F)
    raw = edm.laid_out(F, _raw_dtype(x_t, F.dtype), channels_last)
    x_t, y = _images(channels_last, x_t, y)
    mask, mask_args = _mask(mask, x_t, channels_last)
    _run(
        op,
        x_t.device,
        F=raw,
        x_t=x_t,
        y=y,
        sigma=sigma,
        sigma_stride=_stride(sigma),
        sigma_obs=sigma_obs,
        sigma_obs_stride=_stride(sigma_obs),
        sigma_data=sigma_data,
        mask=mask_args,
        **_size(x_t),
        raw_dtype=raw.dtype,
        dtype=x_t.dtype,
        **outputs,
    )


@implement("denoising_loss", "native")
def denoising_loss(F, x_t, y, sigma, sigma_obs, sigma_data, mask):
    loss = x_t.new_empty(len(x_t), dtype=edm.accumulation_dtype(x_t))
    arguments = F, x_t, y, sigma, sigma_obs, sigma_data, mask
    _denoising_loss("denoising_loss", *arguments, loss=loss, partial=_partial(x_t, 1))
    return loss


@implement("denoising_loss_backward", "native")
def denoising_loss_backward(grad, F, x_t, y, sigma, sigma_obs, sigma_data, mask):
    dF = edm.new_images(F, _raw_dtype(x_t, F.dtype), edm.is_channels_last(F))
    arguments = F, x_t, y, sigma, sigma_obs, sigma_data, mask
    _denoising_loss("denoising_loss_backward", *arguments, grad=grad, grad_stride=grad.stride(0), grad_F=dF)
    return _as(dF, F.dtype, x_t)


def _score_difference_loss(op, F_teacher, F_fake, u_t, u, sigma, alpha, sigma_data, mask, **outputs):
    channels_last = edm.is_channels_last(F_teacher)
    raw_dtype = _raw_dtype(u, F_teacher.dtype, F_fake.dtype)
    teacher, fake = (edm.laid_out(F, raw_dtype, channels_last) for F in (F_teacher, F_fake))
    u, u_t = _images(channels_last, u, u_t)
    mask, mask_args = _mask(mask, u, channels_last)
    _run(
        op,
        u.device,
        F_teacher=teacher,
        F_fake=fake,
        u_t=u_t,
        u=u,
        sigma=sigma,
        sigma_stride=_stride(sigma),
        alpha=alpha,
        sigma_data=sigma_data,
        mask=mask_args,
        **_size(u),
        raw_dtype=raw_dtype,
        dtype=u.dtype,
        **outputs,
    )


@implement("score_difference_loss", "native")
def score_difference_loss(F_teacher, F_fake, u_t, u, sigma, alpha, sigma_data, mask):
    loss = u.new_empty(len(u), dtype=edm.accumulation_dtype(u))
    weight = torch.empty_like(loss)
    arguments = F_teacher, F_fake, u_t, u, sigma, alpha, sigma_data, mask
    _score_difference_loss("score_difference_loss", *arguments, loss=loss, weight=weight, partial=_partial(u, 2))
    return loss, weight


@implement("score_difference_loss_backward", "native")
def score_difference_loss_backward(grad, weight, F_teacher, F_fake, u_t, u, sigma, alpha, sigma_data, mask, wanted):
    channels_last = edm.is_channels_last(F_teacher)
    raw_dtype, dtype = _raw_dtype(u, F_teacher.dtype, F_fake.dtype), edm.accumulation_dtype(u)
    names = "grad_F_teacher", "grad_F_fake", "grad_u_t", "grad_u"
    dtypes = raw_dtype, raw_dtype, dtype, dtype
    gradients = {
        name: edm.new_images(u, kind, channels_last) if want else None
        for name, kind, want in zip(names, dtypes, wanted, strict=True)
    }
    arguments = F_teacher, F_fake, u_t, u, sigma, alpha, sigma_data, mask
    given = {"grad": grad, "grad_stride": grad.stride(0), "weight": weight.contiguous()}
    _score_difference_loss("score_difference_loss_backward", *arguments, **given, **gradients)
    inputs = F_teacher, F_fake, u_t, u
    return tuple(_as(g, x.dtype, u) for g, x in zip(gradients.values(), inputs, strict=True))


def _observe(images: Tensor, dtype: torch.dtype, outputs: dict[str, Tensor | None], **fields: Any) -> None:
    """Run csrc/observe.h on images of any layout: of its fields, those that do not follow from images and outputs."""
    channels_last = edm.is_channels_last(images)
    images = edm.laid_out(images, images.dtype if images.dtype == torch.uint8 else dtype, channels_last)
    out = next(output for output in outputs.values() if output is not None)
    fields["channels_last"] = edm.is_channels_last(out)
    batch, channels, height, width = images.shape if images.ndim == 4 else (len(images), 1, 1, images[:1].numel())
    size = {"in_height": height, "in_width": width, "channels": channels}
    size |= {"height": out.shape[2], "width": out.shape[3]} if out.ndim == 4 else {"height": height, "width": width}
    plain = fields["kind"] == "identity" or (fields["kind"] == "mask" and not fields["shared"])
    if plain and not channels_last and not fields["channels_last"]:  # then a sample is one plane
        size = dict.fromkeys(("in_height", "height", "channels"), 1)
        size |= dict.fromkeys(("in_width", "width"), channels * height * width)
        fields["shared"] = True
    for name in ("index", "observation_step", "sample", "step"):
        if name in fields:
            fields[name] = fields[name].to(torch.int64).reshape(-1)
    for name in ("index", "observation_step", "sample", "step", "sigma_obs", "sigma"):
        if name in fields:
            fields[name + "_stride"] = _stride(fields[name])
    for name in ("seed", "noise_seed"):
        if name in fields:
            fields[name] &= 0xFFFFFFFFFFFFFFFF
    fields["kind"] = KINDS.index(fields["kind"])
    dtypes = {"images_dtype": images.dtype, "dtype": dtype, "net_dtype": fields.pop("net_dtype", dtype)}
    fields["images_channels_last"] = channels_last
    _run("observe", images.device, images=images, batch=batch, **size, **dtypes, **outputs, **fields)


def _operator(kind, kernel, factor, missing, shared, mask_format):
    """The fields of an operator."""
    fields = {"kind": kind, "shared": shared, "threshold": threshold(missing), "packed": mask_format == "packed"}
    return fields | {"factor": factor} | (_taps(kernel) if kind == "blur" else {})


@implement("observe", "native")
def observe(images, index, sigma_obs, seed, step, *rest):
    *operator, channels_last = rest
    kind, _, factor, _, shared, mask_format = operator
    y, mask = new_outputs(images, kind, factor, shared, mask_format, channels_last)
    observation = {"index": index, "observation_step": step, "sigma_obs": sigma_obs, "seed": seed}
    outputs = {"y": y, "mask": mask if mask_format else None}
    _observe(images, y.dtype, outputs, **observation, **_operator(*operator))
    return y, mask


@implement("observe_perturb", "native")
def observe_perturb(images, index, sigma_obs, seed, observation_step, *rest):
    *operator, sigma, noise_seed, sample, step, sigma_data, dtype, channels_last = rest
    kind, _, factor, _, shared, mask_format = operator
    y, mask = new_outputs(images, kind, factor, shared, mask_format, channels_last)
    x_t, net_input = torch.empty_like(y), torch.empty_like(y, dtype=_raw_dtype(y, dtype))
    observation = {"index": index, "observation_step": observation_step, "sigma_obs": sigma_obs, "seed": seed}
    diffusion = {"sigma": sigma, "noise_seed": noise_seed, "sample": sample, "step": step, "sigma_data": sigma_data}
    outputs = {"y": y, "x_t": x_t, "net_input": net_input, "mask": mask if mask_format else None}
    fields = {**observation, **diffusion, **_operator(*operator)}
    _observe(images, y.dtype, outputs, **fields, net_dtype=net_input.dtype)
    return y, mask, x_t, net_input.to(dtype)


@implement("perturb", "native")
def perturb(y, sigma, sigma_obs, seed, sample, step, sigma_data, dtype, channels_last):
    x_t = edm.new_images(y, edm.accumulation_dtype(y), channels_last)
    net_input = torch.empty_like(x_t, dtype=_raw_dtype(x_t, dtype))
    diffusion = {"sigma": sigma, "noise_seed": seed, "sample": sample, "step": step, "sigma_data": sigma_data}
    fields = {"sigma_obs": sigma_obs, "kind": "identity", "net_dtype": net_input.dtype}
    _observe(y, x_t.dtype, {"x_t": x_t, "net_input": net_input}, **fields, **diffusion)
    return x_t, net_input.to(dtype)


@implement("perturb_backward", "native")
def perturb_backward(grad_x_t, grad_net_input, sigma, sigma_data, dtype, channels_last):
    raw = edm.laid_out(grad_net_input, _raw_dtype(grad_x_t, grad_net_input.dtype), channels_last)
    (grad_x_t,) = _images(channels_last, grad_x_t)
    grad_y = torch.empty_like(grad_x_t)
    tensors = {"grad_x_t": grad_x_t, "grad_net_input": raw, "sigma": sigma, "grad_y": grad_y}
    level = {"sigma_stride": _stride(sigma), "sigma_data": sigma_data}
    dtypes = {"raw_dtype": raw.dtype, "dtype": grad_y.dtype}
    _run("perturb_backward", grad_y.device, **tensors, **level, **dtypes, **_size(grad_y))
    return grad_y.to(dtype)


def _blur(op: str, x: Tensor, kernel: Tensor) -> Tensor:
    channels_last = edm.is_channels_last(x)
    x = edm.laid_out(x, x.dtype, channels_last)
    out = torch.empty_like(x)
    _run(op, x.device, x=x, out=out, **_images_of(x), **_taps(kernel))
    return out


def _taps(kernel: Tensor) -> dict[str, Any]:
    rows, columns = kernel.shape[0], kernel.shape[-1]
    separable = kernel.ndim == 1
    return {"kernel": kernel.contiguous(), "kernel_rows": rows, "kernel_columns": columns, "separable": separable}


def _images_of(x: Tensor) -> dict[str, Any]:
    batch, channels, height, width = x.shape
    size = {"batch": batch, "channels": channels, "height": height, "width": width}
    return {**size, "channels_last": edm.is_channels_last(x), "dtype": x.dtype}


@implement("blur", "native")
def blur(x: Tensor, kernel: Tensor) -> Tensor:
    return _blur("blur", x, kernel)


@implement("blur_adjoint", "native")
def blur_adjoint(y: Tensor, kernel: Tensor) -> Tensor:
    return _blur("blur_adjoint", y, kernel)


@implement("downsample", "native")
def downsample(x: Tensor, factor: int) -> Tensor:
    x = edm.laid_out(x, x.dtype, edm.is_channels_last(x))
    out = new_images(x, *small_size(x, factor))
    _run("downsample", x.device, x=x, out=out, **_images_of(x), factor=factor)
    return out


@implement("downsample_adjoint", "native")
def downsample_adjoint(y: Tensor, factor: int, height: int, width: int) -> Tensor:
    y = edm.laid_out(y, y.dtype, edm.is_channels_last(y))
    out = new_images(y, height, width)
    size = {"height": height, "width": width, "factor": factor}
    _run("downsample_adjoint", y.device, x=y, out=out, **(_images_of(y) | size))
    return out


# Group normalisation has no CUDA kernel here: Triton's serves that device.


def _group_norm_fields(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, scale: Tensor | None, shift: Tensor | None
) -> dict[str, Any]:
    """What forward and backward share; x is in the layout that is_channels_last says."""
    batch, channels = x.shape[:2]
    gain, offset = affine(x, weight, bias, scale, shift)
    return {
        "x": x,
        "gain": gain,
        "offset": offset,
        "sums": x.new_empty(batch, 2, channels, dtype=torch.float64),
        "batch": batch,
        "channels": channels,
        "pixels": math.prod(x.shape[2:]),
        "gain_stride": _stride(gain),
        "offset_stride": _stride(offset),
        "channels_last": edm.is_channels_last(x),
        "dtype": x.dtype,
    }


@implement("group_norm_silu", "native", devices=("cpu",))
def group_norm_silu(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float,
    scale: Tensor | None,
    shift: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    x = edm.laid_out(x, x.dtype, edm.is_channels_last(x))
    y = torch.empty_like(x)
    mean, rstd = (x.new_empty(len(x), groups, dtype=edm.accumulation_dtype(x)) for _ in range(2))
    fields = _group_norm_fields(x, weight, bias, scale, shift)
    fields.update(mean=mean, rstd=rstd, groups=groups, eps=eps, silu=silu)
    _run("group_norm_silu", x.device, y=y, grad=None, dx=None, **fields)
    return y, mean, rstd


@implement("group_norm_silu_backward", "native", devices=("cpu",))
def group_norm_silu_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    silu: bool,
    wanted: list[bool],
) -> tuple[Tensor, ...]:
    channels_last = edm.is_channels_last(x)
    x, grad = (edm.laid_out(t, x.dtype, channels_last) for t in (x, grad))
    dx = torch.empty_like(x) if wanted[0] else None
    fields = _group_norm_fields(x, weight, bias, scale, shift)
    fields.update(mean=mean.contiguous(), rstd=rstd.contiguous(), groups=mean.shape[1], eps=0.0, silu=silu)
    _run("group_norm_silu_backward", x.device, y=None, grad=grad, dx=dx, **fields)
    gradients = parameter_gradients(fields["sums"], weight, bias, scale, shift, wanted[1:])
    return edm.not_wanted(x) if dx is None else dx, *gradients
