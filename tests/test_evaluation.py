"""Frechet distance against SciPy's matrix root and closed forms, and how metrics go through samples."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import linalg

from rsd_fast.evaluation import ImageSet, Moments, Stopwatch, evaluate, frechet_distance
from rsd_fast.evaluation.floor import floor, split_of
from rsd_fast.evaluation.frechet import MAX_FEATURES, standard_error
from rsd_fast.evaluation.images import collect


def moments(values, batch=None):
    fitted = Moments()
    for part in torch.as_tensor(values).split(batch or len(values)):
        fitted.add(part)
    return fitted


def exact_sample(count, mean, covariance, seed=0):
    """Vectors whose sample mean and unbiased covariance are exactly the given ones."""
    values = np.random.default_rng(seed).standard_normal((count, len(mean)))
    values -= values.mean(0)
    values = np.linalg.qr(values)[0] * (count - 1) ** 0.5  # now of covariance I
    return torch.from_numpy(values @ np.linalg.cholesky(covariance + 0.0).T + mean)


def wishart(size, seed):
    a = np.random.default_rng(seed).standard_normal((size, size + 2))
    return a @ a.T / size


def scipy_distance(a, b):
    """The definition on [N, D] arrays."""
    cov1, cov2 = (np.atleast_2d(np.cov(v, rowvar=False)) for v in (a, b))
    root = linalg.sqrtm(cov1 @ cov2)
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov1 + cov2 - 2 * np.real(root))


def images(count, seed, shape=(1, 3, 3), scale=1.0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *shape, generator=generator) * scale + shift


# Moments


@pytest.mark.parametrize("batch", [None, 1, 7, 50])
def test_moments_are_the_mean_and_the_unbiased_covariance(batch):
    values = exact_sample(101, np.arange(5.0), wishart(5, 0)).numpy() + np.random.default_rng(1).random((101, 5))
    mean, covariance = moments(values, batch).fit()
    np.testing.assert_allclose(mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(values, rowvar=False), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("mean", [1e3, -1e6])
def test_a_large_mean_cancels_no_digits(mean):
    values = np.random.default_rng(0).standard_normal((500, 4)) + mean
    found_mean, covariance = moments(values, 60).fit()
    np.testing.assert_allclose(found_mean, values.mean(0), rtol=1e-14)
    np.testing.assert_allclose(covariance, np.cov(values, rowvar=False), rtol=1e-9, atol=1e-10)


def test_a_first_batch_that_is_no_guess_of_the_mean_does_no_harm():
    values = np.random.default_rng(0).standard_normal((500, 3)) + 10
    values[0] = [-500.0, 900.0, 0.0]
    _, covariance = moments(values, 1).fit()
    np.testing.assert_allclose(covariance, np.cov(values, rowvar=False), rtol=1e-10)


def test_float32_features_are_summed_in_float64():
    values = (np.random.default_rng(0).standard_normal((3000, 3)) + 1e3).astype(np.float32)
    _, covariance = moments(values, 100).fit()
    np.testing.assert_allclose(covariance, np.cov(values.astype(np.float64), rowvar=False), rtol=1e-10)


def test_too_few_vectors_raise():
    with pytest.raises(ValueError, match="at least 2"):
        moments(torch.zeros(1, 3)).fit()
    with pytest.raises(ValueError, match="at least 2"):
        Moments().fit()


def test_too_many_features_raise_and_say_how_many():
    with pytest.raises(ValueError, match=rf"{MAX_FEATURES + 1}.*{MAX_FEATURES}"):
        Moments().add(torch.zeros(1, MAX_FEATURES + 1))


# frechet_distance


@pytest.mark.parametrize("size", [1, 2, 9, 40])
def test_distance_matches_scipy(size):
    a = exact_sample(200, np.zeros(size), wishart(size, 0), seed=1)
    b = exact_sample(150, np.linspace(-1, 1, size), wishart(size, 2), seed=3)
    expected = scipy_distance(a.numpy(), b.numpy())
    assert frechet_distance(moments(a), moments(b)) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(moments(b), moments(a)) == pytest.approx(expected, rel=1e-9)


def test_distance_matches_the_closed_form_of_commuting_gaussians():
    """|m1 - m2|^2 + sum (sqrt(a) - sqrt(b))^2 for covariances with common eigenvectors."""
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0]
    a, b = np.geomspace(0.01, 5, 6), np.geomspace(3, 0.1, 6)
    m1, m2 = np.arange(6.0), np.ones(6)
    first = exact_sample(80, m1, (rotation * a) @ rotation.T)
    second = exact_sample(90, m2, (rotation * b) @ rotation.T, seed=1)
    expected = ((m1 - m2) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(moments(first), moments(second)) == pytest.approx(expected, rel=1e-10)


def test_distance_matches_the_closed_form_in_two_dimensions():
    """tr (C1 C2)^(1/2) = sqrt(tr(C1 C2) + 2 sqrt(det(C1 C2))) for covariances that do not commute."""
    c1, c2 = np.array([[2.0, 0.9], [0.9, 0.7]]), np.array([[0.5, -0.4], [-0.4, 1.5]])
    product = c1 @ c2
    cross = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    first, second = exact_sample(30, np.zeros(2), c1), exact_sample(40, np.array([1.0, 2.0]), c2, seed=1)
    expected = 5 + np.trace(c1 + c2) - 2 * cross
    assert frechet_distance(moments(first), moments(second)) == pytest.approx(expected, rel=1e-11)


def test_distance_of_a_shift_and_of_a_scale():
    values = images(100, 0).flatten(1).double()
    variance = np.trace(np.cov(values.numpy(), rowvar=False))
    assert frechet_distance(moments(values), moments(values + 0.5)) == pytest.approx(9 * 0.25, rel=1e-9)
    expected = variance * (2 - 1) ** 2 + (values.mean(0) ** 2).sum().item()
    assert frechet_distance(moments(values), moments(2 * values)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("count", [5, 100], ids=["fewer-than-features", "more"])
def test_a_set_is_at_no_distance_from_itself(count):
    values = images(count, 0).flatten(1)
    distance = frechet_distance(moments(values), moments(values, 2))
    assert 0 <= distance < 1e-6


def test_rank_deficient_covariances():
    """Features that never vary, as the border of digits: they count by their means alone."""
    a, b = (exact_sample(50, np.zeros(3), wishart(3, seed), seed=seed) for seed in (0, 1))
    expected = scipy_distance(a.numpy(), b.numpy())
    pad_a, pad_b = torch.full((50, 2), -1.0), torch.full((50, 2), -1.0)
    pad_b[:, 1] = 0.5
    first, second = torch.cat([a, pad_a], 1), torch.cat([b, pad_b], 1)
    assert frechet_distance(moments(first), moments(second)) == pytest.approx(expected + 2.25, rel=1e-7)


def test_distance_does_not_depend_on_the_batches():
    a, b = images(101, 0).flatten(1), images(77, 1, scale=1.5).flatten(1)
    expected = frechet_distance(moments(a), moments(b))
    assert expected > 0.5
    for batch in (1, 10, 76):
        assert frechet_distance(moments(a, batch), moments(b, batch)) == pytest.approx(expected, rel=1e-10)


def test_features_of_different_length_raise():
    with pytest.raises(ValueError, match=r"3.*4"):
        frechet_distance(moments(torch.randn(9, 3)), moments(torch.randn(9, 4)))


# standard_error


def test_standard_error_is_the_scatter_of_fresh_samples():
    size, count = 6, 400
    mix, reference = torch.from_numpy(wishart(size, 0)), moments(images(3000, 1, (1, 2, 3)).flatten(1))
    draws = [images(count, seed, (1, 2, 3)).flatten(1).double() @ mix + 0.3 for seed in range(2, 122)]
    distances = [frechet_distance(moments(draw), reference) for draw in draws]
    errors = [standard_error(draw, *reference.fit()) for draw in draws[:20]]
    assert np.mean(errors) == pytest.approx(np.std(distances, ddof=1), rel=0.2)  # 120 draws know it to 6 %


def test_standard_error_is_the_bootstraps():
    values, reference = images(300, 0).flatten(1) + 0.2, moments(images(500, 1).flatten(1))
    chosen = np.random.default_rng(0).integers(0, 300, (300, 300))
    bootstrap = [frechet_distance(moments(values[rows]), reference) for rows in chosen]
    assert standard_error(values, *reference.fit()) == pytest.approx(np.std(bootstrap, ddof=1), rel=0.2)


def test_standard_error_of_features_that_never_vary_is_finite():
    values = torch.cat([images(50, 0).flatten(1), torch.full((50, 2), -1.0)], 1)
    reference = torch.cat([images(60, 1).flatten(1), torch.full((60, 2), -1.0)], 1)
    error = standard_error(values, *moments(reference).fit())
    assert error == pytest.approx(standard_error(values[:, :9], *moments(reference[:, :9]).fit()), rel=1e-6)


# collect


def numbered(count, batch, seen=None, digest=None):
    def read(index):
        if seen is not None:
            seen.append(index)
        return index.float().reshape(-1, 1, 1, 1)

    return ImageSet(name="n", count=count, read=read, digest=digest)


def doubled(some, index):
    assert torch.equal(some.flatten(), index.float())
    return {"twice": 2 * some.flatten(1), "index": index}


@pytest.mark.parametrize("threaded", [True, False])
@pytest.mark.parametrize(("count", "batch", "sizes"), [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 10, [3])])
def test_collect_reads_every_image_once_and_in_order(count, batch, sizes, threaded):
    seen = []
    found = collect(replace(numbered(count, batch, seen), threaded=threaded), doubled, batch=batch)
    assert [len(index) for index in seen] == sizes
    assert torch.equal(found["index"], torch.arange(count))
    assert torch.equal(found["twice"], 2 * torch.arange(count).float()[:, None])


def test_an_error_while_reading_or_computing_reaches_the_caller():
    def read(index):
        if index[0] >= 4:
            raise ValueError("image 4 is broken")
        return index.float().reshape(-1, 1, 1, 1)

    with pytest.raises(ValueError, match="image 4 is broken"):
        collect(ImageSet(name="n", count=9, read=read), doubled, batch=2)

    def rows(some, index):
        raise RuntimeError("no features")

    with pytest.raises(RuntimeError, match="no features"):
        collect(numbered(9, 2), rows, batch=2)


def test_images_are_made_while_features_of_the_last_are_computed():
    """Reading and computing wait for each other here: in one thread they would for ever."""
    import threading

    reading = threading.Event()

    def read(index):
        if index[0] == 2:
            reading.set()
        return index.float().reshape(-1, 1, 1, 1)

    def rows(some, index):
        if index[0] == 0:
            assert reading.wait(30)
        return {"x": some}

    watch = Stopwatch()
    start = time.perf_counter()
    collect(ImageSet(name="n", count=4, read=read), rows, batch=2, watch=watch)
    assert set(watch.seconds) == {"images", "features"}
    assert sum(watch.seconds.values()) <= 2 * (time.perf_counter() - start)


def test_a_killed_collection_goes_on_where_it_was(monkeypatch, tmp_path):
    monkeypatch.setenv("RSD_FAST_CACHE", str(tmp_path))
    monkeypatch.setattr("rsd_fast.evaluation.images.BLOCK", 4)
    whole, seen = collect(numbered(11, 2), doubled, batch=2), []

    def dying(some, index):
        if index[0] >= 6:
            raise KeyboardInterrupt
        return doubled(some, index)

    with pytest.raises(KeyboardInterrupt):
        collect(numbered(11, 2), dying, batch=2, unfinished="mine")
    (tmp_path / "unfinished" / "mine" / "4.safetensors").write_bytes(b"cut sh")  # by a full disk, perhaps
    found = collect(numbered(11, 2, seen), doubled, batch=2, unfinished="mine")
    assert torch.equal(torch.cat(seen), torch.arange(4, 11))
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_a_cache_that_cannot_be_written_is_told_of_and_done_without(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RSD_FAST_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr("rsd_fast.evaluation.images.BLOCK", 1)
    with pytest.warns(UserWarning, match="RSD_FAST_CACHE"):
        found = collect(numbered(3, 2), doubled, batch=2, unfinished="mine")
    assert len(found["index"]) == 3


# evaluate


@pytest.mark.parametrize("batch", [13, 40, 100])
def test_evaluate_gives_both_metrics_of_one_pass(batch):
    samples, clean, observed = images(100, 0), images(80, 1, scale=1.3), images(90, 2, shift=0.4)
    made, seen = [], []

    def read(index):
        made.append(index)
        return samples[index]

    def observe(x, index):
        seen.append(index)
        return x + 0.1 * index[:, None, None, None] / 100

    results = evaluate(
        ["pixel-fd", "proximal-pixel-fd"],
        ImageSet(name="samples", count=100, read=read),
        clean=ImageSet.of(clean, "clean set"),
        observed=ImageSet.of(observed, "observed set"),
        observe=observe,
        batch=batch,
    )
    assert torch.equal(torch.cat(made), torch.arange(100)), "each sample is made once"
    assert torch.equal(torch.cat(seen), torch.arange(100)), "an observation belongs to its index"
    corrupted = samples + 0.1 * torch.arange(100)[:, None, None, None] / 100
    expected = [
        scipy_distance(samples.flatten(1).double().numpy(), clean.flatten(1).double().numpy()),
        scipy_distance(corrupted.flatten(1).double().numpy(), observed.flatten(1).double().numpy()),
    ]
    assert [result.value for result in results] == pytest.approx(expected, rel=1e-6)
    assert expected[0] != pytest.approx(expected[1], rel=0.05)
    assert [(r.metric, r.num, r.reference, r.num_reference, r.features) for r in results] == [
        ("pixel-fd", 100, "clean set", 80, "pixels"),
        ("proximal-pixel-fd", 100, "observed set", 90, "pixels"),
    ]
    for result, reference, values in zip(results, (clean, observed), (samples, corrupted), strict=True):
        fitted = moments(reference.flatten(1)).fit()
        assert result.standard_error == pytest.approx(standard_error(values.flatten(1), *fitted), rel=1e-6)
        assert result.floor > 0 and result.versions["torch"] == torch.__version__


@pytest.mark.parametrize("num", [100, 400])
def test_the_floor_is_what_as_many_real_images_have(num):
    floors, values = [], []
    for seed in range(8):
        samples, reference = images(num, 100 + seed), ImageSet.of(images(300, seed))
        (result,) = evaluate(["pixel-fd"], ImageSet.of(samples), clean=reference)
        floors.append(result.floor)
        values.append(result.value)
    assert np.mean(floors) == pytest.approx(np.mean(values), rel=0.2)


def test_a_floor_is_told_only_where_it_is_known():
    assert floor(1.0, few=100, num=100, whole=300, length=9) == pytest.approx((1 / 100 + 1 / 300) / (1 / 100 + 1 / 200))
    assert floor(1.0, few=100, num=100, whole=1000, length=500) is not None  # measured as it is
    assert floor(1.0, few=100, num=400, whole=200, length=500) is None  # not by a law that does not hold there
    assert floor(float("nan"), few=1, num=9, whole=3, length=9) is None
    assert split_of(10, 3).sum() == 3 and split_of(10, 30).sum() == 5


def test_a_floor_needs_some_images():
    (result,) = evaluate(["pixel-fd"], ImageSet.of(images(9, 0)), clean=ImageSet.of(images(3, 1)))
    assert result.floor is None


@pytest.mark.parametrize("order", [["proximal-pixel-fd", "pixel-fd"], ["pixel-fd"], ["proximal-pixel-fd"]])
def test_results_come_in_the_order_asked_for(order):
    reference = ImageSet.of(images(30, 1))
    results = evaluate(
        order, ImageSet.of(images(30, 0)), clean=reference, observed=reference, observe=lambda x, index: x
    )
    assert [result.metric for result in results] == order


def test_proximal_needs_no_clean_image():
    observed = ImageSet.of(images(30, 1))
    (result,) = evaluate(
        ["proximal-pixel-fd"], ImageSet.of(images(30, 0)), observed=observed, observe=lambda x, index: 2 * x
    )
    (wanted,) = evaluate(["pixel-fd"], ImageSet.of(2 * images(30, 0)), clean=observed)
    assert result.value == pytest.approx(wanted.value, rel=1e-12)


def test_a_sample_that_is_not_finite_is_no_number():
    samples, reference = images(30, 0), ImageSet.of(images(40, 1))
    samples[7, 0, 1, 1] = float("nan")
    (result,) = evaluate(["pixel-fd"], ImageSet.of(samples), clean=reference)
    assert np.isnan(result.value) and result.standard_error is None


def test_pixels_of_a_reference_are_not_kept():
    from rsd_fast.evaluation import Evaluator

    reference = images(200, 1)
    evaluator = Evaluator(["pixel-fd"], clean=ImageSet.of(reference), batch=64)
    (result,) = evaluator(ImageSet.of(images(50, 0)))
    (fitted,) = evaluator.prepared.values()
    assert not evaluator.reference_rows
    assert not any(isinstance(value, torch.Tensor) for value in vars(fitted.moments).values())
    values = images(50, 0).flatten(1).double().numpy()
    assert result.value == pytest.approx(scipy_distance(values, reference.flatten(1).double().numpy()), rel=1e-6)


def test_moments_add_up():
    a, b = images(40, 0, scale=2).flatten(1) + 5, images(70, 1).flatten(1) - 3
    for both in (
        moments(a) + moments(b),
        Moments() + moments(torch.cat([a, b])),
        moments(torch.cat([a, b])) + Moments(),
    ):
        for found, wanted in zip(both.fit(), moments(torch.cat([a, b])).fit(), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)


def never(index):
    raise AssertionError("nothing is to be made")


UNMADE = ImageSet(name="unmade", count=10, read=never)


def test_an_unknown_metric_is_named_before_anything_is_drawn():
    with pytest.raises(ValueError, match=r"'fod'.*pixel-fd.*proximal-pixel-fd"):
        evaluate(["pixel-fd", "fod"], UNMADE, clean=UNMADE)


@pytest.mark.parametrize(
    ("metric", "given"),
    [
        ("pixel-fd", {}),
        ("pixel-fd", {"observed"}),
        ("proximal-pixel-fd", {"clean"}),
        ("proximal-pixel-fd", {"observed"}),
        ("fid", {"clean"}),
    ],
)
def test_what_is_missing_names_the_metric_before_anything_is_drawn(metric, given):
    with pytest.raises(ValueError, match=metric):
        evaluate([metric], UNMADE, **dict.fromkeys(given, UNMADE))


def test_a_reference_of_another_size_raises():
    reads = []

    def read(index):
        reads.append(index)
        return images(9, 0)[index]

    with pytest.raises(ValueError, match=r"reference: large is of size \[4, 4\], the samples of \[3, 3\]"):
        samples = ImageSet(name="s", count=9, read=read)
        evaluate(["pixel-fd"], samples, clean=ImageSet.of(images(9, 1, (1, 4, 4)), "large"), batch=2)
    assert len(reads) <= 3, "found out with the first batch"


def test_too_few_images_are_told_before_anything_is_drawn():
    few = ImageSet(name="few", count=1, read=never)
    with pytest.raises(ValueError, match="pixel-fd: needs at least 2 images, and few holds 1"):
        evaluate(["pixel-fd"], few, clean=UNMADE)
