"""EDM's augmentation: what the map does to images that are known, how its factors are drawn, and its filters."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kstest
from torch import Tensor

from rsd_fast import augmentation
from rsd_fast.augmentation import LABELS, Transform, apply, augment, draw, labels

N = 20_000
NAMES = [field.name for field in fields(Transform)]


def transform(batch: int = 1, **factors: float) -> Transform:
    """Neutral but for ``factors``."""
    assert factors.keys() <= set(NAMES)
    return Transform(**{name: torch.full((batch,), factors.get(name, 0.0)) for name in NAMES})


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1


def centred(size: int) -> Tensor:
    return torch.arange(size) - (size - 1) / 2


def blob(size: int = 33, x: float = 0, y: float = 0, deviation: float = 2.5) -> Tensor:
    """A Gaussian around (x, y), from the centre and y downwards."""
    return torch.exp(-((centred(size) - x) ** 2 + (centred(size)[:, None] - y) ** 2) / (2 * deviation**2))[None, None]


def moments(image: Tensor) -> tuple[float, np.ndarray, np.ndarray]:
    """(sum, mean place [2], covariance [2, 2]) of an image of mass."""
    mass = image[0, 0].double().numpy()
    y, x = np.meshgrid(centred(mass.shape[0]), centred(mass.shape[1]), indexing="ij")
    places = np.stack([x.ravel(), y.ravel()])
    mean = places @ mass.ravel() / mass.sum()
    deviations = places - mean[:, None]
    return mass.sum(), mean, (deviations * mass.ravel()) @ deviations.T / mass.sum()


def content_map(t: Transform, i: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """(matrix, shift) of where content goes, y down, from the factors' description with y up."""

    def turn(angle: float) -> np.ndarray:
        return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])

    f = {name: getattr(t, name)[i].item() for name in NAMES}
    stretch = np.diag([2 ** (0.2 * f["anisotropy"]), 2 ** (-0.2 * f["anisotropy"])])
    up = turn(f["axis"]) @ stretch @ turn(-f["axis"]) @ turn(f["rotation"]) * 2 ** (0.2 * f["scale"])
    down = np.diag([1, -1])
    return down @ up @ down, 0.125 * np.array([width * f["shift_x"], height * f["shift_y"]])


def response(taps: tuple[float, ...], cycles: np.ndarray) -> np.ndarray:
    k = np.arange(len(taps))
    return np.cos(2 * np.pi * cycles[:, None] * k) @ (np.where(k == 0, 1, 2) * taps)


def test_neutral_factors_give_the_image_back():
    images = noise(2, 3, 16, 13)
    assert torch.equal(apply(images, transform(2)), images)


def test_down_after_up_is_the_identity():
    for size in ((16, 13), (3, 3), (4, 7)):
        images = noise(2, 3, *size, dtype=torch.float64)
        source = torch.eye(2, 3, dtype=torch.float64).expand(2, 2, 3)
        assert torch.allclose(augmentation._resample(images, source), images, rtol=0, atol=1e-12)


