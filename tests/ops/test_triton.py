"""Triton's kernels, in its interpreter where there is no GPU: elementwise, the same bits as plain PyTorch; sums, as
close to float64 as its own. In every layout and dtype.

The functions of ``rsd_fast.ops.triton`` are called directly, whatever serves the ops by default. A launch takes the
interpreter 10 to 100 ms, hence few cases, in which shapes, dtypes and layouts take turns.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rsd_fast import ops
from rsd_fast.ops import _library, edm

from .triton_inputs import (
    ALPHA,
    CASES,
    DEVICE,
    HALF,
    LONG,
    MASKED,
    NOISE_SEED,
    SD,
    SEED,
    SHORT,
    assert_accurate,
    assert_layout,
    assert_same,
    coefficients,
    columns,
    image_mask,
    laid_out,
    rand,
    root,
    sigmas,
)

pytest.importorskip("triton")
_triton = SimpleNamespace(**_library.kernels("triton"))


# denoise


@pytest.mark.parametrize(("shape", "raw", "dtype", "layout"), CASES)
def test_denoise(shape, raw, dtype, layout):
    F, x_t, sigma = laid_out(rand(shape, 0, raw), layout), rand(shape, 1, dtype), sigmas(shape[0], dtype)
    c_skip, c_out, _, _ = coefficients(sigma, x_t)
    last = edm.is_channels_last(F)
    D = _triton.denoise(F, x_t, sigma, SD)
    assert_same(D, edm.laid_out(c_skip * x_t + c_out * F.to(dtype), dtype, last))
    grad = laid_out(rand(shape, 2, dtype), layout)
    for wanted in ((raw, dtype), (None, dtype), (raw, None)):
        found = _triton.denoise_backward(grad, sigma, SD, *wanted, last)
        for one, coefficient, to in zip(found, (c_out, c_skip), wanted, strict=True):
            assert_same(one, edm.laid_out(coefficient * grad, to, last))


def test_one_level_serves_every_sample():
    F, x_t, sigma = rand((3, 7), 0), rand((3, 7), 1), sigmas(1, torch.float32)
    assert_same(_triton.denoise(F, x_t, sigma, SD), _triton.denoise(F, x_t, sigma.expand(3), SD))


def test_denoise_of_images_that_take_several_tiles():
    F, x_t, sigma = rand((2, 3, 37, 41), 0), rand((2, 3, 37, 41), 1), sigmas(2, torch.float32)
    c_skip, c_out, _, _ = coefficients(sigma, x_t)
    assert_same(_triton.denoise(F, x_t, sigma, SD), c_skip * x_t + c_out * F)
    assert_same(_triton.denoise(F[:, 1:], x_t[:, :2], sigma[1:], SD), c_skip[1:] * x_t[:, :2] + c_out[1:] * F[:, 1:])


def test_bfloat16_is_rounded_to_the_nearest_even():
    ties = torch.tensor([[1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, math.inf, 3.4e38, math.nan]], device=DEVICE)
    sigma = torch.tensor([1e-9], device=DEVICE)  # c_skip = 1
    with np.errstate(all="ignore"):
        found = _triton.denoise_backward(ties, sigma, SD, None, torch.bfloat16, False)[1]
    assert_same(found, ties.to(torch.bfloat16), equal_nan=True)


# denoising_loss


def denoising_plain(F, x_t, y, sigma, sigma_obs, mask):
    """(loss, dF of its sum) in sigma's dtype."""
    F, x_t, y = (image.to(sigma.dtype) for image in (F, x_t, y))
    c_skip, c_out, _, weight = coefficients(sigma, y)
    m = 1 if mask is None else mask.to(sigma.dtype)
    share = 1 - columns(sigma_obs / sigma, y) ** 2
    error = (share * (c_skip * x_t + c_out * F - x_t) + (x_t - y)) * m
    return (weight * error**2).flatten(1).sum(1), 2 * weight * share * c_out * m * error


