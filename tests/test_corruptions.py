"""Corruption operators: blur against SciPy, adjoints, SPEC strings, and the permanence of observations."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from rsd_fast import corruptions, ops
from rsd_fast.corruptions import base

KERNELS = [(9, 2.0), (5, 1.0), (3, 0.4), (1, 1.0), (7, 30.0)]
LAYOUTS = ["channels-last", "sliced", "reversed-batch", "transposed", "expanded"]


def rand(shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def taps(size, std):
    offset = np.arange(size) - size // 2
    weights = np.exp(-(offset**2) / (2 * std**2))
    return weights / weights.sum()


def scipy_blur(x, size, std):
    """[B, C, H, W]; SciPy's "mirror" reflects about the centre of the last pixel."""
    result = x.double().numpy()
    for axis in (2, 3):
        result = ndimage.correlate1d(result, taps(size, std), axis=axis, mode="mirror")
    return result


def dense_blur(x, kernel):
    x, kernel = x.double().numpy(), kernel.double().numpy()
    return np.stack([[ndimage.correlate(plane, kernel, mode="mirror") for plane in image] for image in x])


def inner(a, b):
    return (a.double() * b.double()).flatten(1).sum(1)


# Gaussian blur


@pytest.mark.parametrize(("size", "std"), KERNELS)
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 1, 9, 13), (2, 2, 16, 5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gaussian_blur_matches_scipy(size, std, shape, dtype):
    x = rand(shape, dtype=dtype)
    found = corruptions.GaussianBlur(size=size, std=std).forward(x)
    assert found.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    np.testing.assert_allclose(found.numpy(), scipy_blur(x, size, std), rtol=0, atol=tolerance * 4)


@pytest.mark.parametrize(("size", "std"), KERNELS)
def test_the_kernel_is_a_normalised_gaussian(size, std):
    kernel = corruptions.GaussianBlur(size=size, std=std).kernel
    assert kernel.sum().item() == pytest.approx(1, abs=1e-15)
    np.testing.assert_allclose(kernel.numpy(), taps(size, std), rtol=1e-13)


def test_the_defaults_are_size_9_std_2():
    x = rand((1, 1, 12, 12))
    found = corruptions.parse("gaussian_blur").forward(x)
    np.testing.assert_allclose(found.numpy(), scipy_blur(x, 9, 2.0), atol=1e-13)


@pytest.mark.parametrize("size", [1, 5, 9, 15])
def test_a_constant_image_stays_constant(size):
    x = torch.full((1, 3, 8, 11), -0.7)
    torch.testing.assert_close(corruptions.GaussianBlur(size=size, std=1.5).forward(x), x, rtol=1e-6, atol=0)


def test_a_point_spreads_to_the_kernel():
    x = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    x[0, 0, 4, 4] = 1
    found = corruptions.GaussianBlur(size=5, std=1.0).forward(x)[0, 0]
    expected = np.zeros((9, 9))
    expected[2:7, 2:7] = np.outer(taps(5, 1.0), taps(5, 1.0))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-16)


# Blur with any kernel


@pytest.mark.parametrize("kernel_shape", [(3, 3), (1, 5), (7, 1), (5, 3), (9, 11), (1, 1)], ids=str)
def test_dense_blur_matches_scipy(kernel_shape):
    x, kernel = rand((2, 2, 6, 7)), rand(kernel_shape, 1)
    assert kernel_shape == (1, 1) or not torch.equal(kernel, kernel.flip(0, 1)), "would not tell correlation apart"
    np.testing.assert_allclose(ops.blur(x, kernel).numpy(), dense_blur(x, kernel), atol=1e-12)


def test_separable_blur_is_the_dense_one_of_the_outer_product():
    x, kernel = rand((2, 2, 6, 7)), rand((5,), 1)
    torch.testing.assert_close(ops.blur(x, kernel), ops.blur(x, kernel.outer(kernel)), rtol=0, atol=1e-13)
    expected = dense_blur(x, kernel.outer(kernel))
    np.testing.assert_allclose(ops.blur(x, kernel).numpy(), expected, atol=1e-12)


def kernels(height, width):
    """Kernels for an image, up to the largest that reflect padding can serve."""
    return {
        "5": rand((5,), 1),
        "largest": rand((2 * min(height, width) - 1,), 2),
        "3x5": rand((3, 5), 3),
        "largest-dense": rand((2 * height - 1, 2 * width - 1), 4),
    }


