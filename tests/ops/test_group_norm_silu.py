"""group_norm_silu against float64 NumPy, its gradients against autograd of the reference in float64.

Tolerance: the error against float64 is at most twice that of PyTorch's own operations in the same precision, plus a
few units in the last place.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf

from rsd_fast import ops
from rsd_fast.networks.blocks import SONG, Block
from rsd_fast.networks.layers import GroupNorm
from rsd_fast.ops.group_norm_silu import _group_norm_silu_backward

from .group_norm import (
    CASES,
    DTYPES,
    EPS,
    GIVEN,
    LARGE,
    LAYOUTS,
    TINY,
    arguments,
    assert_accurate,
    float64,
    laid_out,
    plain,
    rand,
    statistics,
    to,
)


def forward(backend, x, weight, bias, groups, scale=None, shift=None, silu=True, eps=EPS):
    """The backend's own y; mean and rstd where it gives them."""
    tensors = to(backend.device, (x, weight, bias, scale, shift))
    out = backend.module.group_norm_silu(*tensors[:3], groups, eps, *tensors[3:], silu)
    return (out, None, None) if backend.name == "reference" else out


def backward(backend, grad, x, weight, bias, groups, scale=None, shift=None, silu=True, wanted=None):
    """The backend's own five gradients, from float64 statistics rounded to what it computes in."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    given = [t is not None for t in (x, weight, bias, scale, shift)]
    tensors = (grad, x, weight, bias, scale, shift, *(value.to(dtype) for value in statistics(x, groups)))
    tensors = to(backend.device, tensors)
    if backend.name == "reference":
        return _group_norm_silu_backward(*tensors, silu, given if wanted is None else wanted)
    return backend.module.group_norm_silu_backward(*tensors, silu, given if wanted is None else wanted)


def gradients(function, grad, x, weight, bias, groups, scale, shift, silu, dtype):
    """By autograd of a function of tensors in dtype; the result in the tensors' own."""
    tensors = (x, weight, bias, scale, shift)
    leaves = [None if t is None else t.detach().to(dtype).requires_grad_() for t in tensors]
    y = function(*leaves[:3], groups, EPS, *leaves[3:], silu)
    found = iter(torch.autograd.grad(y, [leaf for leaf in leaves if leaf is not None], grad.to(dtype)))
    return [None if t is None else next(found).to(t.dtype) for t in tensors]


