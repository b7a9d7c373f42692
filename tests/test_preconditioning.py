"""D(x, sigma) of each preconditioning (EDM, VP, VE), also of masked images, against float64 NumPy."""

import functools

import numpy as np
import pytest
import torch

from rsd_fast import networks
from rsd_fast.config import Objective

from . import tiny
from .published import (
    ARCHITECTURES,
    DEEP,
    GATED,
    PLAIN,
    SMALL,
    Published,
    as_numpy,
    inputs,
    precondition,
    published_shapes,
    randomised,
    relative_error,
)

SIGMAS = (0.002, 0.05, 0.7, 10.0, 80.0)
MASKED = {**GATED, "condition_channels": 3, "hidden": "sigma"}

PRECONDITIONING = pytest.mark.parametrize("preconditioning", ["edm", "vp", "ve"])
ARCHITECTURE = pytest.mark.parametrize("architecture", ARCHITECTURES)
MASK = pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])


@functools.cache
def made(architecture="ddpmpp", preconditioning="edm", masked=False):
    """(denoiser, its evaluation in float64), for tests that do not change the denoiser."""
    denoiser = randomised(MASKED if masked else SMALL, architecture, preconditioning=preconditioning)
    if (architecture, preconditioning) == ("ncsnpp", "vp"):
        # c_noise goes to 1000, and the angles with it to 1e5 pi, of which float32 has few digits left.
        denoiser.model.map_noise.freqs.div_(1000)
    return denoiser, Published(denoiser.state_dict(), MASKED if masked else SMALL, architecture)


def at_every_level(dtype=torch.float32):
    """(x, sigma, labels, augment_labels) of 5 images, at the levels SIGMAS."""
    generator = torch.Generator().manual_seed(2)
    sigma = torch.tensor(SIGMAS, dtype=dtype)
    noise, clean = torch.randn(2, 5, 3, 8, 8, generator=generator, dtype=dtype)
    labels = torch.eye(3)[[1, 0, 2, 2, 1]]
    return 0.5 * clean + sigma[:, None, None, None] * noise, sigma, labels, torch.randn(5, 4, generator=generator)


def masks():
    return (torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(4)) < 0.6).float().expand(-1, 3, -1, -1)


def errors(actual, expected, x):
    """Of each image, relative to the larger of x and D - x: for VP and VE, the terms that D is a sum of."""
    x, actual = as_numpy(x, actual)
    return [
        np.abs(a - e).max() / max(np.abs(i).max(), np.abs(e - i).max())
        for a, e, i in zip(actual, expected, x, strict=True)
    ]


@pytest.mark.parametrize("settings", [SMALL, DEEP, PLAIN, GATED], ids=["small", "deep", "plain", "gated"])
@ARCHITECTURE
@pytest.mark.parametrize("sigma_data", [0.5, 0.8])
def test_denoiser_matches_float64(settings, architecture, sigma_data):
    denoiser = randomised(settings, architecture, sigma_data=sigma_data)
    arguments = inputs(settings)
    with torch.no_grad():
        actual = denoiser(*arguments)
    expected = Published(denoiser.state_dict(), settings, architecture).D(*as_numpy(*arguments), sigma_data=sigma_data)
    for n in range(3):  # of each image: the noise levels differ by orders of magnitude
        assert relative_error(actual[n], expected[n]) < 1e-5


@PRECONDITIONING
@ARCHITECTURE
def test_denoiser_matches_float64_at_every_noise_level(architecture, preconditioning):
    denoiser, published = made(architecture, preconditioning)
    arguments = at_every_level()
    with torch.no_grad():
        actual = denoiser(*arguments)
    assert actual.dtype == torch.float32
    expected = published.D(*as_numpy(*arguments), preconditioning=preconditioning)
    assert max(errors(actual, expected, arguments[0])) < 1e-5