@pytest.mark.parametrize("size", [(5, 5), (6, 8), (7, 4), (3, 6)], ids=str)
@pytest.mark.parametrize("which", ["5", "largest", "3x5", "largest-dense"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_blur_adjoint_is_the_adjoint(size, which, dtype, tolerance):
    kernel = kernels(*size)[which]
    x, y = rand((3, 2, *size), 5, dtype), rand((3, 2, *size), 6, dtype)
    forward, adjoint = ops.blur(x, kernel), ops.blur_adjoint(y, kernel)
    assert forward.dtype == adjoint.dtype == dtype
    left, right = inner(forward, y), inner(x, adjoint)
    scale = (forward.double().flatten(1).norm(dim=1) * y.double().flatten(1).norm(dim=1)).max().item()
    torch.testing.assert_close(left, right, rtol=0, atol=tolerance * scale)
    assert left.abs().max() > 1e-3


@pytest.mark.parametrize("which", ["5", "largest", "3x5", "largest-dense"])
def test_blur_adjoint_is_the_transposed_matrix(which):
    """The matrix of K from SciPy, column by column."""
    height, width = 4, 5
    kernel = kernels(height, width)[which]
    dense = kernel.outer(kernel) if kernel.ndim == 1 else kernel
    basis = torch.eye(height * width, dtype=torch.float64).reshape(-1, 1, height, width)
    matrix = dense_blur(basis, dense).reshape(height * width, -1).T
    found = ops.blur_adjoint(basis, kernel).reshape(height * width, -1).T
    np.testing.assert_allclose(found.numpy(), matrix.T, atol=1e-12)
    assert np.abs(matrix - matrix.T).max() > 1e-3, "symmetric: would not tell the adjoint apart"


def test_forward_and_adjoint_are_differentiable():
    kernel = rand((3, 5), 1)
    x = rand((1, 2, 4, 4)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ops.blur(x, kernel), (x,))
    assert torch.autograd.gradcheck(lambda x: ops.blur_adjoint(x, kernel), (x,))
    y = rand((1, 2, 4, 4), 2)
    (gradient,) = torch.autograd.grad(ops.blur(x, kernel), x, y)
    torch.testing.assert_close(gradient, ops.blur_adjoint(y, kernel), rtol=0, atol=1e-14)
    (gradient,) = torch.autograd.grad(ops.blur_adjoint(x, kernel), x, y)
    torch.testing.assert_close(gradient, ops.blur(y, kernel), rtol=0, atol=1e-14)


def test_blur_adjoint_works_without_gradients_too():
    y, kernel = rand((1, 1, 4, 4)), rand((3,), 1)
    with torch.no_grad():
        found = ops.blur_adjoint(y, kernel)
    assert not found.requires_grad and torch.equal(found, ops.blur_adjoint(y, kernel))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_blur_of_short_images_sums_in_float32(dtype):
    x = rand((1, 1, 8, 8), dtype=dtype)
    found = ops.blur(x, torch.full((7, 7), 1 / 49))
    expected = dense_blur(x, torch.full((7, 7), 1 / 49))
    assert found.dtype == dtype
    np.testing.assert_allclose(found.double().numpy(), expected, rtol=torch.finfo(dtype).eps, atol=1e-6)


def in_layout(x, layout):
    """x [7, C, H, W] with the same values in another layout."""
    if layout == "channels-last":
        return x.to(memory_format=torch.channels_last)
    if layout == "sliced":
        wide = torch.zeros(14, x.shape[1] + 1, x.shape[2] + 2, 2 * x.shape[3], dtype=x.dtype)
        view = wide[::2, 1:, 1:-1, ::2]
        return view.copy_(x)
    if layout == "transposed":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "expanded":
        return x[:, :1].expand(-1, x.shape[1], -1, -1)
    return x


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 28, 28), (2, 7, 13)], ids=str)
@pytest.mark.parametrize("kernel", [taps(5, 1.0), taps(3, 1.0)[:, None] * taps(5, 1.0)], ids=["separable", "dense"])
def test_an_image_alone_is_bit_for_bit_the_image_in_a_batch(shape, kernel):
    kernel = torch.from_numpy(kernel)
    x = rand((7, *shape), dtype=torch.float32)
    for function in (ops.blur, ops.blur_adjoint):
        together = function(x, kernel)
        for n in range(7):
            assert torch.equal(function(x[n : n + 1], kernel)[0], together[n])
        assert torch.equal(function(x[2:5], kernel), together[2:5])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", [taps(5, 1.0), taps(3, 1.0)[:, None] * taps(5, 1.0)], ids=["separable", "dense"])