def check_denoising(shape, raw, dtype, layout, mask, sigma, sigma_obs):
    F, x_t, y = laid_out(rand(shape, 0, raw), layout), *(rand(shape, i, dtype) for i in (1, 2))
    arguments = (F, x_t, y, sigma, sigma_obs)
    plain, plain_dF = denoising_plain(*arguments, mask)
    exact, exact_dF = denoising_plain(*(a.double() for a in arguments), mask)
    loss = _triton.denoising_loss(*arguments, SD, mask)
    assert_accurate(loss, exact, plain)
    for grad in (
        torch.linspace(0.5, 2, shape[0], dtype=dtype, device=DEVICE),
        loss.new_full((1,), 2.0).expand(shape[0]),
    ):
        dF = _triton.denoising_loss_backward(grad, *arguments, SD, mask)
        upstream = columns(grad, y)
        assert_accurate(dF, upstream.double() * exact_dF, (upstream * plain_dF).to(raw))
        assert_layout(dF, edm.is_channels_last(F))


@pytest.mark.parametrize(("shape", "raw", "dtype", "layout"), CASES)
def test_denoising_loss(shape, raw, dtype, layout):
    sigma = sigmas(shape[0], dtype)
    check_denoising(shape, raw, dtype, layout, None, sigma, 0.9 * sigma)


@pytest.mark.parametrize(("kind", "dtype", "shape", "layout"), MASKED)
def test_denoising_loss_of_masked_images(kind, dtype, shape, layout):
    sigma = sigmas(shape[0], torch.float32)
    mask = image_mask(kind, shape, dtype)
    check_denoising(shape, torch.float32, torch.float32, layout, mask, sigma, 0.3 * sigma[:1])


# score_difference_loss


def score_plain(F_teacher, F_fake, u_t, u, sigma, mask):
    """(loss, weight, gradients of the loss's sum) in sigma's dtype."""
    teacher, fake, u_t, u = (image.to(sigma.dtype) for image in (F_teacher, F_fake, u_t, u))
    c_skip, c_out, _, _ = coefficients(sigma, u)
    m = 1 if mask is None else mask.to(sigma.dtype)
    d, r = c_out * (teacher - fake) * m, (c_skip * u_t + c_out * teacher - u) * m
    weight = 1 / r.flatten(1).abs().mean(1).clamp_min(1e-5)
    s = columns(weight, u) * m
    loss = weight * (d * (r - ALPHA * d)).flatten(1).sum(1)
    dg = s * (2 * ALPHA * d - r)
    return loss, weight, [c_out * s * (r + d - 2 * ALPHA * d), c_out * dg, c_skip * s * d, -s * d]


def check_score(shape, raw, dtype, layout, mask, closer=1.0):
    images = [rand(shape, 0, raw), rand(shape, 1, raw), *(rand(shape, i, dtype) for i in (2, 3))]
    if closer != 1:
        images = [closer * image for image in images]
    images[0] = laid_out(images[0], layout)
    sigma = sigmas(shape[0], dtype)
    plain, plain_weight, plain_gradients = score_plain(*images, sigma, mask)
    exact, exact_weight, exact_gradients = score_plain(*(a.double() for a in (*images, sigma)), mask)
    loss, weight = _triton.score_difference_loss(*images, sigma, ALPHA, SD, mask)
    assert_accurate(loss, exact, plain)
    assert_accurate(weight, exact_weight, plain_weight)
    grad = torch.linspace(0.5, 2, shape[0], dtype=dtype, device=DEVICE)
    for wanted in ((True,) * 4, (False, True, False, True)):
        found = _triton.score_difference_loss_backward(grad, weight, *images, sigma, ALPHA, SD, mask, wanted)
        for one, want, exactly, plainly, image in zip(
            found, wanted, exact_gradients, plain_gradients, images, strict=True
        ):
            assert one.dtype == image.dtype or not want
            if want:
                upstream = columns(grad, image)
                assert_accurate(one, upstream.double() * exactly, (upstream * plainly).to(image.dtype))
                assert_layout(one, edm.is_channels_last(images[0]))
            else:
                assert one.numel() == 0


@pytest.mark.parametrize(("shape", "raw", "dtype", "layout"), CASES)
def test_score_difference_loss(shape, raw, dtype, layout):
    check_score(shape, raw, dtype, layout, None)


@pytest.mark.parametrize(("kind", "dtype", "shape", "layout"), MASKED)
def test_score_difference_loss_of_masked_images(kind, dtype, shape, layout):
    check_score(shape, torch.float32, torch.float32, layout, image_mask(kind, shape, dtype))


def test_score_difference_loss_near_its_target():
    for dtype in (torch.float32, torch.float64):
        check_score((2, 3, 4, 4), dtype, dtype, "contiguous", None, closer=1e-6)


