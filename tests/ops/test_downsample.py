"""Downsampling of every backend against torch's average pooling and, bit for bit, the reference; its transpose."""

import pytest
import torch
import torch.nn.functional as nnf
from torch._subclasses.fake_tensor import FakeTensorMode

from rsd_fast import ops

from .test_blur import DTYPES, LAYOUTS, assert_same_bits, is_interpreted, laid_out, rand, shapes_for


def factors_for(backend):
    return [1, 2, 3] if is_interpreted(backend) else [1, 2, 3, 4, 7, 50]


def size_of(shape, factor):
    return -(-shape[2] // factor), -(-shape[3] // factor)


def down(backend, x, factor):
    return backend.module.downsample(x.to(backend.device), factor).cpu()


def up(backend, y, factor, height, width):
    size = ((height, width),) if backend.name == "reference" else (height, width)
    return backend.module.downsample_adjoint(y.to(backend.device), factor, *size).cpu()


def test_downsample_is_average_pooling(backend):
    for shape in shapes_for(backend):
        for factor in factors_for(backend):
            x = rand(shape, 1)
            found = down(backend, x, factor)
            assert found.shape == (*shape[:2], *size_of(shape, factor))
            if x.numel():
                expected = nnf.avg_pool2d(x, factor, ceil_mode=True)
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-14 * factor)


def test_downsample_adjoint_is_the_transpose(backend):
    for shape in shapes_for(backend):
        for factor in factors_for(backend):
            x, y = rand(shape, 1), rand((*shape[:2], *size_of(shape, factor)), 2)
            left, right = (down(backend, x, factor) * y).sum(), (x * up(backend, y, factor, *shape[2:])).sum()
            torch.testing.assert_close(left, right, rtol=0, atol=1e-12 * max(1.0, (x.norm() * y.norm()).item()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_backend_gives_the_bits_of_the_reference(backend, dtype):
    for shape in shapes_for(backend):
        for factor in factors_for(backend):
            for layout in ("contiguous", "channels-last"):
                x = laid_out(rand(shape, 3, dtype), layout)
                y = laid_out(rand((*shape[:2], *size_of(shape, factor)), 4, dtype), layout)
                small = ops.reference.downsample(x.contiguous(), factor)
                large = ops.reference.downsample_adjoint(y.contiguous(), factor, shape[2:])
                assert_same_bits(down(backend, x, factor), small, backend)
                assert_same_bits(up(backend, y, factor, *shape[2:]), large, backend)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_images_are_summed_in_float32(dtype):
    x = rand((1, 2, 40, 9), 1, dtype)
    for factor in (3, 40):
        assert torch.equal(ops.downsample(x, factor), ops.downsample(x.float(), factor).to(dtype))


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(channels, layout):
    x = laid_out(rand((2, channels, 9, 7), 1, torch.float32), layout)
    wanted = torch.channels_last if layout == "channels-last" else torch.contiguous_format
    for function in (ops.downsample, ops.downsample_adjoint):
        found = function(x, 2)
        assert torch.equal(found, function(x.clone(memory_format=torch.contiguous_format), 2))
        assert found.is_contiguous(memory_format=wanted)


def test_an_image_does_not_depend_on_its_batch_nor_on_threads():
    before = torch.get_num_threads()
    for function in (ops.downsample, ops.downsample_adjoint):
        x = rand((23, 3, 129, 131), 1, torch.float32)
        expected = function(x, 3)
        try:
            for threads in (2, 3, 7):
                torch.set_num_threads(threads)
                assert torch.equal(function(x, 3), expected)
        finally:
            torch.set_num_threads(before)
        assert torch.equal(function(x[5:6], 3)[0], expected[5])


def test_the_largest_factor():
    for size in ((1, 1, 260, 300), (1, 4, 300, 515)):
        x = rand(size, 1, torch.float32)
        for layout in ("contiguous", "channels-last"):
            found = ops.downsample(laid_out(x, layout), 256)
            assert torch.equal(found, ops.reference.downsample(x, 256))
            again = ops.downsample_adjoint(found, 256, size[2:])
            assert torch.equal(again, ops.reference.downsample_adjoint(found.contiguous(), 256, size[2:]))


def test_the_default_size_is_factor_times_that_of_y():
    y = rand((2, 1, 3, 2), 1)
    expected = y.repeat_interleave(3, 2).repeat_interleave(3, 3) / 9
    torch.testing.assert_close(ops.downsample_adjoint(y, 3), expected, rtol=1e-15, atol=0)


def test_gradients():
    x, y = rand((2, 2, 5, 7), 1).requires_grad_(), rand((2, 2, 2, 3), 2).requires_grad_()
    for function, argument in (
        (lambda x: ops.downsample(x, 3), x),
        (lambda y: ops.downsample_adjoint(y, 3, (5, 7)), y),
    ):
        assert torch.autograd.gradcheck(function, (argument,))
        assert torch.autograd.gradgradcheck(lambda t, function=function: function(t) ** 2, (argument,))
    (gradient,) = torch.autograd.grad(ops.downsample(x, 3), x, y.detach())
    assert torch.equal(gradient, ops.downsample_adjoint(y, 3, (5, 7)))
    (gradient,) = torch.autograd.grad(ops.downsample(x, 3).sum(), x)  # an expanded gradient
    torch.testing.assert_close(gradient, ops.downsample_adjoint(torch.ones_like(y), 3, (5, 7)))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of opcheck's own copies
def test_opcheck(backend):
    for dtype, layout in ((torch.float32, "contiguous"), (torch.bfloat16, "channels-last")):
        x = laid_out(rand((2, 3, 4, 5), 1, dtype), layout).to(backend.device).requires_grad_()
        torch.library.opcheck(torch.ops.rsd_fast.downsample.default, (x, 2))
        torch.library.opcheck(torch.ops.rsd_fast.downsample_adjoint.default, (x, 2, 7, 10))


def test_compile():
    def function(x):
        return ops.downsample_adjoint(ops.downsample(x, 2) ** 2, 2, tuple(x.shape[2:]))

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    for shape in ((2, 2, 5, 6), (3, 2, 7, 9)):
        x = rand(shape, 1).requires_grad_()
        assert torch.equal(compiled(x), function(x))
        (found,), (expected,) = (torch.autograd.grad(f(x).sum(), x) for f in (compiled, function))
        assert torch.equal(found, expected)


IMAGES = torch.zeros(1, 1, 5, 7)


@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        ("downsample", (torch.zeros(3, 8, 8), 2), r"x: expected \[B, C, H, W\]"),
        ("downsample", (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 2), "x: expected a floating-point dtype"),
        ("downsample", (IMAGES, 0), "factor: expected 1 to 256, got 0"),
        ("downsample", (IMAGES, -2), "factor: expected"),
        ("downsample", (IMAGES, 257), "factor: expected"),
        ("downsample_adjoint", (torch.zeros(8, 8), 2, (16, 16)), r"y: expected \[B, C, H, W\]"),
        ("downsample_adjoint", (IMAGES, 0, (5, 7)), "factor: expected"),
        ("downsample_adjoint", (IMAGES, 2, (11, 14)), "size: expected images that factor 2 makes 5x7.*11x14"),
        ("downsample_adjoint", (IMAGES, 2, (10, 12)), "size: expected"),
    ],
)
def test_errors(op, arguments, message):
    for function in (getattr(ops, op), getattr(ops.reference, op)):
        with pytest.raises((TypeError, ValueError), match=message):
            function(*arguments)
    with pytest.raises((TypeError, ValueError), match=message), FakeTensorMode(allow_non_fake_inputs=True):
        getattr(ops, op)(*arguments)