def test_filters_are_biorthogonal_and_as_selective_as_the_twelve_tap_symlet():
    up, down = ([*taps[:0:-1], *taps] for taps in (augmentation._UP, augmentation._DOWN))
    product = 2 * np.convolve(up, down)
    assert np.allclose(product[len(product) // 2 % 2 :: 2], np.eye(1, 11, 5), rtol=0, atol=1e-14)

    pywt = pytest.importorskip("pywt")
    cycles = np.linspace(0, 0.5, 501)
    symlet = np.array(pywt.Wavelet("sym6").dec_lo) / math.sqrt(2)
    wanted = np.abs(np.exp(-2j * np.pi * cycles[:, None] * np.arange(12)) @ symlet)
    assert np.abs(response(augmentation._UP, cycles) - wanted).max() < 0.03
    assert np.abs(response(augmentation._DOWN, cycles) - wanted).max() < 0.015


def test_flips_are_exact():
    images = noise(3, 2, 9, 12)
    assert torch.equal(apply(images, transform(3, xflip=1)), images.flip(3))
    assert torch.equal(apply(images, transform(3, yflip=1)), images.flip(2))
    assert torch.equal(apply(images, transform(3, xflip=1, yflip=1)), images.flip(2, 3))


def test_flips_come_first():
    images = noise(1, 1, 16, 16)
    turned = apply(images, transform(xflip=1, rotation=math.pi / 2))
    assert torch.allclose(turned, torch.rot90(images.flip(3), 1, (2, 3)), rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", [16, 33])
@pytest.mark.parametrize("quarters", [1, 2, -1])
def test_quarter_turns_are_exact_and_counter_clockwise(size, quarters):
    images = noise(2, 3, size, size)
    turned = apply(images, transform(2, rotation=quarters * math.pi / 2))
    assert torch.allclose(turned, torch.rot90(images, quarters, (2, 3)), rtol=0, atol=2e-5)


@pytest.mark.parametrize(("right", "down"), [(3, 0), (0, 2), (-1, 4), (-20, 0)])
def test_whole_pixel_shifts_are_exact_and_mirrored_at_the_edge(right, down):
    images = noise(2, 3, 16, 24)
    moved = apply(images, transform(2, shift_x=right * 8 / 24, shift_y=down * 8 / 16))
    mirrored = np.pad(images, ((0, 0), (0, 0), (20, 20), (20, 20)), mode="reflect")
    wanted = torch.from_numpy(mirrored)[:, :, 20 - down : 36 - down, 20 - right : 44 - right]
    assert torch.allclose(moved, wanted, rtol=0, atol=2e-5)


def test_constant_images_stay_constant():
    t = draw(1.0, seed=1, sample=torch.arange(64), step=0)
    extreme = transform(2, scale=-6, rotation=1, anisotropy=6, axis=2, shift_x=-5, shift_y=6)
    for factors, batch in ((t, 64), (extreme, 2)):
        assert torch.allclose(apply(torch.full((batch, 1, 8, 11), 0.7), factors), torch.tensor(0.7), rtol=0, atol=1e-6)


def test_smooth_images_go_where_the_formula_says():
    width, height, batch = 72, 64, 32
    t = draw(1.0, seed=3, sample=torch.arange(batch), step=5)
    t = replace(t, xflip=torch.zeros(batch), yflip=torch.zeros(batch))

    def pattern(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return 0.5 * np.cos(0.3 * x + 0.1 * y + 0.7) + 0.5 * np.cos(0.15 * x - 0.25 * y - 0.4)

    y, x = np.meshgrid(centred(height), centred(width), indexing="ij")
    moved = apply(torch.from_numpy(pattern(x, y)).float().expand(batch, 1, -1, -1), t)
    compared = 0
    for i in range(batch):
        matrix, shift = content_map(t, i, width, height)
        if np.linalg.svd(matrix)[1].min() < 0.6:
            continue  # shrunk so far that the pattern is no longer one of low frequencies
        places = np.stack([x.ravel(), y.ravel()]) - shift[:, None]
        from_x, from_y = (np.linalg.inv(matrix) @ places).reshape(2, height, width)
        inside = (np.abs(from_x) < width / 2 - 6) & (np.abs(from_y) < height / 2 - 6)
        compared += inside.sum()
        assert np.abs(moved[i, 0].numpy() - pattern(from_x, from_y))[inside].max(initial=0) < 0.012
    assert compared > 0.3 * moved.numel()


def test_shrinking_a_checkerboard_gives_grey_and_not_moire():
    board = (1 - 2 * ((torch.arange(32) + torch.arange(32)[:, None]) % 2)).float()[None, None]
    source = augmentation._source(transform(scale=-3), 32, 32).float()
    naive = F.grid_sample(board, F.affine_grid(source, board.shape, align_corners=True), align_corners=True)
    assert naive.std() > 0.2 and naive.abs().max() > 0.6
    grey = apply(board, transform(scale=-3))
    assert grey.std() < 0.015 and grey.abs().max() < 0.08


@pytest.mark.parametrize("scale", [-2.0, -0.7, 1.0, 2.5])
def test_scale_enlarges_areas(scale):
    disc = (torch.hypot(centred(65), centred(65)[:, None]) < 14).float()[None, None]
    scaled = apply(disc, transform(scale=scale))
    assert scaled.sum() / disc.sum() == pytest.approx(2 ** (0.4 * scale), rel=0.02)


def test_positive_rotation_is_counter_clockwise_on_the_screen():
    _, mean, _ = moments(apply(blob(65, x=8), transform(rotation=0.5)))
    assert mean == pytest.approx([8 * math.cos(0.5), -8 * math.sin(0.5)], abs=0.02)  # y is down: it rose


@pytest.mark.parametrize("axis", [0.0, 0.6, -2.0])
def test_anisotropy_stretches_along_its_axis_and_keeps_areas(axis):
    mass, _, before = moments(blob(49, deviation=3.0))
    stretched, _, after = moments(apply(blob(49, deviation=3.0), transform(anisotropy=2, axis=axis)))
    assert stretched == pytest.approx(mass, rel=0.01)
    along, across = np.array([math.cos(axis), -math.sin(axis)]), np.array([math.sin(axis), math.cos(axis)])
    assert along @ after @ along / before[0, 0] == pytest.approx(2**0.8, rel=0.03)
    assert across @ after @ across / before[0, 0] == pytest.approx(2**-0.8, rel=0.03)


def test_factors_compose_in_order():
    t = transform(scale=0.6, rotation=0.9, anisotropy=1.2, axis=-0.4, shift_x=0.3, shift_y=-0.5)
    _, mean, covariance = moments(apply(blob(65, x=6, y=-3), t))
    matrix, shift = content_map(t, 0, 65, 65)
    assert mean == pytest.approx(matrix @ [6, -3] + shift, abs=0.05)
    assert np.allclose(covariance, 2.5**2 * matrix @ matrix.T, rtol=0.03, atol=0.2)


def test_shifts_move_right_and_down():
    _, mean, _ = moments(apply(blob(), transform(shift_x=0.7, shift_y=1.1)))
    assert mean == pytest.approx([0.125 * 33 * 0.7, 0.125 * 33 * 1.1], abs=0.01)


def test_labels_are_in_order_and_neutral_ones_zero():
    assert LABELS == 9
    assert torch.equal(labels(transform(4)), torch.zeros(4, LABELS))
    t = transform(xflip=1, yflip=1, scale=0.3, rotation=0.5, anisotropy=-0.8, axis=0.9, shift_x=0.2, shift_y=-0.6)
    wanted = [1, 1, 0.3, math.cos(0.5) - 1, math.sin(0.5), -0.8 * math.cos(0.9), -0.8 * math.sin(0.9), 0.2, -0.6]
    assert labels(t).dtype == torch.float32
    assert labels(t)[0].tolist() == pytest.approx(wanted, abs=1e-6)


def assert_share(chosen: Tensor, share: float) -> None:
    """Within four standard deviations of a binomial's mean."""
    assert abs(chosen.double().mean() - share) <= 4 * math.sqrt(share * (1 - share) / len(chosen))


@pytest.mark.parametrize("p", [0.12, 0.7])
def test_factors_are_drawn_with_their_probabilities(p):
    t = draw(p, seed=11, sample=torch.arange(N), step=7)
    assert all(getattr(t, name).dtype == torch.float32 for name in NAMES)
    for flip, share in ((t.xflip, 0.5), (t.yflip, p / 2)):
        assert set(flip.tolist()) == {0.0, 1.0}
        assert_share(flip == 1, share)
    gated = {name: getattr(t, name) != 0 for name in ("scale", "rotation", "anisotropy", "shift_x")}
    for name, gate in gated.items():
        assert_share(gate, p)
        for other in gated.keys() - {name}:
            assert_share(gated[other][gate], p)  # each gate its own number
    assert torch.equal(t.shift_x != 0, t.shift_y != 0)
    assert not (t.axis[~gated["anisotropy"]] != 0).any()
    assert_share(t.axis[gated["anisotropy"]] == 0, 0.5)

    normals = [t.scale[gated["scale"]], t.anisotropy[gated["anisotropy"]], t.shift_x[gated["shift_x"]]]
    normals.append(t.shift_y[gated["shift_x"]])
    for values in normals:
        assert kstest(values, "norm").pvalue > 1e-3
    for angles in (t.rotation[gated["rotation"]], t.axis[t.axis != 0]):
        assert kstest(angles, "uniform", args=(-math.pi, 2 * math.pi)).pvalue > 1e-3


def test_no_number_serves_twice():
    t = draw(1.0, seed=5, sample=torch.arange(N), step=0)
    values = [getattr(t, name) for name in NAMES]
    sizes = [value.abs() for value in values[2:]]  # not those of the flips, which are themselves
    correlations = torch.corrcoef(torch.stack([*values, *sizes]))
    factor = torch.tensor([*range(8), *range(2, 8)])
    assert correlations[factor != factor[:, None]].abs().max() < 5 / math.sqrt(N)


def test_p_zero_leaves_only_the_left_right_flip():
    images, sample = noise(64, 1, 8, 8), torch.arange(64)
    augmented, told = augment(images, 0.0, seed=2, sample=sample, step=3)
    xflip = draw(0.0, seed=2, sample=sample, step=3).xflip
    assert 0 < xflip.sum() < 64
    assert torch.equal(augmented, torch.where(xflip[:, None, None, None] == 1, images.flip(3), images))
    assert torch.equal(told, F.pad(xflip[:, None], (0, LABELS - 1)))


def test_a_sample_does_not_depend_on_its_batch():
    images, sample = noise(8, 3, 12, 12), torch.tensor([4, 0, 2**31, 9, 9, 1, 7, 3])
    augmented, told = augment(images, 0.9, seed=6, sample=sample, step=2)
    for i in range(8):
        alone, told_alone = augment(images[i : i + 1], 0.9, seed=6, sample=sample[i : i + 1], step=2)
        assert torch.equal(alone[0], augmented[i])
        assert torch.equal(told_alone[0], told[i])
    assert torch.equal(told[3], told[4])


def test_seed_sample_and_step_each_matter():
    def scales(**other) -> Tensor:
        return draw(1.0, **{"seed": 1, "sample": torch.arange(16), "step": 4} | other).scale

    assert torch.equal(scales(), scales())
    assert torch.equal(scales(step=torch.full((16,), 4)), scales())
    for other in ({"seed": 2}, {"sample": torch.arange(16) + 16}, {"step": 5}):
        assert not (scales() == scales(**other)).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_dtype_and_memory_format_are_kept(dtype, memory_format):
    images = noise(6, 3, 10, 8, dtype=torch.float64)
    wanted, _ = augment(images, 1.0, seed=0, sample=torch.arange(6), step=0)
    given = images.to(dtype).contiguous(memory_format=memory_format)
    augmented, told = augment(given, 1.0, seed=0, sample=torch.arange(6), step=0)
    assert augmented.dtype == dtype and told.dtype == torch.float32
    assert augmented.is_contiguous(memory_format=memory_format)
    tolerance = {torch.float64: 1e-14, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    assert torch.allclose(augmented.double(), wanted, rtol=0, atol=tolerance)


def test_it_compiles_to_one_graph():
    images, sample = noise(4, 3, 8, 8), torch.arange(4)
    compiled = torch.compile(augment, backend="eager", fullgraph=True)  # a value read on the host would break it
    for mine, wanted in zip(
        compiled(images, 0.5, seed=1, sample=sample, step=2),
        augment(images, 0.5, seed=1, sample=sample, step=2),
        strict=True,
    ):
        assert torch.equal(mine, wanted)


def test_an_empty_batch_is_left_empty():
    augmented, told = augment(noise(0, 3, 8, 8), 0.5, seed=0, sample=torch.arange(0), step=0)
    assert augmented.shape == (0, 3, 8, 8) and told.shape == (0, LABELS)


@pytest.mark.parametrize(
    ("change", "error", "name"),
    [
        ({"p": -0.1}, ValueError, "p"),
        ({"p": 1.5}, ValueError, "p"),
        ({"p": math.nan}, ValueError, "p"),
        ({"images": torch.zeros(4, 3, 8, 8, dtype=torch.uint8)}, TypeError, "images"),
        ({"images": torch.zeros(3, 8, 8)}, ValueError, "images"),
        ({"images": torch.zeros(4, 3, 8, 2)}, ValueError, "images"),
        ({"sample": torch.arange(5)}, ValueError, "sample"),
        ({"sample": [0, 1, 2, 3]}, TypeError, "sample"),
        ({"sample": torch.tensor(3)}, ValueError, "sample"),
        ({"sample": torch.arange(4.0)}, TypeError, "sample"),
        ({"seed": -1}, ValueError, "seed"),
    ],
)
def test_wrong_arguments_are_named(change, error, name):
    arguments = {"images": noise(4, 3, 8, 8), "p": 0.1, "seed": 0, "sample": torch.arange(4), "step": 0} | change
    with pytest.raises(error, match=f"^{name}: "):
        augment(arguments.pop("images"), arguments.pop("p"), **arguments)


def test_a_transform_of_another_batch_is_refused():
    with pytest.raises(ValueError, match=r"^xflip: "):
        apply(noise(4, 3, 8, 8), transform(3))
    with pytest.raises(ValueError, match=r"^scale: "):
        apply(noise(4, 3, 8, 8), replace(transform(4), scale=torch.zeros(1)))
