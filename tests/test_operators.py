"""Every corruption operator: adjoints, independent implementations, what is drawn for each image, what is refused."""

import math
import sys

import numpy as np
import pytest
import torch
from scipy import ndimage

from rsd_fast import corruptions
from rsd_fast.corruptions import Bank, BoxMask, Draw, DrawnCorruption, Fourier, NoiseLevels, RandomMask

SPECS = [
    "identity",
    "gaussian_blur:size=5,std=1",
    "motion_blur:size=5,angle=30",
    "motion_blur:size=7,angle=90",
    "random_mask:missing=0.6",
    "random_mask:missing=0.3,shared=0",
    "box_mask:size=3",
    "box_mask:size=4,place=center",
    "downsample:factor=2",
    "downsample:factor=3",
    "compose:gaussian_blur:size=3,std=1e+0+downsample:factor=2",
    "compose:motion_blur:size=3,angle=45+box_mask:size=2,place=center+gaussian_blur:size=3,std=2",
    "fourier:acceleration=2,acs_lines=2",
    "fourier:acceleration=2,acs_lines=2,real=1",
    "fourier:acceleration=2,acs_lines=3,coils=3",
    "fourier:acceleration=2,acs_lines=2,coils=4,real=1,pattern=equispaced",
]
SIZES = [(12, 12), (12, 18), (6, 24), (9, 15), (8, 7)]


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def channels_of(operator: corruptions.Corruption) -> int:
    return operator.channels if isinstance(operator, Fourier) else 3