def test_an_image_is_bit_for_bit_the_same_in_any_layout(layout, kernel):
    kernel = torch.from_numpy(kernel)
    x = rand((7, 3, 8, 11), dtype=torch.float32)
    other = in_layout(x, layout)
    for function in (ops.blur, ops.blur_adjoint):
        if layout == "reversed-batch":
            assert torch.equal(function(x.flip(0), kernel).flip(0), function(x, kernel))
        else:
            assert torch.equal(
                function(other, kernel), function(other.clone(memory_format=torch.contiguous_format), kernel)
            )


@pytest.mark.parametrize("kernel_shape", [(2,), (4, 3), (3, 4), (3, 3, 3), (11,), (11, 1), (1, 15)], ids=str)
def test_a_kernel_that_does_not_fit_raises(kernel_shape):
    for function in (ops.blur, ops.blur_adjoint):
        with pytest.raises(ValueError, match="kernel"):
            function(torch.zeros(1, 1, 5, 7), torch.ones(kernel_shape))


def test_an_image_of_another_kind_raises():
    for x, error in ((torch.zeros(3, 8, 8), ValueError), (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TypeError)):
        with pytest.raises(error, match="x: expected"):
            ops.blur(x, torch.ones(3))


# SPEC strings


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("identity", "identity"),
        (" identity ", "identity"),
        ("gaussian_blur", "gaussian_blur:size=9,std=2"),
        ("gaussian_blur:std=1.5", "gaussian_blur:size=9,std=1.5"),
        ("gaussian_blur:std=1,size=5", "gaussian_blur:size=5,std=1"),
        ("gaussian_blur:size=5, std=1e-1", "gaussian_blur:size=5,std=0.1"),
    ],
)
def test_parse_gives_a_canonical_spec_that_parses_to_itself(spec, canonical):
    corruption = corruptions.parse(spec)
    assert corruption.spec == repr(corruption) == canonical
    assert corruptions.parse(canonical).spec == canonical
    assert type(corruptions.parse(canonical)) is type(corruption)


@pytest.mark.parametrize("std", ["1.5", "1.23456789", "0.3333333333333333", "1234567.5"])
def test_the_spec_says_every_parameter_exactly(std):
    """A run saves the SPEC alone: read back, it must be the same operator."""
    first = corruptions.parse(f"gaussian_blur:size=5,std={std}")
    again = corruptions.parse(first.spec)
    assert first.std == again.std == float(std)
    assert torch.equal(first.kernel, again.kernel)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("motion", r"'motion'.*gaussian_blur.*identity"),
        ("", r"''.*gaussian_blur.*identity"),
        ("Identity", r"'Identity'.*identity"),
        ("gaussian_blur:radius=3", r"'radius'.*size.*std"),
        ("gaussian_blur:size=5,radius=3", r"'radius'.*size.*std"),
        ("identity:size=3", r"'size'.*none"),
        ("gaussian_blur:size", r"key=value.*'size'"),
        ("gaussian_blur:5", r"'5'.*size.*std"),
        ("gaussian_blur:size=5,size=7", r"once.*size=7"),
        ("gaussian_blur:size=", r"size.*int"),
        ("gaussian_blur:size=big", r"size.*int.*'big'"),
        ("gaussian_blur:size=5.5", r"size.*int.*'5.5'"),
        ("gaussian_blur:std=wide", r"std.*float.*'wide'"),
        ("gaussian_blur:size=4", r"size.*odd.*4"),
        ("gaussian_blur:size=0", r"size.*odd.*0"),
        ("gaussian_blur:size=-3", r"size.*-3"),
        ("gaussian_blur:std=0", r"std.*positive.*0"),
        ("gaussian_blur:std=-1", r"std.*positive.*-1"),
        ("gaussian_blur:std=nan", r"std.*positive.*nan"),
        ("gaussian_blur:std=inf", r"std.*positive.*inf"),
    ],
)
def test_a_bad_spec_raises_and_says_what_is_known(spec, message):
    with pytest.raises(ValueError, match=message) as raised:
        corruptions.parse(spec)
    assert "\n" not in str(raised.value)


def test_names_are_sorted_and_known():
    assert corruptions.names() == sorted(corruptions.names())
    assert {"identity", "gaussian_blur"} <= set(corruptions.names())