def test_not_a_number_is_not_hidden():
    images = [rand((2, 3, 4, 4), i) for i in range(4)]
    images[3][1, 2, 3, 3] = math.nan
    loss, weight = _triton.score_difference_loss(*images, sigmas(2, torch.float32), ALPHA, SD, None)
    assert loss.isnan().tolist() == weight.isnan().tolist() == [False, True]


@pytest.mark.parametrize("channels_last", [False, True])
def test_sums_over_several_chunks(channels_last):
    """Alone or in a batch, a sample's loss has the same bits, and those of a sum over all of its elements."""
    shape = (2, 3, 113, 103)  # 34917 elements: three chunks, the last not full
    images = [edm.laid_out(rand(shape, i), torch.float32, channels_last) for i in range(4)]
    sigma, mask = sigmas(2, torch.float32), image_mask("pixels", shape)

    def losses(part):
        F, fake, x_t, y = (image[part] for image in images)
        denoising = _triton.denoising_loss(F, x_t, y, sigma[part], sigma[:1] / 2, SD, mask[part])
        return [denoising, *_triton.score_difference_loss(F, fake, x_t, y, sigma[part], ALPHA, SD, mask[part])]

    def by_hand(dtype):
        F, fake, x_t, y, s = (t.to(dtype) for t in (*images, sigma))
        return denoising_plain(F, x_t, y, s, s[:1] / 2, mask)[:1] + score_plain(F, fake, x_t, y, s, mask)[:2]

    found = losses(slice(0, 2))
    for one, exactly, plainly in zip(found, by_hand(torch.float64), by_hand(torch.float32), strict=True):
        assert_accurate(one, exactly, plainly)
    for one, again in zip(found, losses(slice(1, 2)), strict=True):
        assert_same(one[1:], again)


def test_losses_of_empty_samples():
    images, sigma = [rand((2, 3, 0, 4), i) for i in range(4)], sigmas(2, torch.float32)
    assert _triton.denoising_loss(*images[:3], sigma, sigma[:1] / 2, SD, None).tolist() == [0, 0]
    with np.errstate(invalid="ignore"):
        assert _triton.score_difference_loss(*images, sigma, ALPHA, SD, None)[0].isnan().all()


# perturb and observe

NOISY = [  # shape, dtype of the observation, of the network's input
    ((2, 3, 4, 4), torch.float32, SHORT),
    ((2, 3, 5, 7), SHORT, torch.float32),
    ((2, 5, 6, 6), LONG, LONG),
    ((1, 1, 1, 1), torch.float32, HALF),
    ((0, 3, 4, 4), torch.float32, torch.float32),
]


def counter(batch):
    """sample [B] int64 of stride 2, step [B] int32."""
    sample = torch.arange(2 * batch, device=DEVICE)[::2] * 2**31 - 3
    return sample, torch.arange(5, 5 + batch, dtype=torch.int32, device=DEVICE)


def noise(shape, seed, sample, step, stream):
    return ops.reference.randn(shape, seed % 2**64, sample, step, stream)


def perturbed(y, sigma, sigma_obs, sample, step, dtype):
    n = noise(y.shape, NOISE_SEED, sample, step, ops.Stream.DIFFUSION_NOISE)
    scale = root((columns(sigma, y) ** 2 - columns(sigma_obs, y) ** 2).clamp_min(0))
    x_t = y.to(sigma.dtype) + scale * n
    return x_t, (coefficients(sigma, y)[2] * x_t).to(dtype)


