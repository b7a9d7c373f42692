"""observe, perturb and observe_perturb: one definition on every backend, bit for bit where no root is taken."""

import math

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from rsd_fast import ops
from rsd_fast.ops import InputOptions, Key, Operator, Stream, edm
from rsd_fast.ops.observe import _observation
from rsd_fast.ops.philox import integers, signed_seed

TAPS = torch.tensor([0.1, 0.2, 0.4, 0.2, 0.1], dtype=torch.float64)
OPERATORS = {
    "identity": Operator.identity(),
    "mask": Operator.mask(0.6),
    "mask of channels": Operator.mask(0.3, shared=False),
    "blur": Operator.blur(TAPS[1:4]),
    "dense blur": Operator.blur(TAPS[1:4, None] * TAPS[None, :]),
    "downsample": Operator.downsample(2),
}
SHAPES = [(3, 3, 8, 8), (2, 1, 3, 5), (1, 4, 4, 7), (2, 2, 31, 33), (2, 5, 4, 3), (0, 3, 8, 8)]
INDEX = torch.tensor([5, 2**33 + 1, 0])


def uint8_images(shape):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def float_images(shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)


def observe(backend, images, index, operator, sigma_obs, seed, *, step=0, mask=None, channels_last=False):
    """The backend's own observe, always as (y, mask)."""
    on = backend.device
    sigma_obs = sigma_obs.to(on) if torch.is_tensor(sigma_obs) else sigma_obs
    arguments = _observation(images.to(on), index.to(on), operator, sigma_obs, seed, step, mask)
    if backend.name == "reference":
        op = ops.reference.observe
        found = op(images.to(on), index.to(on), operator, sigma_obs, seed, step=step, mask=mask, channels_last=channels_last)  # fmt: skip  # noqa: E501
        return found if mask else (found, None)
    y, drawn = backend.module.observe(*arguments, channels_last)
    return y, drawn if mask else None


def perturb(backend, y, sigma, sigma_obs, seed, sample, step, *, dtype=torch.float32, channels_last=False):
    """The backend's own perturb."""
    on = backend.device
    y, sigma, sample = y.to(on), sigma.to(on), sample.to(on)
    if backend.name == "reference":
        op = ops.reference.perturb
        return op(y, sigma, sigma_obs, seed, sample, step, InputOptions(0.5, dtype, channels_last))
    levels = edm.levels(sigma, y), edm.levels(sigma_obs, y, "sigma_obs")
    counter = signed_seed(seed), *integers(sample=sample, step=step)
    return backend.module.perturb(y, *levels, *counter, 0.5, dtype, channels_last)


def assert_same(found, expected):
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert torch.equal(found.cpu(), expected.cpu())


def is_laid_out(x, channels_last):
    return x.is_contiguous(memory_format=edm.memory_format(channels_last))


# The definition, in NumPy.