@pytest.mark.parametrize(("size", "shape", "fits"), [(9, (3, 5, 5), True), (9, (3, 4, 8), False), (9, (3, 8, 4), False), (11, (1, 5, 5), False), (1, (1, 1, 1), True)])  # fmt: skip  # noqa: E501
def test_observation_shape_refuses_a_kernel_that_is_too_large(size, shape, fits):
    blur = corruptions.GaussianBlur(size=size)
    if fits:
        assert blur.observation_shape(shape) == shape
        assert blur.forward(torch.zeros(2, *shape)).shape == (2, *shape)
    else:
        with pytest.raises(ValueError, match=rf"gaussian_blur.*{size}.*{shape[1]}x{shape[2]}"):
            blur.observation_shape(shape)
        with pytest.raises(ValueError, match="kernel"):
            blur.forward(torch.zeros(2, *shape))


def test_identity_is_the_identity():
    x = rand((2, 3, 4, 5))
    identity = corruptions.parse("identity")
    assert torch.equal(identity.forward(x), x) and torch.equal(identity.adjoint(x), x)
    assert identity.observation_shape((3, 4, 5)) == (3, 4, 5)


@pytest.fixture
def registry(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))


def test_someone_elses_operator_in_under_20_lines(registry):
    @corruptions.register("vertical_crop")
    class VerticalCrop(corruptions.Corruption):
        def __init__(self, *, rows: int = 1, fill: str = "none") -> None:
            if rows < 1:
                raise ValueError(f"rows expects at least 1, got {rows}")
            self.rows, self.spec = rows, f"{self.name}:rows={rows},fill={fill}"

        def forward(self, x, *, index=None, seed=0):
            return x[:, :, self.rows :]

        def adjoint(self, y, *, index=None, seed=0):
            return torch.nn.functional.pad(y, (0, 0, self.rows, 0))

        def observation_shape(self, image_shape):
            channels, height, width = image_shape
            return channels, height - self.rows, width

    crop = corruptions.parse("vertical_crop:rows=2")
    assert repr(crop) == "vertical_crop:rows=2,fill=none" and "vertical_crop" in corruptions.names()
    x, index = rand((4, 3, 8, 6), dtype=torch.float32), torch.arange(4)
    y = corruptions.observe(crop, x, index=index, sigma_obs=0.3, seed=1)
    assert tuple(y.shape[1:]) == crop.observation_shape((3, 8, 6))
    torch.testing.assert_close(inner(crop.forward(x), y), inner(x, crop.adjoint(y)), rtol=1e-12, atol=1e-12)
    for spec, message in (("rows=0", "rows"), ("lines=1", "rows, fill"), ("rows=x", "int")):
        with pytest.raises(ValueError, match=f"vertical_crop.*{message}"):
            corruptions.parse(f"vertical_crop:{spec}")


def test_an_operator_that_lacks_a_required_key_raises_a_value_error(registry):
    @corruptions.register("needy")
    class Needy(corruptions.Corruption):
        def __init__(self, *, factor: int) -> None:
            self.spec = f"needy:factor={factor}"

    assert corruptions.parse("needy:factor=3").spec == "needy:factor=3"
    with pytest.raises(ValueError, match=r"needy.*factor"):
        corruptions.parse("needy")


# Observations

SPECS = ["identity", "gaussian_blur:size=5,std=1"]


def observe(spec, x, index, sigma_obs=0.5, seed=3, **more):
    return corruptions.observe(corruptions.parse(spec), x, index=index, sigma_obs=sigma_obs, seed=seed, **more)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("sigma_obs", [0.1, 0.5, 2.0])
def test_noise_has_mean_0_and_standard_deviation_sigma_obs(spec, sigma_obs):
    count, shape = 400, (3, 8, 8)
    x = rand((count, *shape), dtype=torch.float32).clamp(-1, 1)
    noise = (observe(spec, x, torch.arange(count), sigma_obs) - corruptions.parse(spec).forward(x)).double() / sigma_obs
    n = noise.numel()
    assert abs(noise.mean().item()) < 4 / n**0.5
    assert abs(noise.std().item() - 1) < 4 / (2 * n) ** 0.5
    # and so at every pixel, over the images
    assert (noise.mean(0).abs() * count**0.5).max() < 5
    assert ((noise.std(0) - 1).abs() * (2 * count) ** 0.5).max() < 5.5


