"""Kernels of ``rsd_fast.kernels``, for "cuda" where there are no native ones. Triton is imported on the first call."""

import math

import torch

from . import edm
from ._library import implement
from .downsample import new_images, small_size
from .group_norm_silu import affine, parameter_gradients
from .observe import mask_shape, new_outputs, normalised, threshold


def _laid_out(channels_last, *images):
    """Images in one memory order, each in its own dtype: kernels convert as they load."""
    return tuple(edm.laid_out(image, image.dtype, channels_last) for image in images)


def _new(like, channels_last, *dtypes):
    """Images of these dtypes for a kernel to fill; None for None."""
    return tuple(None if dtype is None else edm.new_images(like, dtype, channels_last) for dtype in dtypes)


def _returned(like, *gradients):
    """What a backward op returns of them: an empty tensor for one that is not wanted."""
    return tuple(edm.not_wanted(like) if gradient is None else gradient for gradient in gradients)


@implement("philox", "triton")
def philox(seed, sample, element, step, stream):
    from rsd_fast.kernels import philox as kernels

    shape = torch.broadcast_shapes(sample.shape, element.shape, step.shape)
    words = [word.to(torch.int64).expand(shape).contiguous() for word in (sample, element, step)]
    out = sample.new_empty((*shape, 4), dtype=torch.int32)
    kernels.philox(out, seed, *words, stream)
    return out.view(torch.uint32)


@implement("randn", "triton")
def randn(shape, seed, sample, step, stream):
    from rsd_fast.kernels import philox as kernels

    out = sample.new_empty(shape, dtype=torch.float32)
    sample, step = sample.to(torch.int64), step.to(torch.int64).expand(sample.shape)
    kernels.randn(out, math.prod(shape[1:]), seed, sample, step, stream)
    return out


def _blur(x, kernel, adjoint):
    from rsd_fast.kernels import blur as kernels

    x = edm.laid_out(x, x.dtype, edm.is_channels_last(x))
    out = torch.empty_like(x)
    kernels.blur(out, x, kernel, adjoint)
    return out


@implement("blur", "triton")
def blur(x, kernel):
    return _blur(x, kernel, adjoint=False)


@implement("blur_adjoint", "triton")
def blur_adjoint(y, kernel):
    return _blur(y, kernel, adjoint=True)


@implement("downsample", "triton")
def downsample(x, factor):
    from rsd_fast.kernels import downsample as kernels

    x = edm.laid_out(x, x.dtype, edm.is_channels_last(x))
    out = new_images(x, *small_size(x, factor))
    kernels.downsample(out, x, factor)
    return out


@implement("downsample_adjoint", "triton")
def downsample_adjoint(y, factor, height, width):
    from rsd_fast.kernels import downsample as kernels

    y = edm.laid_out(y, y.dtype, edm.is_channels_last(y))
    out = new_images(y, height, width)
    kernels.downsample_adjoint(out, y, factor)
    return out


@implement("denoise", "triton")
def denoise(F, x_t, sigma, sigma_data):
    from rsd_fast.kernels import denoise as kernels

    channels_last = edm.is_channels_last(F)
    D = edm.new_images(x_t, sigma.dtype, channels_last)
    kernels.denoise(D, *_laid_out(channels_last, F, x_t), sigma, sigma_data)
    return D


@implement("denoise_backward", "triton")
def denoise_backward(grad, sigma, sigma_data, F_dtype, x_t_dtype, channels_last):
    from rsd_fast.kernels import denoise as kernels

    (grad,) = _laid_out(channels_last, grad)
    gradients = _new(grad, channels_last, F_dtype, x_t_dtype)
    kernels.denoise_backward(grad, *gradients, sigma, sigma_data)
    return _returned(grad, *gradients)


@implement("denoising_loss", "triton")
def denoising_loss(F, x_t, y, sigma, sigma_obs, sigma_data, mask):
    from rsd_fast.kernels import denoising_loss as kernels

    channels_last = edm.is_channels_last(F)
    loss = sigma.new_empty(len(F))
    images = _laid_out(channels_last, F, x_t, y)
    kernels.denoising_loss(loss, *images, sigma, sigma_obs, sigma_data, mask, channels_last)
    return loss


@implement("denoising_loss_backward", "triton")
def denoising_loss_backward(grad, F, x_t, y, sigma, sigma_obs, sigma_data, mask):
    from rsd_fast.kernels import denoising_loss as kernels

    channels_last = edm.is_channels_last(F)
    dF = edm.new_images(F, F.dtype, channels_last)
    images = _laid_out(channels_last, F, x_t, y)
    kernels.denoising_loss_backward(grad, dF, *images, sigma, sigma_obs, sigma_data, mask, channels_last)
    return dF


@implement("score_difference_loss", "triton")
def score_difference_loss(F_teacher, F_fake, u_t, u, sigma, alpha, sigma_data, mask):
    from rsd_fast.kernels import score_difference_loss as kernels

    channels_last = edm.is_channels_last(F_teacher)
    loss, weight = sigma.new_empty(len(u)), sigma.new_empty(len(u))
    images = _laid_out(channels_last, F_teacher, F_fake, u_t, u)
    kernels.score_difference_loss(loss, weight, images, sigma, alpha, sigma_data, mask, channels_last)
    return loss, weight