@PRECONDITIONING
def test_noise_is_embedded_as_described(preconditioning):
    denoiser, _ = made("ddpmpp", preconditioning)
    seen = []
    handle = denoiser.model.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[:2]))
    x, sigma, *_ = at_every_level()
    with torch.no_grad():
        denoiser(x, sigma)
    handle.remove()
    _, _, c_in, c_noise = precondition(preconditioning, sigma.double().numpy())
    net_input, actual = as_numpy(*seen[0])
    np.testing.assert_allclose(actual, c_noise, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(net_input, c_in[:, None, None, None] * x.double().numpy(), rtol=1e-6)


@PRECONDITIONING
def test_float64_in_gives_float64_out(preconditioning):
    denoiser, published = made("ddpmpp", preconditioning)
    arguments = at_every_level(torch.float64)
    with torch.no_grad():
        actual = denoiser(*arguments)
    assert actual.dtype == torch.float64
    expected = published.D(*as_numpy(*arguments), preconditioning=preconditioning)
    assert max(errors(actual, expected, arguments[0])) < 1e-5


def test_the_skip_part_is_evaluated_in_float64_for_float64():
    denoiser = randomised(SMALL)
    with torch.no_grad():
        denoiser.model.dec["8x8_aux_conv"].weight.zero_()
        denoiser.model.dec["8x8_aux_conv"].bias.zero_()
        x, sigma, *_ = inputs(SMALL, dtype=torch.float64)
        actual = denoiser(x, sigma)
    expected = (0.25 / (sigma**2 + 0.25))[:, None, None, None] * x
    torch.testing.assert_close(actual, expected, rtol=1e-14, atol=0)


@PRECONDITIONING
@ARCHITECTURE
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_fresh_network_starts_as_the_skip_alone_whose_digits_are_float32s(architecture, preconditioning, precision):
    torch.manual_seed(0)
    denoiser = networks.create(architecture, **PLAIN, preconditioning=preconditioning)
    denoiser.compute_dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x, sigma, *_ = inputs(PLAIN)
    c_skip = precondition(preconditioning, sigma.double().numpy())[0]
    change = denoiser(x, sigma) - torch.from_numpy(c_skip)[:, None, None, None] * x
    assert change.abs().max() < 1e-3


@PRECONDITIONING
def test_a_number_as_sigma_means_that_level_for_every_image(preconditioning):
    denoiser, _ = made("ddpmpp", preconditioning)
    x, _, labels, augment_labels = inputs(SMALL)
    with torch.no_grad():
        number = denoiser(x, 0.7, labels, augment_labels)
        vector = denoiser(x, torch.full((3,), 0.7), labels, augment_labels)
    assert torch.equal(number, vector)


@PRECONDITIONING
@MASK
def test_raw_is_f_of_edm_whatever_the_preconditioning(preconditioning, masked):
    """(D - c_skip x) / c_out with c_skip and c_out of EDM, D as described; and D is made of it as of EDM's F."""
    denoiser, published = made("ddpmpp", preconditioning, masked)
    x, sigma, *labels = at_every_level()
    mask = masks() if masked else None
    net_input = (sigma**2 + 0.25).rsqrt()[:, None, None, None] * x
    with torch.no_grad():
        raw = denoiser.raw(net_input, sigma, *labels, condition=mask)
        assert torch.equal(denoiser.denoise(raw, x, sigma, mask), denoiser(x, sigma, *labels, condition=mask))
    assert raw.shape == x.shape
    x, sigma, *labels, mask = as_numpy(x, sigma, *labels, mask)
    D = published.D(x, sigma, *labels, preconditioning=preconditioning, mask=mask)
    c_skip, c_out, *_ = (c[:, None, None, None] for c in precondition("edm", sigma))
    expected = (D - c_skip * x) / c_out
    for n in range(5):
        assert relative_error(raw[n], expected[n]) < 1e-5


@PRECONDITIONING
@ARCHITECTURE
@pytest.mark.parametrize("given", [True, False], ids=["mask", "no-mask"])
def test_masked_images_match_float64_and_no_mask_means_all_observed(architecture, preconditioning, given):
    denoiser, published = made(architecture, preconditioning, masked=True)
    x, *rest = at_every_level()
    mask = masks()
    x = x * mask if given else x
    with torch.no_grad():
        actual = denoiser(x, *rest, condition=mask if given else None)
    mask = mask.double().numpy() if given else 1.0
    expected = published.D(*as_numpy(x, *rest), preconditioning=preconditioning, mask=mask)
    assert max(errors(actual, expected, x)) < 1e-5


def test_masked_images_double_the_inputs_and_outputs_of_the_network():
    state = networks.create("ddpmpp", **MASKED).state_dict()
    described = published_shapes("ddpmpp", {**GATED, "in_channels": 6, "out_channels": 6})
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        f"model.{k}": v for k, v in described.items()
    }


@PRECONDITIONING
def test_the_mask_counts_and_the_outputs_beyond_the_image_do_not(preconditioning):
    settings = {**MASKED, "preconditioning": preconditioning}
    denoiser = randomised(settings)
    x, *rest = at_every_level()
    last = denoiser.model.dec["8x8_aux_conv"]
    with torch.no_grad():
        before = denoiser(x, *rest, condition=masks())
        other = denoiser(x, *rest, condition=1 - masks())
        last.weight[3:], last.gate_weight[3:], last.bias[3:] = 0, 0, 7
        assert torch.equal(denoiser(x, *rest, condition=masks()), before)
    assert ((other - before).abs().amax((1, 2, 3)) / before.abs().amax((1, 2, 3)) > 1e-6).all()


