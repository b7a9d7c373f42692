"""How a kernel of csrc/ is run on tensors, and fields that several have. Only this file takes an address."""

import math
from typing import Any

import torch
from torch import Tensor

from rsd_fast import _C

from .. import edm

_DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3, torch.uint8: 4}  # csrc/dtype.h


def launch(op: str, device: torch.device, **fields: Any) -> None:
    """Run the kernel with these fields of its Args (csrc/<op>.h); None, or leaving it out, is 0 or the null pointer."""
    values = _values(fields)
    if device.type == "cpu":
        getattr(_C.cpu, op)(torch.get_num_threads(), **values)
    else:
        getattr(_C.cuda, op)(device.index, torch.cuda.current_stream(device).cuda_stream, **values)


def _values(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: _value(field) for name, field in fields.items() if field is not None}


def _value(field: Any) -> Any:
    if isinstance(field, Tensor):
        return field.data_ptr()
    if isinstance(field, torch.dtype):
        return _DTYPES[field]
    return _values(field) if isinstance(field, dict) else field


def images(channels_last: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Images as kernels take them: of one memory order, in the dtype that the first is computed with."""
    dtype = edm.accumulation_dtype(tensors[0])
    return tuple(edm.laid_out(tensor, dtype, channels_last) for tensor in tensors)


def raw_dtype(x: Tensor, *dtypes: torch.dtype) -> torch.dtype:
    """In which kernels take raw network outputs of these dtypes beside images x: bfloat16 and float16 as they are."""
    long = edm.accumulation_dtype(x)
    short = long == torch.float32 and len(set(dtypes)) == 1 and dtypes[0] in (torch.bfloat16, torch.float16)
    return dtypes[0] if short else long


def returned(gradient: Tensor | None, dtype: torch.dtype | None, like: Tensor) -> Tensor:
    """What a backward op returns: the gradient in its tensor's dtype, or an empty tensor."""
    return edm.no_output(like) if gradient is None else gradient.to(dtype)


def stride(value: Tensor) -> int:
    """The distance of the samples' numbers in a tensor [B], or [1] to serve every sample."""
    return value.stride(0) if value.shape[0] > 1 else 0


def size(x: Tensor) -> dict[str, int]:
    return {"batch": x.shape[0], "inner": math.prod(x.shape[1:])}


def image_size(x: Tensor) -> dict[str, Any]:
    batch, channels, height, width = x.shape
    shape = {"batch": batch, "channels": channels, "height": height, "width": width}
    return {**shape, "channels_last": edm.is_channels_last(x), "dtype": x.dtype}


def mask_fields(mask: Tensor | None, x: Tensor, channels_last: bool) -> dict[str, Any] | None:
    """MaskArgs of csrc/mask.h for images x, in that memory order."""
    if mask is None:
        return None
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
    return {
        "data": mask,
        "batch_stride": batch_stride,
        "channel_stride": channel_stride,
        "pixel_stride": pixel_stride,
        "channels": channels,
        "pixels": x[0].numel() // channels if len(x) and channels else 0,
        "dtype": mask.dtype,
        "channels_last": channels_last,
    }


def partial_sums(x: Tensor, sums: int) -> Tensor | None:
    """Where CUDA kernels leave their sums over chunks of each sample."""
    chunks = -(-math.prod(x.shape[1:]) // _C.chunk)
    return None if x.device.type == "cpu" else x.new_empty((len(x), chunks, sums))


def seed_and_stream(seed: int, stream: int) -> dict[str, int]:
    return {"seed": seed & 0xFFFFFFFFFFFFFFFF, "stream": stream & 0xFFFFFFFF}