def sizes(backend, layout):
    if backend.name == "triton" and backend.device == "cpu":
        if layout not in ("contiguous", "channels-last"):
            pytest.skip("the kernel sees no other layout, and the interpreter is slow")
        return TINY
    return TINY + CASES + LARGE


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_forward_matches_float64(backend, dtype, layout):
    for number, (shape, groups) in enumerate(sizes(backend, layout)):
        given = list(GIVEN)[number % len(GIVEN)]
        silu = number % 4 != 3
        x, weight, bias, scale, shift = arguments(shape, dtype, given)
        x = laid_out(x, layout)
        y, mean, rstd = forward(backend, x, weight, bias, groups, scale, shift, silu)
        exact = float64(x, weight, bias, groups, EPS, scale, shift, silu)
        assert_accurate(y, exact, plain(x, weight, bias, groups, EPS, scale, shift, silu))
        if mean is not None:
            tolerance = 1e-13 if dtype == torch.float64 else 2e-6
            for found, expected in zip((mean, rstd), statistics(x, groups), strict=True):
                torch.testing.assert_close(found.cpu().double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_backward_matches_autograd_of_the_reference_in_float64(backend, dtype, layout):
    for number, (shape, groups) in enumerate(sizes(backend, layout)):
        given = list(GIVEN)[(number + 2) % len(GIVEN)]
        silu = number % 4 != 2
        x, weight, bias, scale, shift = arguments(shape, dtype, given)
        x, grad = laid_out(x, layout), laid_out(rand(shape, 9, dtype), layout)
        found = backward(backend, grad, x, weight, bias, groups, scale, shift, silu)
        parts = (grad, x, weight, bias, groups, scale, shift, silu)
        same = gradients(ops.reference.group_norm_silu, *parts, torch.promote_types(dtype, torch.float32))
        doubled = [t.double() if isinstance(t, torch.Tensor) else t for t in parts]
        exact = gradients(ops.reference.group_norm_silu, *doubled, torch.float64)
        for name, f, e, s in zip(("x", "weight", "bias", "scale", "shift"), found, exact, same, strict=True):
            if e is None:
                assert f.numel() == 0
            else:
                assert_accurate(*((t[None] if name in ("weight", "bias") else t) for t in (f, e, s)), name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_large_mean_loses_nothing(backend, dtype):
    for layout in ("contiguous", "channels-last"):
        x, weight, bias, *_ = arguments((6, 6, 9, 7), dtype, "weight, bias", mean=1000.0)
        x = laid_out(x, layout)
        y, mean, rstd = forward(backend, x, weight, bias, 2)
        # Of all samples at once: what is left is the rounding of the mean itself, luck in a single one.
        results = y, torch.from_numpy(float64(x, weight, bias, 2, EPS)), plain(x, weight, bias, 2, EPS)
        assert_accurate(*(t[None] for t in results))
        if rstd is not None:
            expected_mean, expected_rstd = statistics(x, 2)
            torch.testing.assert_close(mean.cpu().double(), expected_mean, rtol=2e-7, atol=0)
            torch.testing.assert_close(rstd.cpu().double(), expected_rstd, rtol=1e-5, atol=0)


@pytest.mark.parametrize("every", [2, 16, 32])
def test_pixels_unlike_the_others_lose_nothing(backend, every):
    """The native forward centres on the mean of every 16th pixel, where there are this many channels."""
    shape = (1, 4, 8, 8) if backend.name == "triton" and backend.device == "cpu" else (1, 256, 32, 8)
    x = rand(shape, 0, torch.float32)
    x.flatten(2)[:, :, ::every] += 1000
    x = x.to(memory_format=torch.channels_last)
    y, mean, rstd = forward(backend, x, None, None, 2)
    assert_accurate(y, float64(x, None, None, 2, EPS), plain(x, None, None, 2, EPS))
    if rstd is not None:
        for found, expected in zip((mean, rstd), statistics(x, 2), strict=True):
            torch.testing.assert_close(found.cpu().double(), expected, rtol=2e-6, atol=0)


def test_a_constant_group_is_finite(backend):
    x = torch.full((1, 4, 5, 3), 1234.567)
    y, *_ = forward(backend, x, None, None, 2, silu=False)
    assert y.abs().max() < 1e-2  # the rounding of the mean, over sqrt(eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extremes_of_silu(backend, dtype):
    """Far out y is z or 0, its gradient 1 or 0, and nothing is NaN."""
    shift = torch.tensor([[-1e4, -200.0, -90.0, 90.0, 200.0, 1e4]], dtype=dtype)
    x = rand((1, 6, 3, 2), 0, dtype)
    z = float64(x, None, None, 2, EPS, None, shift, silu=False)
    y, *_ = forward(backend, x, None, None, 2, None, shift)
    np.testing.assert_allclose(y.cpu().double().numpy(), np.where(z > 0, z, 0), rtol=1e-6, atol=1e-30)
    grads = backward(
        backend, torch.ones_like(x), x, None, None, 2, None, shift, wanted=[True, False, False, False, True]
    )
    np.testing.assert_allclose(grads[4].cpu().numpy(), [[0, 0, 0, 6, 6, 6]], atol=1e-30)
    assert torch.isfinite(grads[0]).all()


def test_nan_stays_in_its_group(backend):
    x = rand((2, 4, 3, 3), 0, torch.float32)
    x[1, 2, 0, 0] = torch.nan
    y, *_ = forward(backend, x, None, None, 2)
    expected = torch.zeros(2, 4, 3, 3, dtype=torch.bool)
    expected[1, 2:] = True
    assert torch.equal(y.isnan().cpu(), expected)


@pytest.mark.parametrize("bits", [0x7FC00001, 0x7FFFFFFF, -1])  # of float32
def test_nan_of_any_payload_is_nan_in_bfloat16(backend, bits):
    """In a weight, a bias and x: of a channel, a channel and a sample's group, each a channel here."""
    weight, bias = torch.ones(4), torch.zeros(4)
    x, grad = rand((2, 4, 3, 3), 0, torch.bfloat16), rand((2, 4, 3, 3), 1, torch.bfloat16)
    weight.view(torch.int32)[0] = bias.view(torch.int32)[1] = bits
    x.view(torch.int16)[1, 2, 0, 0] = bits >> 16
    expected = torch.zeros(2, 4, 3, 3, dtype=torch.bool)
    expected[:, :2] = expected[1, 2] = True
    y, *_ = forward(backend, x, weight, bias, 4)
    dx, *_ = backward(backend, grad, x, weight, bias, 4)
    assert torch.equal(y.isnan().cpu(), expected) and torch.equal(dx.isnan().cpu(), expected)


def test_silu_over_its_whole_range(backend):
    """The exponential's polynomial, from underflow to overflow."""
    if backend.name == "triton":
        pytest.skip("its exponential is Triton's")
    shift = torch.linspace(-100, 100, 4001)[None]
    x = torch.zeros(1, 4001, 2)
    y, *_ = forward(backend, x, None, None, 4001, None, shift)
    exact = float64(x, None, None, 4001, EPS, None, shift)
    normal = np.abs(exact) > 1e-35
    np.testing.assert_allclose(y.double().numpy()[normal], exact[normal], rtol=6e-7)
    np.testing.assert_allclose(y.double().numpy(), exact, rtol=6e-7, atol=1e-35)


@pytest.mark.parametrize("parameter_dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_parameters_of_another_dtype(backend, parameter_dtype):
    x, *parameters = arguments((2, 6, 3, 2), torch.bfloat16, "all", parameter_dtype)
    weight, bias, scale, shift = parameters
    y, *_ = forward(backend, x, weight, bias, 2, scale, shift)
    exact = float64(x, weight, bias, 2, EPS, scale, shift)
    assert_accurate(y, exact, plain(x, weight, bias, 2, EPS, scale, shift))
    found = backward(backend, rand(x.shape, 1, torch.bfloat16), x, weight, bias, 2, scale, shift)
    assert [g.dtype for g in found] == [torch.bfloat16] + [parameter_dtype] * 4


@pytest.mark.parametrize("wanted", [(1, 0, 0, 0, 0), (0, 1, 0, 0, 1), (0, 0, 1, 1, 0), (1, 1, 1, 1, 1), (0,) * 5])
def test_what_is_not_wanted_is_empty_and_changes_nothing(backend, wanted):
    x, weight, bias, scale, shift = arguments((2, 6, 3, 5), torch.float32)
    parts = (rand(x.shape, 9, torch.float32), x, weight, bias, 3, scale, shift)
    wanted = [bool(want) for want in wanted]
    for want, some, every in zip(
        wanted, backward(backend, *parts, wanted=wanted), backward(backend, *parts), strict=True
    ):
        assert torch.equal(some, every) if want else some.numel() == 0


def test_a_sample_alone_is_the_sample_in_a_batch(backend):
    for layout in ("contiguous", "channels-last"):
        x, weight, bias, scale, shift = arguments((3, 6, 5, 3), torch.float32)
        x, grad = laid_out(x, layout), laid_out(rand(x.shape, 9, torch.float32), layout)
        together = forward(backend, x, weight, bias, 2, scale, shift)[0]
        dx = backward(backend, grad, x, weight, bias, 2, scale, shift)[0]
        one = slice(1, 2)
        alone = forward(backend, x[one], weight, bias, 2, scale[one], shift[one])[0]
        if backend.name == "reference":  # PyTorch's sums do depend on the shape
            torch.testing.assert_close(alone, together[one], rtol=1e-5, atol=1e-6)
            continue
        assert torch.equal(alone, together[one])
        alone = backward(backend, grad[one], x[one], weight, bias, 2, scale[one], shift[one])[0]
        assert torch.equal(alone, dx[one])


@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
def test_threads_change_nothing(layout):
    x, weight, bias, scale, shift = arguments((70, 64, 17, 13), torch.float32)
    leaves = [t.requires_grad_() for t in (laid_out(x, layout), weight, bias, scale, shift)]
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            y = ops.group_norm_silu(*leaves[:3], 16, EPS, *leaves[3:])
            results.append([y, *torch.autograd.grad(y, leaves, y.detach())])
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


# The public function, whatever backend serves it.


@pytest.mark.parametrize("layout", ["contiguous", "channels-last", "sliced"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_y_and_dx_have_the_dtype_and_memory_format_of_x(dtype, layout):
    x, weight, bias, *_ = arguments((2, 6, 5, 3), dtype, "weight, bias")
    x = laid_out(x, layout).requires_grad_()
    y = ops.group_norm_silu(x, weight, bias, 2, EPS)
    (dx,) = torch.autograd.grad(y.sum(), x)  # the gradient of a sum has stride 0
    wanted = torch.channels_last if layout == "channels-last" else torch.contiguous_format
    for tensor in (y, dx):
        assert tensor.dtype == dtype and tensor.is_contiguous(memory_format=wanted)


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("silu", [True, False])
def test_gradcheck(given, silu):
    leaves = [None if t is None else t.requires_grad_() for t in arguments((2, 4, 3, 2), torch.float64, given)]
    present = [leaf for leaf in leaves if leaf is not None]

    def function(*tensors):
        tensors = iter(tensors)
        x, weight, bias, scale, shift = (None if leaf is None else next(tensors) for leaf in leaves)
        return ops.group_norm_silu(x, weight, bias, 2, EPS, scale, shift, silu)

    assert torch.autograd.gradcheck(function, present)


def test_modulation_by_strided_halves():
    """scale and shift as a linear layer's output gives them."""
    both, x = rand((3, 12), 1, torch.float32), rand((3, 6, 4, 4), 0, torch.float32)
    scale, shift = both.chunk(2, 1)
    found = ops.group_norm_silu(x, None, None, 2, EPS, scale, shift)
    assert torch.equal(found, ops.group_norm_silu(x, None, None, 2, EPS, scale.contiguous(), shift.contiguous()))
    np.testing.assert_allclose(found.numpy(), float64(x, None, None, 2, EPS, scale, shift), rtol=1e-5, atol=1e-6)


def test_only_what_needs_a_gradient_is_kept_and_computed():
    x, weight, bias, scale, shift = arguments((2, 6, 8, 8), torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = ops.group_norm_silu(x, weight.requires_grad_(), bias, 2, EPS, scale, shift)
    assert sum(t.numel() >= x.numel() for t in kept) == 1
    y.sum().backward()
    assert weight.grad is not None and x.grad is None


def test_second_derivative_raises():
    x = rand((2, 4, 3, 3), 0, torch.float32).requires_grad_()
    (dx,) = torch.autograd.grad(ops.group_norm_silu(x, None, None, 2, EPS).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="group_norm_silu is differentiable once"):
        dx.sum().backward()


def test_autocast_changes_nothing():
    for dtype in (torch.bfloat16, torch.float32):
        x, weight, bias, scale, shift = arguments((2, 6, 5, 3), dtype)
        leaves = [t.requires_grad_() for t in (x, weight, bias, scale, shift)]
        outside = ops.group_norm_silu(*leaves[:3], 2, EPS, *leaves[3:])
        with torch.autocast("cpu", torch.bfloat16):
            inside = ops.group_norm_silu(*leaves[:3], 2, EPS, *leaves[3:])
        assert inside.dtype == dtype and torch.equal(inside, outside)
        grad = rand(x.shape, 3, dtype)
        for a, b in zip(*(torch.autograd.grad(y, leaves, grad) for y in (inside, outside)), strict=True):
            assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own doing
@pytest.mark.parametrize(("given", "layout"), [("weight, bias", "channels-last"), ("all", "contiguous")])
def test_opcheck(given, layout):
    x, weight, bias, scale, shift = arguments((2, 6, 3, 2), torch.bfloat16, given)
    x = laid_out(x, layout)
    leaves = [None if t is None else t.requires_grad_() for t in (x, weight, bias, scale, shift)]
    forward_op, backward_op = torch.ops.rsd_fast.group_norm_silu, torch.ops.rsd_fast.group_norm_silu_backward
    torch.library.opcheck(forward_op.default, (*leaves[:3], 2, EPS, *leaves[3:], True))
    plain_tensors = [None if t is None else t.detach() for t in leaves]
    _, mean, rstd = forward_op(*plain_tensors[:3], 2, EPS, *plain_tensors[3:], True)
    for first in (True, False):
        wanted = [first, *(t is not None for t in plain_tensors[1:])]
        arguments_ = (torch.ones_like(x).detach(), *plain_tensors, mean, rstd, True, wanted)
        tests = ("test_schema", "test_faketensor")  # it is not differentiable
        torch.library.opcheck(backward_op.default, arguments_, test_utils=tests)


def test_compile():
    x, weight, bias, scale, shift = arguments((2, 6, 4, 4), torch.float32)
    leaves = [t.requires_grad_() for t in (laid_out(x, "channels-last"), weight, bias, scale, shift)]

    def function(x, weight, bias, scale, shift):
        return 2 * ops.group_norm_silu(x, weight, bias, 3, EPS, scale, shift)

    results = []
    for call in (function, torch.compile(function, backend="aot_eager", fullgraph=True)):
        y = call(*leaves)
        results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


GOOD = {"x": torch.zeros(2, 6, 4, 4), "weight": torch.ones(6), "bias": torch.zeros(6), "groups": 3, "eps": 1e-5}
BAD = [
    ({"x": torch.zeros(2, 6, 4, 4, dtype=torch.int32)}, TypeError, "x: expected a floating-point"),
    ({"x": torch.zeros(6)}, ValueError, r"x: expected \[B, C, ...\]"),
    ({"x": torch.zeros(2, 6, 0, 4)}, ValueError, "x: expected .* a pixel at least"),
    ({"groups": 4}, ValueError, "groups: expected a divisor of x's 6 channels, got 4"),
    ({"groups": 0}, ValueError, "groups: expected a divisor of x's 6 channels, got 0"),
    ({"eps": 0.0}, ValueError, "eps: expected a finite number above 0, got 0.0"),
    ({"eps": -1.0}, ValueError, "eps: expected"),
    ({"eps": float("inf")}, ValueError, "eps: expected"),
    ({"eps": float("nan")}, ValueError, "eps: expected"),
    ({"weight": torch.ones(3)}, ValueError, r"weight: expected shape \[6\], got \[3\]"),
    ({"bias": torch.ones(6, 1)}, ValueError, r"bias: expected shape \[6\], got \[6, 1\]"),
    ({"weight": torch.ones(6, dtype=torch.int64)}, TypeError, "weight: expected a floating-point dtype"),
    ({"scale": torch.ones(6)}, ValueError, r"scale: expected shape \[2, 6\], got \[6\]"),
    ({"shift": torch.ones(1, 6)}, ValueError, r"shift: expected shape \[2, 6\], got \[1, 6\]"),
    ({"shift": torch.ones(2, 6, device="meta")}, ValueError, "shift: expected the device of x"),
]


@pytest.mark.parametrize(("changes", "error", "message"), BAD)
def test_errors(changes, error, message):
    assert ops.group_norm_silu(**GOOD).shape == (2, 6, 4, 4)
    arguments = {**GOOD, **changes}
    with pytest.raises(error, match=message):
        ops.group_norm_silu(**arguments)
    with pytest.raises(error, match=message):
        torch.ops.rsd_fast.group_norm_silu(**{"scale": None, "shift": None, **arguments}, silu=True)


def test_errors_of_the_backward():
    x, statistic = torch.zeros(2, 6, 4, 4), torch.ones(2, 3)
    good = [x, x, None, None, None, None, statistic, statistic, True, [True, False, False, False, False]]
    call = torch.ops.rsd_fast.group_norm_silu_backward.default
    assert call(*good)[0].shape == x.shape
    for index, value, message in (
        (0, x[:1], "grad: expected the shape"),
        (6, torch.ones(1, 3), "mean: expected"),
        (6, statistic.double(), "mean: expected"),
        (6, torch.ones(2, 4), "rstd: expected"),
        (9, [True], "needed: expected a flag"),
        (9, [True, True, False, False, False], "needed: expected a flag"),
    ):
        bad = [*good[:index], value, *good[index + 1 :]]
        with pytest.raises(ValueError, match=message):
            call(*bad)


# In the network.


@pytest.mark.parametrize("silu", [False, True])
def test_group_norm_layer(silu):
    norm = GroupNorm(8, silu=silu)
    x = rand((2, 8, 5, 3), 0, torch.float32)
    expected = nnf.group_norm(x, 2, norm.weight, norm.bias, 1e-6)
    torch.testing.assert_close(norm(x), nnf.silu(expected) if silu else expected, rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert norm(x.bfloat16()).dtype == torch.bfloat16
    assert not GroupNorm(8).silu


def test_only_the_norm_before_attention_has_no_silu():
    block = Block(8, 8, 16, SONG, attention=True)
    assert (block.norm0.silu, block.norm1.silu, block.norm2.silu) == (True, True, False)