def test_a_mask_that_does_not_fit_raises_a_value_error():
    x = torch.zeros(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"condition: expected \[2, 3, 8, 8\], got \[2, 1, 8, 8\]"):
        made(masked=True)[0](x, 1.0, condition=torch.ones(2, 1, 8, 8))
    with pytest.raises(ValueError, match="condition: the network takes none"):
        made()[0](x, 1.0, condition=torch.ones(2, 3, 8, 8))


@PRECONDITIONING
@ARCHITECTURE
@MASK
def test_bfloat16_runs_and_is_close(architecture, preconditioning, masked):
    settings = MASKED if masked else SMALL
    denoiser = randomised(settings, architecture, preconditioning=preconditioning)
    x, *rest = at_every_level()
    mask = masks() if masked else None
    with torch.no_grad():
        expected = denoiser(x, *rest, condition=mask)
        denoiser.compute_dtype = torch.bfloat16
        actual = denoiser(x, *rest, condition=mask)
    assert actual.dtype == torch.float32
    scale = torch.maximum(x.flatten(1).norm(dim=1), (expected - x).flatten(1).norm(dim=1))
    error = (actual - expected).flatten(1).norm(dim=1) / scale
    assert error.max() < (0.06 if masked else 0.03)
    assert error.max() > 1e-4, "computed in float32 after all"
    assert all(parameter.dtype == torch.float32 for parameter in denoiser.parameters())


@PRECONDITIONING
@ARCHITECTURE
def test_bfloat16_noise_embedding_keeps_its_precision(architecture, preconditioning):
    """c_noise and its features are made in float32: bfloat16 has 3 digits, and c_noise differs by less."""
    denoiser = randomised(SMALL, architecture, preconditioning=preconditioning)
    denoiser.compute_dtype = torch.bfloat16
    seen, features = [], []
    denoiser.model.register_forward_hook(lambda module, arguments, output: seen.append((arguments[1], output)))
    denoiser.model.map_layer0.register_forward_pre_hook(lambda module, arguments: features.append(arguments[0]))
    x, *_ = inputs(SMALL)
    sigma = torch.tensor([1.0, 1.001, 0.02], dtype=torch.float64)
    with torch.no_grad():
        denoiser.raw(x, sigma)
    c_noise, output = seen[0]
    assert c_noise.dtype == features[0].dtype == torch.float32
    assert output.dtype == torch.bfloat16
    np.testing.assert_allclose(c_noise.numpy(), precondition(preconditioning, sigma.numpy())[3], rtol=1e-5, atol=1e-8)


@PRECONDITIONING
@MASK
def test_a_training_loss_is_the_weighted_error_of_d_and_its_gradient_reaches_every_weight(preconditioning, masked):
    denoiser = randomised(MASKED if masked else SMALL, preconditioning=preconditioning)
    seen = []
    raw = denoiser.raw
    denoiser.raw = lambda net_input, sigma, *rest, **more: (
        seen.append(net_input) or raw(net_input, sigma, *rest, **more)
    )
    y = 0.5 * torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels, augment_labels = torch.eye(3).repeat(2, 1), torch.ones(6, 4)
    loss, sigma = tiny.loss(
        Objective(name="standard"),
        denoiser,
        tiny.observed(y),
        labels=(labels, augment_labels),
        seed=0,
        sample=torch.arange(6),
        step=0,
    )
    loss.sum().backward()
    for name, parameter in denoiser.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
    del denoiser.raw
    level = sigma[:, None, None, None]
    x = seen[0] * (level**2 + 0.25).sqrt()
    with torch.no_grad():
        error = denoiser(x, sigma, labels, augment_labels) - y
    weight = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
    torch.testing.assert_close(loss.detach(), weight * (error**2).sum((1, 2, 3)), rtol=1e-3, atol=1e-3)


def test_an_unknown_preconditioning_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"preconditioning: expected one of edm, vp, ve, got 'iddpm'"):
        networks.create("ddpmpp", **SMALL, preconditioning="iddpm")
    assert list(networks.PRECONDITIONINGS) == ["edm", "vp", "ve"]


def test_an_unknown_kind_of_hidden_pixels_raises_a_value_error():
    with pytest.raises(ValueError, match=r"hidden: unknown kind of what is hidden 'rows'; known: .*sigma"):
        networks.create("ddpmpp", **SMALL, hidden="rows")