def images_for(operator, size, dtype=torch.float64, count=3):
    """Images the operator can act on, or a skip."""
    shape = (channels_of(operator), *size)
    try:
        operator.observation_shape(shape)
    except ValueError as error:
        pytest.skip(str(error))
    return rand(count, *shape, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("spec", SPECS)
def test_the_adjoint_is_the_adjoint(spec, size, dtype):
    """<A x, y> = <x, A* y> to 1e-5 of the product of the norms (or, in half precision, to its rounding)."""
    operator = corruptions.parse(spec)
    x = images_for(operator, size, dtype)
    index = torch.tensor([5, 0, 7])
    Ax = operator.forward(x, index=index, seed=11)
    assert tuple(Ax.shape[1:]) == operator.observation_shape(tuple(x.shape[1:]))
    assert operator.image_shape(tuple(Ax.shape[1:])) == tuple(x.shape[1:])
    y = rand(*Ax.shape, seed=1, dtype=Ax.dtype)
    Ay = operator.adjoint(y, index=index, seed=11)
    assert Ay.shape == x.shape
    left, right = (Ax.double() * y.double()).flatten(1).sum(1), (x.double() * Ay.double()).flatten(1).sum(1)
    scale = Ax.double().flatten(1).norm(dim=1) * y.double().flatten(1).norm(dim=1)
    tolerance = 1e-5 if dtype in (torch.float32, torch.float64) else 8 * torch.finfo(dtype).eps
    assert ((left - right).abs() <= tolerance * scale + 1e-12).all()


@pytest.mark.parametrize("spec", SPECS)
def test_the_adjoint_is_autograds(spec):
    operator = corruptions.parse(spec)
    x = images_for(operator, (12, 18)).requires_grad_()
    index = torch.arange(3)
    Ax = operator.forward(x, index=index, seed=2)
    y = rand(*Ax.shape, seed=1)
    (gradient,) = torch.autograd.grad((Ax * y).sum(), x)
    torch.testing.assert_close(gradient, operator.adjoint(y, index=index, seed=2), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("spec", SPECS)
def test_the_spec_names_every_parameter_and_gives_the_same_operator_again(spec):
    operator = corruptions.parse(spec)
    again = corruptions.parse(operator.spec)
    assert again.spec == operator.spec and type(again) is type(operator)
    x = images_for(operator, (12, 18), torch.float32)
    index = torch.arange(3)
    assert torch.equal(operator.forward(x, index=index, seed=1), again.forward(x, index=index, seed=1))


@pytest.mark.parametrize("spec", [s for s in SPECS if corruptions.parse(s).random])
def test_a_draw_is_a_function_of_seed_and_index(spec):
    operator = corruptions.parse(spec)
    shape = (channels_of(operator), 12, 18)
    index = torch.tensor([3, 400, 3, 2**31])
    mask = operator.draw(shape, index, 9).mask
    assert torch.equal(mask[0], mask[2]) and torch.equal(mask[:2], operator.draw(shape, index[:2], 9).mask)
    many = torch.arange(40)
    first, other_seed = operator.draw(shape, many, 9).mask, operator.draw(shape, many, 10).mask
    assert not torch.equal(first, other_seed) and len(first.flatten(1).unique(dim=0)) > 10
    torch.manual_seed(0)
    assert torch.equal(first, operator.draw(shape, many, 9).mask)
    with pytest.raises(ValueError, match="index"):
        operator.forward(rand(2, *shape))


@pytest.mark.parametrize("spec", SPECS)
def test_observations_are_the_operators_and_nothing_else(spec):
    """Fused or not: y = A(x) + sigma_obs eps where something is observed, and exactly 0 elsewhere."""
    operator = corruptions.parse(spec)
    x = images_for(operator, (12, 18), torch.float32, count=8)
    index = torch.arange(8)
    seen = corruptions.observation(operator, x, index=index, sigma_obs=0.0, seed=4)
    torch.testing.assert_close(seen.y, operator.forward(x, index=index, seed=4), rtol=1e-5, atol=1e-6)
    noisy = corruptions.observation(operator, x, index=index, sigma_obs=0.5, seed=4)
    noise = (noisy.y - seen.y) / 0.5
    if seen.operator.draw is None:
        assert abs(noise.std() - 1) < 0.1
    else:
        hidden = (seen.operator.draw.mask == 0).expand_as(seen.y)
        assert (noisy.y[hidden] == 0).all() and hidden.any()
        assert abs(noise[~hidden].std() - 1) < 0.15


# Against independent implementations


def test_gaussian_blur_is_torchvisions():
    vision = pytest.importorskip("torchvision.transforms.v2.functional", reason="needs torchvision")
    x = rand(2, 3, 20, 17)
    found = corruptions.parse("gaussian_blur:size=9,std=2").forward(x)
    torch.testing.assert_close(found, vision.gaussian_blur(x, [9, 9], [2.0, 2.0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("angle", [0.0, 17.0, 45.0, 90.0, 133.0, -30.0])
def test_motion_blur_is_scipys_correlation_with_a_line(angle):
    operator = corruptions.MotionBlur(size=9, angle=angle)
    kernel = operator.kernel.numpy()
    assert kernel.sum() == pytest.approx(1) and kernel.min() >= 0
    np.testing.assert_array_equal(kernel, kernel[::-1, ::-1])
    x = rand(1, 1, 20, 17)
    expected = ndimage.correlate(x[0, 0].numpy(), kernel, mode="mirror")
    np.testing.assert_allclose(operator.forward(x)[0, 0].numpy(), expected, atol=1e-12)
    # Its spread along the line is that of an even smear of 8 pixels, across it that of bilinear sampling alone.
    rows, columns = np.mgrid[-4:5, -4:5]
    along = columns * math.cos(math.radians(angle)) - rows * math.sin(math.radians(angle))
    across = columns * math.sin(math.radians(angle)) + rows * math.cos(math.radians(angle))
    assert (kernel * along**2).sum() == pytest.approx(64 / 12, abs=0.3)
    assert (kernel * across**2).sum() < 0.3


def test_a_motion_of_one_pixel_is_none_and_of_angle_0_a_row():
    x = rand(1, 1, 8, 8)
    assert torch.equal(corruptions.MotionBlur(size=1, angle=20).forward(x), x)
    kernel = corruptions.MotionBlur(size=5).kernel
    assert kernel[2].sum() == pytest.approx(1) and (kernel[[0, 1, 3, 4]] == 0).all()


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_downsampling_is_torchs_average_pooling(factor):
    x = rand(2, 3, 12, 24)
    found = corruptions.Downsample(factor=factor).forward(x)
    torch.testing.assert_close(found, torch.nn.functional.avg_pool2d(x, factor), rtol=0, atol=1e-14)


@pytest.mark.parametrize("size", [(8, 8), (9, 12), (7, 11)], ids=str)
@pytest.mark.parametrize("coils", [1, 3])
def test_fourier_is_sigpys(coils, size):
    sigpy = pytest.importorskip("sigpy", reason="needs sigpy")
    operator = Fourier(acceleration=2, acs_lines=3, coils=coils)
    x = rand(2, 2, *size)
    draw = operator.draw((2, *size), torch.arange(2), 0)
    k = operator.apply(x, draw)
    for i in range(2):
        z = x[i, 0].numpy() + 1j * x[i, 1].numpy()
        maps = np.ones((1, *size)) if draw.maps is None else draw.maps[0].numpy()
        forward = sigpy.linop.FFT(maps.shape, axes=(-2, -1)) * sigpy.linop.Multiply(size, maps)
        mask = draw.mask[i, 0].numpy()
        expected = forward(z) * mask
        found = k[i].reshape(coils, 2, *size).numpy()
        np.testing.assert_allclose(found[:, 0] + 1j * found[:, 1], expected, atol=1e-6)
        back = forward.H(expected * mask)
        image = operator.transpose(k, draw)[i].numpy()
        np.testing.assert_allclose(image[0] + 1j * image[1], back, atol=1e-6)


def test_full_sampling_loses_nothing():
    x = rand(2, 2, 8, 10)
    for coils in (1, 4):
        operator = Fourier(acceleration=1, acs_lines=2, coils=coils)
        index = torch.arange(2)
        back = operator.adjoint(operator.forward(x, index=index), index=index)
        torch.testing.assert_close(back, x, rtol=0, atol=1e-6)  # the maps are complex64


# What is drawn


@pytest.mark.parametrize("missing", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("shared", [True, False])
def test_random_masks_miss_the_share_they_say(missing, shared):
    mask = RandomMask(missing=missing, shared=shared).draw((3, 16, 16), torch.arange(200), 0).mask
    assert mask.shape == (200, 1 if shared else 3, 16, 16) and mask.dtype == torch.uint8
    tolerance = 4 * (missing * (1 - missing) / mask.numel()) ** 0.5
    assert abs(1 - mask.float().mean() - missing) <= tolerance
    neighbours = (mask[..., 1:].float() * mask[..., :-1].float()).mean()
    assert abs(neighbours - (1 - missing) ** 2) < 0.02


def test_boxes_are_boxes_everywhere():
    mask = BoxMask(size=5).draw((3, 12, 9), torch.arange(4000), 0).mask
    missing = 1 - mask[:, 0].int()
    assert (missing.sum((1, 2)) == 25).all()
    rows, columns = missing.amax(2), missing.amax(1)
    assert (rows.sum(1) == 5).all() and (columns.sum(1) == 5).all()
    places = {(int(r.argmax()), int(c.argmax())) for r, c in zip(rows, columns, strict=True)}
    assert places == {(r, c) for r in range(8) for c in range(5)}
    center = BoxMask(size=4, place="center").draw((1, 8, 8), torch.arange(2), 0).mask
    assert (center[:, :, 2:6, 2:6] == 0).all() and center.sum() == 2 * (64 - 16)


def test_columns_are_sampled_at_the_rate_and_the_middle_always():
    for pattern in ("random", "equispaced"):
        operator = Fourier(acceleration=4, acs_lines=6, pattern=pattern)
        mask = operator.draw((2, 8, 64), torch.arange(3000), 0).mask[:, 0, 0].float()
        assert (mask[:, 29:35] == 1).all()
        assert abs(mask.mean() - 0.25) < 0.005
        outside = mask[:, [*range(29), *range(35, 64)]].mean(0)
        assert (outside - 10 / 58).abs().max() < 0.04  # every other column alike
    counts = mask.sum(1)
    assert counts.min() >= 14 and counts.max() <= 18  # the equispaced ones hardly differ in number


FURTHER = ["random_mask:missing=0.5", "random_mask:missing=0.5,shared=0", "box_mask:size=4", "fourier:acs_lines=3"]


@pytest.mark.parametrize("spec", FURTHER)
def test_a_further_draw_only_hides_more_and_everything_may_be_hidden_from_sight(spec):
    operator = corruptions.parse(spec)
    shape = (channels_of(operator), 12, 16)
    index = torch.arange(3000)
    draw = operator.draw(shape, index, 0)
    at = {"seed": 0, "sample": index}
    kept = operator.further(draw, 0.3, step=1, **at).mask
    assert (kept <= draw.mask).all() and kept.dtype == torch.uint8
    assert not torch.equal(kept, operator.further(draw, 0.3, step=2, **at).mask)
    assert torch.equal(kept, operator.further(draw, 0.3, step=1, **at).mask)
    hidden = (draw.mask.bool() & ~kept.bool()).float().mean(0)
    always = operator._acs(16, index.device).expand_as(hidden) if isinstance(operator, Fourier) else hidden < -1
    assert (hidden[always] == 0).all() and (hidden[~always] > 0.005).all()


def test_a_second_box_stands_apart_from_the_first():
    operator = BoxMask(size=4)
    draw = operator.draw((1, 12, 16), torch.arange(500), 0)
    kept = operator.further(draw, 0.1, seed=0, sample=torch.arange(500), step=1)
    assert (kept.mask == 0).sum((1, 2, 3)).eq(32).all()
    assert operator.leaves_room((1, 12, 16)) and not BoxMask(size=6).leaves_room((1, 12, 16))


# What comes with the data


def test_a_bank_takes_the_place_of_what_would_be_drawn():
    rows = (np.arange(5 * 64).reshape(5, 1, 8, 8) % 7 > 2).astype(np.uint8)
    operator = RandomMask(missing=0.5).bound(Bank(mask=rows))
    found = operator.draw((3, 8, 8), torch.tensor([4, 0, 4]), 0).mask
    assert torch.equal(found, torch.from_numpy(rows)[[4, 0, 4]])
    x = rand(5, 3, 8, 8, dtype=torch.float32)
    assert torch.equal(operator.forward(x, index=torch.arange(5)), x * torch.from_numpy(rows))
    pool = operator.pooled().draw((3, 8, 8), torch.arange(10**6, 10**6 + 4000), 0).mask
    counts = [(pool == torch.from_numpy(row)).flatten(1).all(1).sum().item() for row in rows]
    assert sum(counts) == 4000 and min(counts) > 680
    assert len(operator.bank.examples(2).mask) == 2 and operator.bank.examples(2).pool


def test_a_bank_of_the_other_kind_is_refused():
    pixels, columns = np.ones((3, 1, 8, 8), np.uint8), np.ones((3, 1, 1, 8), np.uint8)
    with pytest.raises(ValueError, match="columns of k-space"):
        RandomMask().bound(Bank(mask=columns))
    with pytest.raises(ValueError, match="masks of pixels"):
        Fourier(acs_lines=2).bound(Bank(mask=pixels))
    maps = np.ones((3, 2, 8, 8), np.complex64)
    with pytest.raises(ValueError, match=r"coils 4.*of 2"):
        Fourier(acs_lines=2, coils=4).bound(Bank(maps=maps))
    bound = Fourier(acs_lines=2).bound(Bank(maps=maps))
    assert bound.coils == 2 and "coils=2" in bound.spec and bound.observation_shape((2, 8, 8)) == (4, 8, 8)


# Noise levels


def test_noise_levels_of_a_range_with_clean_images():
    levels = NoiseLevels(highest=0.4, lowest=0.1, clean_share=0.25)
    found = levels.of(torch.arange(20_000), 3)
    noisy = found[found > 0]
    assert abs((found == 0).float().mean() - 0.25) < 0.015
    assert noisy.min() >= 0.1 and noisy.max() <= 0.4 and abs(noisy.mean() - 0.25) < 0.005
    assert torch.equal(found[7:9], levels.of(torch.tensor([7, 8]), 3)) and not torch.equal(
        found[:9], levels.of(torch.arange(9), 4)
    )
    assert NoiseLevels(highest=0.3).of(torch.arange(4), 0) == 0.3
    bank = np.array([0.1, 0.2, 0.3], np.float32)
    assert NoiseLevels(highest=0.3, bank=bank).of(torch.tensor([2, 0]), 0).tolist() == [bank[2], bank[0]]


def test_each_observation_has_the_noise_of_its_level():
    sigma = torch.tensor([0.0, 0.1, 0.5])
    x = torch.zeros(3, 1, 64, 64)
    y = corruptions.observe(corruptions.Identity(), x, index=torch.arange(3), sigma_obs=sigma, seed=0)
    assert (y[0] == 0).all()
    torch.testing.assert_close(y.flatten(1).std(1), sigma, rtol=0.05, atol=0)


# Refusals


BAD = {
    "gaussian_blur:size=4": "odd",
    "gaussian_blur:size=33": "at most 31",
    "motion_blur:size=4": "odd",
    "motion_blur:size=0": "at least 1",
    "motion_blur:angle=nan": "finite",
    "random_mask:missing=1": "less than 1",
    "random_mask:missing=-0.1": "at least 0",
    "random_mask:shared=maybe": "0 or 1",
    "box_mask:size=0": "at least 1",
    "box_mask:place=left": "random or center",
    "downsample:factor=0": "1 to 256",
    "downsample:factor=1.5": "int",
    "fourier:acceleration=0.5": "at least 1",
    "fourier:acs_lines=0": "at least 1",
    "fourier:pattern=spiral": "random or equispaced",
    "fourier:coils=0": "1 to 64",
    "compose:identity": "two or more",
    "compose:": "two or more",
    "compose:identity+random_mask:missing=0.5": "differs from image to image",
    "compose:identity+fourier": "differs from image to image",
    "compose:identity+fog": "unknown corruption 'fog'",
    "no_such_module.thing": "cannot import no_such_module",
}


@pytest.mark.parametrize(("spec", "message"), BAD.items(), ids=list(BAD))
def test_parameters_out_of_range_are_named(spec, message):
    with pytest.raises(ValueError, match=message) as error:
        corruptions.parse(spec)
    assert "\n" not in str(error.value)


SHAPES = [
    ("downsample:factor=2", (3, 9, 8), "factor 2 does not divide 9x8"),
    ("motion_blur:size=31", (3, 12, 40), "too large for 12x40"),
    ("box_mask:size=8", (3, 8, 20), "leaves nothing of 8x20"),
    ("fourier:acs_lines=2", (1, 8, 8), "real=1 takes real images"),
    ("fourier:acs_lines=2,real=1", (2, 8, 8), "real images of 1 channel"),
    ("fourier:acceleration=4,acs_lines=20", (2, 32, 32), "acs_lines 20 are more than the 8"),
    ("compose:gaussian_blur:size=3,std=1+downsample:factor=2", (3, 9, 8), "factor 2"),
]


@pytest.mark.parametrize(("spec", "shape", "message"), SHAPES, ids=[spec for spec, *_ in SHAPES])
def test_images_an_operator_cannot_act_on_are_named(spec, shape, message):
    with pytest.raises(ValueError, match=message):
        corruptions.parse(spec).observation_shape(shape)


# Somebody else's


def test_a_module_of_the_working_directory_is_found_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "haze_module.py").write_text(
        "from rsd_fast.corruptions import Corruption, register\n"
        "@register('haze')\n"
        "class Haze(Corruption):\n"
        "    def __init__(self, *, strength: float = 0.5):\n"
        "        self.strength = strength\n"
        "        self.spec = f'haze:strength={strength}'\n"
        "    def forward(self, x, *, index=None, seed=0):\n"
        "        return (1 - self.strength) * x\n"
        "    adjoint = forward\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    operator = corruptions.parse("haze_module.haze:strength=0.25")
    assert operator.spec == "haze_module.haze:strength=0.25"
    assert torch.equal(operator.forward(torch.ones(1, 1, 2, 2)), torch.full((1, 1, 2, 2), 0.75))
    assert corruptions.parse(operator.spec).spec == operator.spec
    with pytest.raises(ValueError, match="name is taken"):

        @corruptions.register("identity")
        class Other(corruptions.Corruption):
            pass

    corruptions.base._REGISTRY.pop("haze")


def test_views_show_what_is_kept_alone():
    x = rand(2, 3, 8, 8)
    operator = corruptions.parse("random_mask:missing=0.5")
    assert isinstance(operator, DrawnCorruption)
    draw = operator.draw((3, 8, 8), torch.arange(2), 0)
    view = operator.view(draw, (3, 8, 8))
    assert view.condition.shape == (2, 3, 8, 8) and torch.equal(view.measure(x), x * draw.mask)
    fourier = Fourier(acceleration=2, acs_lines=2, coils=2)
    lines = fourier.draw((2, 8, 8), torch.arange(2), 0)
    seen = fourier.view(lines, (2, 8, 8))
    z = rand(2, 2, 8, 8)
    assert seen.condition.shape == (2, 2, 8, 8) and seen.measure(z).shape == (2, 4, 8, 8)
    torch.testing.assert_close(seen.image(seen.measure(z)), fourier.transpose(fourier.apply(z, lines), lines))
    noise = seen.keep(rand(2, 4, 8, 8))
    assert ((noise != 0) == lines.mask.bool().expand_as(noise)).all()
    assert isinstance(lines, Draw)