@implement("score_difference_loss_backward", "triton")
def score_difference_loss_backward(grad, weight, F_teacher, F_fake, u_t, u, sigma, alpha, sigma_data, mask, wanted):
    from rsd_fast.kernels import score_difference_loss as kernels

    channels_last = edm.is_channels_last(F_teacher)
    images = _laid_out(channels_last, F_teacher, F_fake, u_t, u)
    dtypes = (image.dtype if want else None for image, want in zip(images, wanted, strict=True))
    gradients = _new(images[0], channels_last, *dtypes)
    kernels.score_difference_loss_backward(
        grad, weight, images, sigma, alpha, sigma_data, mask, gradients, channels_last
    )
    return _returned(images[0], *gradients)


@implement("perturb", "triton")
def perturb(y, sigma, sigma_obs, seed, sample, step, sigma_data, dtype, channels_last):
    from rsd_fast.kernels import observe as kernels

    (y,) = _laid_out(channels_last, y)
    x_t, net_input = _new(y, channels_last, sigma.dtype, dtype)
    perturbation = (seed, sample, step, sigma, sigma_data)
    kernels.observe_perturb(y, None, x_t, net_input, sigma_obs, None, None, perturbation, channels_last)
    return x_t, net_input


@implement("perturb_backward", "triton")
def perturb_backward(grad_x_t, grad_net_input, sigma, sigma_data, dtype, channels_last):
    from rsd_fast.kernels import observe as kernels

    dy = edm.new_images(grad_x_t, dtype, channels_last)
    kernels.perturb_backward(dy, *_laid_out(channels_last, grad_x_t, grad_net_input), sigma, sigma_data)
    return dy


@implement("observe", "triton")
def observe(
    images, index, sigma_obs, seed, step, operator, kernel, factor, missing, shared, mask_format, channels_last
):
    return _observe(
        images,
        (seed, index, step),
        sigma_obs,
        (operator, kernel, factor),
        (missing, shared, mask_format),
        channels_last,
    )[:2]


@implement("observe_perturb", "triton")
def observe_perturb(
    images,
    index,
    sigma_obs,
    seed,
    observation_step,
    operator,
    kernel,
    factor,
    missing,
    shared,
    mask_format,
    sigma,
    noise_seed,
    sample,
    step,
    sigma_data,
    dtype,
    channels_last,
):
    return _observe(
        images,
        (seed, index, observation_step),
        sigma_obs,
        (operator, kernel, factor),
        (missing, shared, mask_format),
        channels_last,
        (noise_seed, sample, step, sigma, sigma_data),
        (sigma.dtype, dtype),
    )


def _observe(images, counter, sigma_obs, operation, masking, channels_last, perturbation=None, dtypes=(None, None)):
    """(y, mask, x_t, net_input): the operator where it is more than elementwise, then all the rest in one pass."""
    from rsd_fast.kernels import observe as kernels

    (operator, kernel, factor), (missing, shared, mask_format) = operation, masking
    if operator in ("blur", "downsample"):
        scaled = normalised(images)
        if operator == "blur":
            images = torch.ops.rsd_fast.blur.default(scaled, kernel)
        else:
            images = torch.ops.rsd_fast.downsample.default(scaled, factor)
    (images,) = _laid_out(channels_last, images)
    y, x_t, net_input = _new(images, channels_last, sigma_obs.dtype, *dtypes)
    mask, rule = images.new_empty(0, dtype=torch.uint8), None
    if operator == "mask":
        rule = threshold(missing), shared
        if mask_format:
            _, mask = new_outputs(images, operator, factor, shared, mask_format, channels_last)
            elements = math.prod(mask_shape(images, shared)[1:])
            kernels.observation_mask(mask, elements, mask_format == "packed", counter[0], counter[1], rule[0])
    if images.numel():
        kernels.observe_perturb(images, y, x_t, net_input, sigma_obs, counter, rule, perturbation, channels_last)
    return y, mask, x_t, net_input


@implement("group_norm_silu", "triton")
def group_norm_silu(x, weight, bias, groups, eps, scale, shift, silu):
    from rsd_fast.kernels import group_norm_silu as kernels

    x = edm.laid_out(x, x.dtype, edm.is_channels_last(x))
    y = torch.empty_like(x)
    mean, rstd = (x.new_empty(len(x), groups, dtype=edm.accumulation_dtype(x)) for _ in range(2))
    kernels.forward(x, *affine(x, weight, bias, scale, shift), y, mean, rstd, eps, silu)
    return y, mean, rstd


@implement("group_norm_silu_backward", "triton")
def group_norm_silu_backward(grad, x, weight, bias, scale, shift, mean, rstd, silu, wanted):
    from rsd_fast.kernels import group_norm_silu as kernels

    channels_last = edm.is_channels_last(x)
    x, grad = (edm.laid_out(t, x.dtype, channels_last) for t in (x, grad))
    dx = torch.empty_like(x) if wanted[0] else None
    sums = mean.new_empty(len(x), 2, x.shape[1])
    coefficients = affine(x, weight, bias, scale, shift)
    kernels.backward(grad, x, *coefficients, mean.contiguous(), rstd.contiguous(), dx, sums, silu)
    gradients = parameter_gradients(sums, weight, bias, scale, shift, wanted[1:])
    return edm.not_wanted(x) if dx is None else dx, *gradients