def keeps(shape, index, missing, shared):
    """Where an observation is kept, [B, 1 or C, H, W] bool."""
    batch, channels, height, width = shape
    size = (batch, 1 if shared else channels, height, width)
    block = torch.arange((math.prod(size[1:]) + 3) // 4, device=DEVICE)
    words = ops.reference.philox(SEED, index[:, None], block, 0, ops.Stream.OBSERVATION_MASK).long().flatten(1)
    return words[:, : math.prod(size[1:])].reshape(size) >= math.ceil(missing * 2**32)


def observed(images, index, sigma_obs, step, missing=None, shared=True):
    value = images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images.to(sigma_obs.dtype)
    n = noise(images.shape, SEED, index, step, ops.Stream.OBSERVATION_NOISE)
    y = value + columns(sigma_obs, images) * n
    if missing is not None:
        y = torch.where(keeps(images.shape, index, missing, shared), y, torch.zeros((), dtype=y.dtype, device=DEVICE))
    return y


def packed(kept):
    """Bit e % 8 of byte e // 8, [B, ceil(elements / 8)] uint8."""
    count = kept.shape[1:].numel()
    bits = torch.nn.functional.pad(kept.flatten(1).long(), (0, -count % 8)).unflatten(1, (-1, 8))
    return (bits * 2 ** torch.arange(8, device=DEVICE)).sum(2).to(torch.uint8)


@pytest.mark.parametrize(
    ("shape", "dtype", "out", "channels_last"),
    [(*case, last) for case in NOISY for last in (False, True)]
    + [((2, 7), torch.float32, HALF, False), ((3, 2, 17), LONG, torch.float32, False)],
)
def test_perturb(shape, dtype, out, channels_last):
    y, (sample, step) = laid_out(rand(shape, 0, dtype), "sliced"), counter(shape[0])
    acc = edm.accumulation_dtype(y)
    sigma = sigmas(shape[0], acc)
    one_step = torch.full((), 2**33 + 7, device=DEVICE)
    for known, at in (
        (sigmas(1, acc, 1e-3), one_step),
        (torch.linspace(0.5, 1.0001, shape[0]).to(sigma) * sigma, step),
    ):
        found = _triton.perturb(y, sigma, known, NOISE_SEED, sample, at, SD, out, channels_last)
        for one, expected in zip(found, perturbed(y, sigma, known, sample, at, out), strict=True):
            assert_same(one, edm.laid_out(expected, expected.dtype, channels_last))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("shape", "dtype", "out"), NOISY)
def test_perturb_backward(shape, dtype, out, channels_last):
    sigma = sigmas(shape[0], torch.promote_types(dtype, torch.float32))
    grads = laid_out(rand(shape, 0, sigma.dtype), "expanded"), laid_out(rand(shape, 1, out), "channels-last")
    expected = grads[0] + coefficients(sigma, grads[0])[2] * grads[1].to(sigma.dtype)
    found = _triton.perturb_backward(*grads, sigma, SD, dtype, channels_last)
    assert_same(found, edm.laid_out(expected, dtype, channels_last))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("shape", "dtype", "operator", "shared", "form"),
    [
        ((2, 3, 4, 4), torch.uint8, "mask", True, "packed"),
        ((2, 3, 4, 4), torch.float32, "mask", False, "uint8"),
        ((2, 3, 5, 7), torch.uint8, "mask", True, "uint8"),
        ((2, 3, 5, 7), SHORT, "mask", False, "packed"),
        ((2, 5, 6, 6), LONG, "mask", True, "packed"),
        ((2, 5, 3, 7), torch.uint8, "identity", True, ""),
        ((2, 3, 4, 4), LONG, "identity", True, ""),
        ((1, 1, 1, 1), HALF, "mask", True, ""),
        ((0, 3, 4, 4), torch.uint8, "mask", True, "packed"),
    ],
)
def test_observe(shape, dtype, operator, shared, form, channels_last):
    images = rand(shape, 0).mul(80).add(128).clamp(0, 255).to(dtype)
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    (index, step), sigma_obs, missing = counter(shape[0]), sigmas(shape[0], acc, 0.01), 0.4
    y = observed(images, index, sigma_obs, step, missing if operator == "mask" else None, shared)
    kept = keeps(shape, index, missing, shared)
    mask = {"": images.new_empty(0, dtype=torch.uint8), "uint8": kept.to(torch.uint8), "packed": packed(kept)}[form]
    found = _triton.observe(
        images, index, sigma_obs, SEED, step, operator, None, 1, missing, shared, form, channels_last
    )
    assert_same(found[0], edm.laid_out(y, acc, channels_last))
    assert_same(found[1], mask)