def test_noise_is_white():
    """No two pixels of an image, and no two images, share noise."""
    count = 300
    noise = observe("identity", torch.zeros(count, 3, 6, 6), torch.arange(count), 1.0).flatten(1).double()
    for rows in (noise, noise.T):  # images over pixels, pixels over images
        rows = rows[:108]
        correlation = np.corrcoef(rows.numpy())
        np.fill_diagonal(correlation, 0)
        assert np.abs(correlation).max() * rows.shape[1] ** 0.5 < 5
    close = (noise[:, None, :] == noise[None, :, :]).double().mean(2)
    assert close.fill_diagonal_(0).max() < 0.05


def test_neighbouring_seeds_and_indices_share_no_noise():
    x = torch.zeros(2, 3, 16, 16)
    first = observe("identity", x, torch.tensor([0, 1]), 1.0, seed=0).flatten(1).double()
    other = observe("identity", x, torch.tensor([0, 1]), 1.0, seed=1).flatten(1).double()
    rows = torch.cat(
        [first, other, observe("identity", x, torch.tensor([0, 1]), 1.0, seed=0, step=1).flatten(1).double()]
    )
    correlation = np.corrcoef(rows.numpy())
    np.fill_diagonal(correlation, 0)
    assert np.abs(correlation).max() * rows.shape[1] ** 0.5 < 4


@pytest.mark.parametrize("spec", SPECS)
def test_an_index_has_the_same_bytes_in_any_batch_and_order(spec):
    x, index = rand((7, 3, 8, 9), dtype=torch.float32), torch.tensor([4, 0, 123456, 17, 2, 2**31 + 5, 9])
    y = observe(spec, x, index)
    assert y.dtype == torch.float32
    assert torch.equal(y, observe(spec, x, index))
    order = torch.tensor([3, 6, 0, 5, 1, 4, 2])
    assert torch.equal(observe(spec, x[order], index[order]), y[order])
    for n in range(7):
        assert torch.equal(observe(spec, x[n : n + 1], index[n : n + 1])[0], y[n])
    assert torch.equal(observe(spec, x.to(memory_format=torch.channels_last), index), y)


def test_noise_does_not_depend_on_torchs_generator():
    x, index = torch.zeros(2, 1, 4, 4), torch.arange(2)
    torch.manual_seed(0)
    y = observe("identity", x, index)
    torch.manual_seed(1)
    assert torch.equal(observe("identity", x, index), y)


def test_a_fresh_step_is_a_fresh_draw_and_step_0_the_default():
    x, index = torch.zeros(2, 1, 8, 8), torch.arange(2)
    permanent = observe("identity", x, index)
    assert torch.equal(observe("identity", x, index, step=0), permanent)
    assert (observe("identity", x, index, step=1) != permanent).all()
    assert (observe("identity", x, index, step=1) != observe("identity", x, index, step=2)).all()


@pytest.mark.parametrize("spec", SPECS)
def test_without_noise_an_observation_is_a_of_x(spec):
    x = rand((2, 1, 8, 8), dtype=torch.float32)
    assert torch.equal(observe(spec, x, torch.arange(2), 0.0), corruptions.parse(spec).forward(x))


def test_observe_leaves_the_image_alone_and_says_that_it_has_no_gradient():
    x = rand((2, 1, 8, 8), dtype=torch.float32)
    kept = x.clone()
    blur = corruptions.GaussianBlur(size=5, std=1.0)
    corruptions.observe(blur, x, index=torch.arange(2), sigma_obs=0.2, seed=0)
    assert torch.equal(x, kept)
    with pytest.raises(ValueError, match="no gradient"):
        corruptions.observe(blur, x.requires_grad_(), index=torch.arange(2), sigma_obs=0.2, seed=0)


def test_forward_is_differentiable():
    x, upstream = rand((2, 1, 8, 8)).requires_grad_(), rand((2, 1, 8, 8), 1)
    blur = corruptions.GaussianBlur(size=5, std=1.0)
    (gradient,) = torch.autograd.grad(blur.forward(x), x, upstream)
    torch.testing.assert_close(gradient, blur.adjoint(upstream))


def test_observe_is_the_stated_sum():
    x, index = rand((3, 2, 6, 6), dtype=torch.float32), torch.tensor([5, 1, 8])
    noise = ops.randn(x.shape, 3, index, 0, ops.Stream.OBSERVATION_NOISE).double().numpy()
    expected = scipy_blur(x, 5, 1.0) + 0.5 * noise
    np.testing.assert_allclose(observe(SPECS[1], x, index).numpy(), expected, atol=2e-6)