def defined(images, index, kind, sigma_obs, seed, step):
    """y in float64 for identity and mask: the formula by itself."""
    x = images.double().numpy() / 127.5 - 1 if images.dtype == torch.uint8 else images.double().numpy()
    noise = ops.reference.randn(images.shape, seed, index, step, Stream.OBSERVATION_NOISE).double().numpy()
    y = x + np.reshape(sigma_obs, (-1, 1, 1, 1)) * noise
    operator = OPERATORS[kind]
    if operator.kind == "mask":
        batch, channels, height, width = images.shape
        count = height * width * (1 if operator.shared else channels)
        words = ops.reference.philox(seed, index[:, None], torch.arange(-(-count // 4)), 0, Stream.OBSERVATION_MASK)
        kept = words.flatten(1)[:, :count].long().numpy() >= operator.missing * 2**32
        y = np.where(kept.reshape(batch, 1 if operator.shared else channels, height, width), y, 0)
    return y


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["identity", "mask", "mask of channels"])
@pytest.mark.parametrize("images", [uint8_images, float_images], ids=["uint8", "float"])
def test_observe_is_what_it_says(backend, kind, shape, images):
    images, index = images(shape), INDEX[: shape[0]]
    sigma_obs = torch.tensor([0.3, 0.0, 1.5])[: shape[0]]
    y, _ = observe(backend, images, index, OPERATORS[kind], sigma_obs, 7, step=3)
    assert y.dtype == torch.float32
    expected = defined(images, index, kind, sigma_obs.numpy(), 7, 3)
    np.testing.assert_allclose(y.cpu().numpy(), expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["blur", "dense blur", "downsample"])
def test_an_operator_comes_between_normalisation_and_noise(backend, kind):
    images, index = uint8_images((3, 3, 9, 7)), INDEX
    y, _ = observe(backend, images, index, OPERATORS[kind], 0.2, 7)
    operator = OPERATORS[kind]
    x = images.double() / 127.5 - 1
    x = ops.blur(x, operator.kernel) if operator.kernel is not None else ops.downsample(x, 2)
    noise = ops.reference.randn(x.shape, 7, index, 0, Stream.OBSERVATION_NOISE)
    np.testing.assert_allclose(y.cpu().numpy(), (x + 0.2 * noise).numpy(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", OPERATORS)
def test_backends_agree_bit_for_bit(backend, kind, shape, channels_last):
    if kind in ("blur", "dense blur") and min(shape[2:]) < 3:
        pytest.skip("too small for the kernel")
    sigma_obs = torch.tensor([0.3, 0.0, 1.5])[: shape[0]]
    for images in (uint8_images(shape), float_images(shape), float_images(shape, torch.float64)):
        levels = sigma_obs.to(edm.accumulation_dtype(images))
        arguments = images, INDEX[: shape[0]], OPERATORS[kind], levels, 2**63 + 5
        expected = ops.reference.observe(*arguments, step=2)
        found, _ = observe(backend, *arguments, step=2, channels_last=channels_last)
        assert is_laid_out(found, channels_last)
        if kind in ("identity", "mask", "mask of channels") or backend.name != "triton":
            assert_same(found, expected)
        else:
            torch.testing.assert_close(found.cpu(), expected, rtol=1e-6, atol=1e-6)


def test_images_of_any_layout(backend):
    images = uint8_images((2, 3, 8, 12))
    expected = ops.reference.observe(images, INDEX[:2], Operator.identity(), 0.1, 0)
    wide = torch.zeros(2, 3, 8, 24, dtype=torch.uint8)
    wide[..., ::2] = images
    for other in (images.to(memory_format=torch.channels_last), wide[..., ::2], images.mT.contiguous().mT):
        assert_same(observe(backend, other, INDEX[:2], Operator.identity(), 0.1, 0)[0], expected)


def test_short_images_are_widened(backend):
    images = float_images((2, 3, 4, 4), torch.bfloat16)
    found, _ = observe(backend, images, INDEX[:2], Operator.identity(), 0.1, 0)
    assert_same(found, ops.reference.observe(images.float(), INDEX[:2], Operator.identity(), 0.1, 0))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 3, 5, 7), (2, 1, 17, 31)], ids=str)
def test_the_mask_comes_back_as_it_was_used(backend, shape, shared):
    images = float_images(shape) + 10  # nowhere 0
    operator = Operator.mask(0.4, shared=shared)
    y, mask = observe(backend, images, INDEX[:2], operator, 0.0, 1, mask="uint8")
    assert mask.dtype == torch.uint8 and mask.shape == (2, 1 if shared else shape[1], *shape[2:])
    assert_same(y, images * mask.cpu())
    _, packed = observe(backend, images, INDEX[:2], operator, 0.0, 1, mask="packed")
    bits = np.unpackbits(packed.cpu().numpy(), axis=1, bitorder="little")
    count = mask[0].numel()
    assert packed.shape == (2, -(-count // 8)) and np.array_equal(bits[:, :count], mask.cpu().flatten(1).numpy())
    assert not bits[:, count:].any()


def test_a_mask_is_permanent_and_has_its_share(backend):
    images, operator = torch.ones(2, 1, 64, 64), Operator.mask(0.7)
    masks = [observe(backend, images, INDEX[:2], operator, 0.5, 3, step=s, mask="uint8") for s in (0, 1)]
    assert_same(masks[0][1], masks[1][1])
    assert not torch.equal(masks[0][0], masks[1][0])  # other noise
    share = masks[0][1].double().mean().item()
    assert abs(share - 0.3) < 5 * math.sqrt(0.3 * 0.7 / images.numel())
    for missing, kept in ((0.0, 1), (1.0, 0)):
        assert (observe(backend, images, INDEX[:2], Operator.mask(missing), 0.0, 3, mask="uint8")[1] == kept).all()


def test_an_observation_depends_on_its_image_alone(backend):
    images = uint8_images((3, 3, 5, 6))
    for operator in OPERATORS.values():
        whole, _ = observe(backend, images, INDEX, operator, 0.3, 1)
        for i in range(3):
            one, _ = observe(backend, images[i : i + 1], INDEX[i : i + 1], operator, 0.3, 1)
            assert_same(one, whole[i : i + 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_perturb(backend, shape, channels_last, dtype):
    long = torch.float64 if dtype == torch.float64 else torch.float32
    y, sample = float_images(shape, long), INDEX[: shape[0]]
    sigma = torch.tensor([0.3, 2.0, 40.0])[: shape[0]].to(long)
    arguments = y, sigma, 0.3, 9, sample, 4
    x_t, net_input = perturb(backend, *arguments, dtype=dtype, channels_last=channels_last)
    assert x_t.dtype == long and net_input.dtype == dtype
    assert is_laid_out(x_t, channels_last) and is_laid_out(net_input, channels_last)
    noise = ops.reference.randn(shape, 9, sample, 4, Stream.DIFFUSION_NOISE).double()
    level = sigma.double().reshape(-1, 1, 1, 1)
    sigma_obs = torch.tensor(0.3, dtype=long).double()
    exact = y.double() + (level**2 - sigma_obs**2).clamp_min(0).sqrt() * noise
    torch.testing.assert_close(x_t.cpu().double(), exact, rtol=1e-6, atol=1e-6)
    exact = exact / (level**2 + 0.25).sqrt()
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(net_input.cpu().double(), exact, rtol=max(1e-6, eps), atol=max(1e-6, eps))


def test_at_sigma_obs_nothing_is_added(backend):
    y, sigma = float_images((2, 3, 4, 4)), torch.full((2,), 0.2)
    assert_same(perturb(backend, y, sigma, 0.2, 0, INDEX[:2], 0)[0], y)


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_both_in_one_pass_are_one_after_the_other(backend, kind, channels_last):
    """Bit for bit, with seeds, ids and steps of their own."""
    if backend.name == "reference":
        pytest.skip("is one after the other")
    on, operator = backend.device, OPERATORS[kind]
    images, sample = uint8_images((2, 3, 6, 10)).to(on), torch.tensor([11, 12], device=on)
    sigma, sigma_obs = torch.tensor([0.4, 3.0], device=on), torch.tensor([0.1, 0.4], device=on)
    observation = _observation(images, INDEX[:2].to(on), operator, sigma_obs, 5, 1, "uint8" if "mask" in kind else None)
    step = torch.tensor([8, 9], device=on)
    both = backend.module.observe_perturb(*observation, sigma, 6, sample, step, 0.5, torch.bfloat16, channels_last)
    y, mask = backend.module.observe(*observation, channels_last)
    apart = y, mask, *backend.module.perturb(y, sigma, sigma_obs, 6, sample, step, 0.5, torch.bfloat16, channels_last)
    for found, expected in zip(both, apart, strict=True):
        assert_same(found, expected)
        assert found.stride() == expected.stride()


def test_public_functions():
    images, sample, sigma = uint8_images((2, 3, 6, 8)), torch.tensor([3, 4]), torch.tensor([0.5, 2.0])
    operator = Operator.mask(0.5)
    y, mask = ops.observe(images, sample, operator, 0.1, 1, step=2, mask="uint8")
    expected = ops.perturb(y, sigma, 0.1, 1, sample, 2)
    found = ops.observe_perturb(images, operator, 0.1, sigma, Key(1, sample, 2), mask="uint8")
    for a, b in zip(found, (y, *expected, mask), strict=True):
        assert_same(a, b)
    assert len(ops.observe_perturb(images, operator, 0.1, sigma, Key(1, sample, 2))) == 3
    keys = Key(5, sample + 1, 4), Key(1, sample, 2)
    for a, b in zip(
        ops.observe_perturb(images, operator, 0.1, sigma, keys[0], observation_key=keys[1]),
        (y, *ops.perturb(y, sigma, 0.1, 5, sample + 1, 4)),
        strict=True,
    ):
        assert_same(a, b)

    class Holder:
        pass

    holder = Holder()
    holder.operator = operator
    assert_same(ops.observe(images, sample, holder, 0.1, 1, step=2), y)


def test_perturb_gradient(backend):
    if backend.name == "reference":
        pytest.skip("by autograd")
    on = backend.device
    sigma = torch.tensor([0.5, 2.0], device=on)
    for dtype, channels_last in ((torch.float32, False), (torch.bfloat16, True)):
        first, second = float_images((2, 3, 4, 5)).to(on), float_images((2, 3, 5, 4)).mT.to(on, torch.bfloat16)
        found = backend.module.perturb_backward(first, second, sigma, 0.5, dtype, channels_last)
        exact = first.double() + second.double() / (sigma.double() ** 2 + 0.25).sqrt().reshape(-1, 1, 1, 1)
        assert found.dtype == dtype and is_laid_out(found, channels_last)
        tolerance = 4 * torch.finfo(dtype).eps
        torch.testing.assert_close(found.double(), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", OPERATORS)
def test_threads_change_nothing(kind):
    images, before = uint8_images((5, 3, 61, 57)), torch.get_num_threads()
    sample, sigma = torch.arange(5), torch.linspace(0.5, 2, 5)
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(ops.observe_perturb(images, OPERATORS[kind], 0.1, sigma, Key(1, sample, 2)))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        for found, expected in zip(result, results[0], strict=True):
            assert_same(found, expected)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_opcheck():
    images, sample, levels = uint8_images((2, 3, 5, 6)), torch.arange(2), torch.tensor([0.5, 0.6])
    step = torch.tensor(1)
    for operator in OPERATORS.values():
        for channels_last in (False, True):
            mask = "packed" if operator.kind == "mask" else ""
            observation = images, sample, levels / 2, -3, step, *operator.arguments, mask
            torch.library.opcheck(torch.ops.rsd_fast.observe.default, (*observation, channels_last))
            diffusion = levels, 4, sample, step, 0.5, torch.bfloat16, channels_last
            torch.library.opcheck(torch.ops.rsd_fast.observe_perturb.default, (*observation, *diffusion))
    y = float_images((2, 3, 5, 6)).requires_grad_()
    arguments = y, levels, levels / 2, 1, sample, step, 0.5, torch.float32, True
    torch.library.opcheck(torch.ops.rsd_fast.perturb.default, arguments)


def test_perturb_is_differentiable_once():
    y = float_images((2, 1, 3, 3), torch.float64).requires_grad_()
    sigma = torch.tensor([0.5, 2.0], dtype=torch.float64)

    def f(y):
        return ops.perturb(y, sigma, 0.1, 0, INDEX[:2], 0, InputOptions(dtype=torch.float64))

    assert torch.autograd.gradcheck(f, (y,))
    upstream = torch.ones_like(y).requires_grad_()
    (grad,) = torch.autograd.grad(f(y)[0], y, upstream, create_graph=True)
    with pytest.raises(RuntimeError, match="perturb is differentiable once"):
        grad.sum().backward()


@pytest.mark.slow
def test_compiles_whole():
    images, sample, sigma = uint8_images((2, 3, 6, 8)), torch.tensor([3, 4]), torch.tensor([0.5, 2.0])

    def f(images, step):
        y, x_t, net_input = ops.observe_perturb(images, OPERATORS["blur"], 0.1, sigma, Key(1, sample, step))
        return y, x_t, net_input, *ops.perturb(y, sigma, 0.1, 1, sample, step)

    step = torch.tensor(5)
    for found, expected in zip(torch.compile(f, fullgraph=True)(images, step), f(images, step), strict=True):
        assert_same(found, expected)


GOOD = {"images": uint8_images((2, 3, 6, 8)), "index": torch.arange(2), "corruption": Operator.identity()}
GOOD |= {"sigma_obs": 0.1, "seed": 0}
BAD = [
    ({"images": GOOD["images"].int()}, TypeError, "images: expected uint8 or a floating-point dtype, got torch.int32"),
    ({"images": GOOD["images"][0]}, ValueError, r"images: expected \[B, C, H, W\], got \[3, 6, 8\]"),
    ({"images": torch.ones(2, 1, 2, 2).requires_grad_()}, ValueError, "images: there is no gradient"),
    ({"index": torch.arange(3)}, ValueError, r"index: expected one id an image, \[2\], got \[3\]"),
    ({"index": torch.zeros(2)}, TypeError, "index: expected int32 or int64, got torch.float32"),
    ({"index": [0, 1]}, TypeError, "index: expected an integer tensor"),
    ({"sigma_obs": -0.1}, ValueError, "sigma_obs: expected a finite number of at least 0, got -0.1"),
    ({"sigma_obs": math.nan}, ValueError, "sigma_obs: expected a finite number"),
    ({"sigma_obs": torch.ones(3)}, ValueError, r"sigma_obs: expected a number or shape \[2\], got \[3\]"),
    ({"seed": 2**64}, ValueError, "seed: expected 0 <= seed"),
    ({"corruption": "blur"}, TypeError, "corruption: expected an ops.Operator"),
    ({"corruption": Operator("sharpen")}, ValueError, "operator: expected one of identity, mask, blur, downsample"),
    ({"corruption": Operator.mask(1.5)}, ValueError, "missing: expected a probability, got 1.5"),
    ({"corruption": Operator.mask(math.nan)}, ValueError, "missing: expected a probability"),
    ({"corruption": Operator.blur(torch.ones(2))}, ValueError, "kernel: expected"),
    ({"corruption": Operator.blur(torch.ones(13))}, ValueError, "kernel: .* reach past the border"),
    ({"corruption": Operator.blur(torch.tensor([1.0, math.inf, 1.0]))}, ValueError, "kernel: expected finite"),
    ({"corruption": Operator.downsample(0)}, ValueError, "factor: expected"),
    ({"mask": "uint8"}, ValueError, "mask: the operator 'identity' draws none"),
    ({"corruption": Operator.mask(0.5), "mask": "bool"}, ValueError, "mask: expected None, 'uint8' or 'packed'"),
]


@pytest.mark.parametrize(("changes", "error", "message"), BAD)
def test_bad_input(changes, error, message):
    with pytest.raises(error, match=message):
        ops.observe(**(GOOD | changes))
    arguments = {"sigma": 1.0, "key": Key(0, torch.arange(2)), **GOOD, **changes}
    arguments["observation_key"] = Key(arguments.pop("seed"), arguments.pop("index"))
    with pytest.raises(error, match=message):
        ops.observe_perturb(**arguments)
    if "kernel: expected finite" in message:  # a fake cannot see values
        return
    with pytest.raises(error, match=message), FakeTensorMode(allow_non_fake_inputs=True):
        ops.observe(**(GOOD | changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"sample": torch.arange(3)}, ValueError, "sample: expected one id an image"),
        ({"sample": torch.zeros(2)}, TypeError, "sample: expected int32 or int64"),
        ({"sigma": math.inf}, ValueError, "sigma: expected a finite number"),
        ({"options": InputOptions(sigma_data=0.0)}, ValueError, "sigma_data: expected a finite number above 0"),
        ({"options": InputOptions(dtype=torch.int32)}, TypeError, "dtype: expected a floating-point dtype"),
        ({"y": torch.ones(2, 3, dtype=torch.int64)}, TypeError, "y: expected a floating-point"),
        (
            {"y": torch.ones(2, 3), "options": InputOptions(channels_last=True)},
            ValueError,
            "channels_last: expected images",
        ),
    ],
)
def test_bad_perturb(changes, error, message):
    good = {"y": torch.ones(2, 3, 4, 4), "sigma": 1.0, "sigma_obs": 0.1, "seed": 0}
    good |= {"sample": torch.arange(2), "step": 0}
    ops.perturb(**good)
    with pytest.raises(error, match=message):
        ops.perturb(**(good | changes))
