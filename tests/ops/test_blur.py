"""Blur of every backend against SciPy and, bit for bit, the reference; its transpose against the blur itself."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch._subclasses.fake_tensor import FakeTensorMode

from rsd_fast import ops

OPS = ["blur", "blur_adjoint"]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(2, 3, 1, 1), (1, 2, 1, 7), (2, 1, 3, 2), (1, 3, 7, 17)]
LARGE = [(1, 2, 31, 33), (2, 5, 65, 2), (1, 3, 129, 90), (1, 1, 17, 300), (0, 3, 8, 8)]  # several tiles; an empty batch
LAYOUTS = ["channels-last", "sliced", "expanded", "transposed"]


def rand(shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def kernels(height, width):
    """Asymmetric ones: a few taps, as many as reflect padding can serve or as there may be, and dense ones."""
    most = [min(2 * size - 1, 31) for size in (height, width)]
    shapes = {(1,), (min(3, *most),), (min(9, *most),), (min(most),)}
    shapes |= {(min(most[0], 3), min(most[1], 7)), (min(most[0], 5), 1), (1, min(most[1], 5))}
    return [rand(shape, len(shape) + shape[0]) for shape in sorted(shapes)]


def is_interpreted(backend):
    """Triton without a GPU is slow."""
    return backend.name == "triton" and backend.device == "cpu"


def shapes_for(backend):
    return [(1, 2, 3, 5)] if is_interpreted(backend) else SHAPES + LARGE


def run(backend, op, x, kernel):
    return getattr(backend.module, op)(x.to(backend.device), kernel).cpu()


def laid_out(x, layout):
    """x, or where expanded its first channel repeated, in another layout."""
    if layout == "channels-last":
        return x.to(memory_format=torch.channels_last)
    if layout == "sliced":
        wide = torch.full((*x.shape[:-1], 2 * x.shape[-1] + 1), torch.nan, dtype=x.dtype)
        wide[..., 1::2] = x
        return wide[..., 1::2]
    if layout == "transposed":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    return x[:, :1].expand(x.shape) if layout == "expanded" else x


def scipy_blur(x, kernel):
    x, dense = x.double().numpy(), (kernel.outer(kernel) if kernel.ndim == 1 else kernel).numpy()
    if x.size == 0:
        return x
    return np.stack([[ndimage.correlate(plane, dense, mode="mirror") for plane in image] for image in x])


def assert_same_bits(actual, expected, backend):
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    if is_interpreted(backend) and actual.dtype == torch.bfloat16:
        torch.testing.assert_close(actual, expected, rtol=2**-7, atol=0)  # the interpreter cuts digits off
    else:
        assert torch.equal(actual, expected), f"by {(actual.double() - expected.double()).abs().max()} at most"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_blur_matches_scipy(backend, dtype):
    for shape in shapes_for(backend):
        x = rand(shape, 1, dtype)
        for kernel in kernels(*shape[2:]):
            expected = scipy_blur(x, kernel)
            tolerance = 64 * torch.finfo(dtype).eps * kernel.abs().sum() ** (3 - kernel.ndim) * 4
            np.testing.assert_allclose(run(backend, "blur", x, kernel).numpy(), expected, rtol=0, atol=tolerance)


def test_blur_adjoint_is_the_transpose(backend):
    for shape in shapes_for(backend):
        x, y = rand(shape, 1), rand(shape, 2)
        for kernel in kernels(*shape[2:]):
            forward, adjoint = run(backend, "blur", x, kernel), run(backend, "blur_adjoint", y, kernel)
            scale = max(1.0, (forward.norm() * y.norm()).item())
            assert abs((forward * y).sum() - (x * adjoint).sum()) <= 1e-12 * scale, (shape, kernel.shape)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_backend_gives_the_bits_of_the_reference(backend, op, dtype):
    for shape in shapes_for(backend):
        for kernel in kernels(*shape[2:]):
            for layout in ("contiguous", "channels-last"):
                x = laid_out(rand(shape, 3, dtype), layout)
                expected = getattr(ops.reference, op)(x.contiguous(), kernel)
                assert_same_bits(run(backend, op, x, kernel), expected, backend)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_images_are_summed_in_float32(op, dtype):
    x, kernel = rand((1, 2, 9, 8), 1, dtype), torch.full((15,), 1 / 15, dtype=torch.float64)
    assert torch.equal(getattr(ops, op)(x, kernel), getattr(ops, op)(x.float(), kernel).to(dtype))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(op, channels, layout):
    """The numbers do not depend on the layout; a channels-last image gives a channels-last one."""
    x = laid_out(rand((2, channels, 9, 7), 1, torch.float32), layout)
    for kernel in (rand((5,), 2), rand((5, 3), 2), rand((3, 10), 2)[:, ::2], rand((5,), 2).float()):
        found = getattr(ops, op)(x, kernel)
        assert torch.equal(found, getattr(ops, op)(x.clone(memory_format=torch.contiguous_format), kernel))
        wanted = torch.channels_last if layout == "channels-last" else torch.contiguous_format
        assert found.is_contiguous(memory_format=wanted)


@pytest.mark.parametrize("op", OPS)
def test_an_image_does_not_depend_on_its_batch_nor_on_threads(op):
    before, blur = torch.get_num_threads(), getattr(ops, op)
    for shape, kernel in (((23, 3, 40, 65), rand((9,), 2)), ((2, 1, 300, 200), rand((5, 9), 2))):
        x = rand(shape, 1, torch.float32)
        for memory_format in (torch.contiguous_format, torch.channels_last):
            x = x.contiguous(memory_format=memory_format)
            expected = blur(x, kernel)
            try:
                for threads in (2, 3, 7):
                    torch.set_num_threads(threads)
                    assert torch.equal(blur(x, kernel), expected)
            finally:
                torch.set_num_threads(before)
            for i in range(0, len(x), 5):
                assert torch.equal(blur(x[i : i + 1], kernel)[0], expected[i])


@pytest.mark.parametrize("kernel", [rand((5,), 1), rand((3, 5), 1)], ids=["separable", "dense"])
def test_gradients(kernel):
    x, y = rand((2, 2, 3, 5), 2).requires_grad_(), rand((2, 2, 3, 5), 3)
    for op, transpose in (OPS, OPS[::-1]):
        blur = getattr(ops, op)
        assert torch.autograd.gradcheck(lambda x, blur=blur: blur(x, kernel), (x,))
        assert torch.autograd.gradgradcheck(lambda x, blur=blur: blur(x, kernel) ** 2, (x,))
        (gradient,) = torch.autograd.grad(blur(x, kernel), x, y)
        assert torch.equal(gradient, getattr(ops, transpose)(y, kernel))
        (expected,) = torch.autograd.grad(getattr(ops.reference, op)(x, kernel), x, y)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-14)
        (gradient,) = torch.autograd.grad(blur(x, kernel).sum(), x)  # an expanded gradient
        torch.testing.assert_close(gradient, getattr(ops, transpose)(torch.ones_like(y), kernel))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of opcheck's own copies
@pytest.mark.parametrize("op", OPS)
def test_opcheck(backend, op):
    for dtype, layout in ((torch.float32, "contiguous"), (torch.bfloat16, "channels-last")):
        x = laid_out(rand((2, 3, 4, 5), 1, dtype), layout).to(backend.device).requires_grad_()
        torch.library.opcheck(getattr(torch.ops.rsd_fast, op).default, (x, rand((3,), 2)))


def test_compile():
    kernel = rand((3, 5), 1)

    def function(x):
        return ops.blur_adjoint(ops.blur(x, kernel) ** 2, kernel)

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    for batch in (2, 3):
        x = rand((batch, 2, 4, 6), batch).requires_grad_()
        assert torch.equal(compiled(x), function(x))
        (found,), (expected,) = (torch.autograd.grad(f(x).sum(), x) for f in (compiled, function))
        assert torch.equal(found, expected)


IMAGES = torch.zeros(1, 1, 5, 7)
WRONG = [
    (torch.zeros(3, 8, 8), torch.ones(3), r"x: expected \[B, C, H, W\]"),
    (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.ones(3), "x: expected a floating-point dtype"),
    (IMAGES, torch.ones(2), "kernel: expected .* odd"),
    (IMAGES, torch.ones(0), "kernel: expected .* odd"),
    (IMAGES, torch.ones(3, 4), "kernel: expected .* odd"),
    (IMAGES, torch.ones(3, 3, 3), "kernel: expected"),
    (torch.zeros(1, 1, 40, 40), torch.ones(33), "at most 31"),
    (torch.zeros(1, 1, 40, 40), torch.ones(1, 33), "at most 31"),
    (IMAGES, torch.ones(11), "kernel: 11x11 taps reach past the border of 5x7"),
    (IMAGES, torch.ones(11, 1), "kernel: 11x1 taps reach"),
    (IMAGES, torch.ones(1, 15), "kernel: 1x15 taps reach"),
]


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(("x", "kernel", "message"), WRONG)
def test_errors(op, x, kernel, message):
    for function in (getattr(ops, op), getattr(ops.reference, op)):
        with pytest.raises((TypeError, ValueError), match=message):
            function(x, kernel)
    with pytest.raises((TypeError, ValueError), match=message), FakeTensorMode(allow_non_fake_inputs=True):
        getattr(ops, op)(x, kernel)


@pytest.mark.parametrize("op", OPS)
def test_errors_of_the_kernel_tensor(op):
    for value in (torch.nan, torch.inf):
        for function in (getattr(ops, op), getattr(ops.reference, op)):
            with pytest.raises(ValueError, match="kernel: expected finite"):
                function(IMAGES, torch.tensor([1.0, value, 1.0]))
    for kernel in (torch.ones(3), torch.ones(3, dtype=torch.float64, device="meta")):
        with pytest.raises(TypeError, match="kernel: expected float64 on the CPU"):
            getattr(torch.ops.rsd_fast, op)(IMAGES, kernel)


@pytest.mark.gpu
@pytest.mark.parametrize("op", OPS)
def test_gpu_graph(op):
    x, kernel = rand((4, 3, 33, 31), 1, torch.float32), rand((9,), 2)
    on_gpu = x.cuda()
    getattr(ops, op)(on_gpu, kernel)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = getattr(ops, op)(on_gpu, kernel)
    on_gpu.mul_(2)
    graph.replay()
    assert torch.equal(out.cpu(), getattr(ops.reference, op)(2 * x, kernel))