@pytest.mark.parametrize(
    ("shape", "dtype", "rule", "channels_last"),
    [
        ((1, 3, 4, 4), torch.uint8, ("mask", None, 1, 0.4, True, "packed"), True),
        ((2, 2, 3, 5), torch.float32, ("mask", None, 1, 0.4, False, "uint8"), True),
        ((2, 2, 3, 5), LONG, ("identity", None, 1, 0.0, True, ""), False),
    ],
)
def test_observe_perturb_is_one_after_the_other(shape, dtype, rule, channels_last):
    images, (index, step) = rand(shape, 0).mul(80).add(128).clamp(0, 255).to(dtype), counter(shape[0])
    sigma_obs = sigmas(shape[0], torch.float64 if dtype == torch.float64 else torch.float32, 0.01)
    sigma, sample, out = 2 * sigma_obs, index + 1, torch.bfloat16
    observation = (images, index, sigma_obs, SEED, step, *rule)
    y, mask = _triton.observe(*observation, channels_last)
    noisy = perturbed(y, sigma, sigma_obs, sample, step[:1], out)
    both = _triton.observe_perturb(*observation, sigma, NOISE_SEED, sample, step[:1], SD, out, channels_last)
    for one, expected in zip(both, (y, mask, *noisy), strict=True):
        assert_same(one, expected)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("shape", "shared"), [((1, 3, 26, 30), True), ((1, 2, 31, 23), False), ((1, 70, 4, 6), True)])
def test_observe_images_that_take_several_tiles(shape, shared, channels_last):
    images, (index, step), sigma_obs = rand(shape, 0), counter(1), sigmas(1, torch.float32)
    rule = ("mask", None, 1, 0.3, shared, "packed")
    y, mask = _triton.observe(images, index, sigma_obs, SEED, step, *rule, channels_last)
    expected = observed(images, index, sigma_obs, step, 0.3, shared)
    assert_same(y, edm.laid_out(expected, torch.float32, channels_last))
    assert_same(mask, packed(keeps(shape, index, 0.3, shared)))


@pytest.mark.parametrize(("missing", "kept"), [(0.0, 1), (1.0, 0)])
def test_mask_of_nothing_and_everything(missing, kept):
    images, (index, step), sigma_obs = rand((1, 1, 4, 8), 0), counter(1), sigmas(1, torch.float32)
    y, mask = _triton.observe(images, index, sigma_obs, SEED, step, "mask", None, 1, missing, True, "uint8", False)
    assert mask.unique().tolist() == [kept] and (y != 0).all().item() == bool(kept)


def test_a_word_at_the_threshold_is_kept():
    (index, step), element = counter(1), torch.zeros(1, dtype=torch.int64, device=DEVICE)
    word = ops.reference.philox(SEED, index, element, 0, ops.Stream.OBSERVATION_MASK).long()[0, 1].item()
    images, sigma_obs = torch.ones(1, 1, 2, 4, device=DEVICE), sigmas(1, torch.float32, 0.01)
    for missing, kept in ((word / 2**32, 1), ((word + 0.5) / 2**32, 0)):
        y, mask = _triton.observe(images, index, sigma_obs, SEED, step, "mask", None, 1, missing, True, "uint8", False)
        assert mask[0, 0, 0, 1] == kept and (y[0, 0, 0, 1] != 0).item() == bool(kept)


@pytest.mark.parametrize("operator", ["blur", "downsample"])
def test_other_operators_come_first(operator, monkeypatch):
    """These have ops of their own, which take images in float32."""

    def half(x, *arguments):
        assert x.dtype == torch.float32
        seen.append(arguments)
        return x / 2

    class Op:
        default = staticmethod(half)

    seen = []
    monkeypatch.setattr(torch.ops.rsd_fast, operator, Op, raising=False)
    images = rand((2, 3, 4, 4), 0).mul(80).add(128).clamp(0, 255).to(torch.uint8)
    (index, step), sigma_obs, kernel = counter(2), sigmas(2, torch.float32, 0.01), rand((3,), 1, torch.float64).cpu()
    y, mask = _triton.observe(images, index, sigma_obs, SEED, step, operator, kernel, 2, 0.0, True, "", True)
    expected = observed((images.float() / 127.5 - 1) / 2, index, sigma_obs, step)
    assert_same(y, edm.laid_out(expected, torch.float32, True))
    assert mask.numel() == 0 and seen == [(kernel if operator == "blur" else 2,)]


def test_samples_of_more_elements_than_offsets_reach():
    images = torch.zeros(1, device=DEVICE).expand(1, 2**16, 2**15)
    with pytest.raises(ValueError, match=r"fewer than 2\^31 - .* elements a sample, got \[1, 65536, 32768\]"):
        from rsd_fast.kernels.elements import cut

        cut(images, 1024)
