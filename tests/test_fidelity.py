"""Metrics of features against torch-fidelity's own command line, NumPy and SciPy, and what comes with each number."""

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import linalg
from threadpoolctl import threadpool_limits

from rsd_fast.data import open_source, write_npz
from rsd_fast.evaluation import (
    Evaluator,
    HowCompared,
    ImageSet,
    Stopwatch,
    evaluate,
    evaluate_pairs,
    evaluate_path,
)

from . import generators

fidelity = pytest.importorskip("torch_fidelity")

from rsd_fast.evaluation.efficientnet import EfficientNetLite0, find_weights  # noqa: E402
from rsd_fast.evaluation.features import Features  # noqa: E402

METRICS = ["fid", "kid", "precision", "recall"]
ALWAYS = ["--fid", "--kid", "--prc", "--cpu", "--no-cache", "--silent", "--save-cpu-ram"]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("RSD_FAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def digits(count, first=0):
    return open_source("digits").tensor(torch.arange(first, first + count))


def folder(images, path):
    """Images as PNG files, in 8 bits."""
    path.mkdir()
    for i, image in enumerate(((images + 1) * 127.5).round().to(torch.uint8)):
        Image.fromarray(image[0].numpy()).save(path / f"{i:05}.png")
    return path


def command_line(first, second, *options):
    """torch-fidelity's own, which knows our extractors where their module is imported."""
    code = "import rsd_fast.evaluation.features; from torch_fidelity.fidelity import main; main()"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, "--input1", first, "--input2", second, *options, *ALWAYS],
        env={**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(line.split(": ") for line in done.stdout.splitlines())


def printed(results):
    """As torch-fidelity prints them."""
    names = {"fid": "frechet_inception_distance", "kid": "kernel_inception_distance_mean"}
    return {names.get(r.metric, r.metric): f"{r.value:.7g}" for r in results}


@pytest.fixture
def one_thread():
    """As `command_line` has it: sums of float32 in another order differ in the last of the printed digits."""
    with threadpool_limits(1):
        yield


@pytest.mark.parametrize("features", ["pixels", "efficientnet-lite0"])
def test_values_are_those_of_torch_fidelitys_command_line(tmp_path, features, one_thread):
    first, second = folder(digits(240), tmp_path / "a"), folder(digits(300, 700) * 0.9, tmp_path / "b")
    ours = evaluate_path(METRICS, str(first), reference=str(second), compared=HowCompared(features=features))
    assert ours[1].settings == {"subsets": 100, "subset_size": 240}
    theirs = command_line(first, second, "--feature-extractor", features, "--kid-subset-size", "240")
    found = printed(ours)
    assert len(found) == 4 and found == {name: theirs[name] for name in found}


@pytest.mark.slow
def test_inception_is_torch_fidelitys(tmp_path, monkeypatch, one_thread):
    """Random weights, as no download is to be had: the path from image to number is the same."""
    from torch_fidelity import feature_extractor_inceptionv3 as inception

    torch.manual_seed(0)
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *a, **k: {})
    kind = inception.FeatureExtractorInceptionV3
    with monkeypatch.context() as patch:
        patch.setattr(kind, "load_state_dict", lambda self, tensors: None)
        network = kind("inception-v3-compat", ["2048"])
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    first, second = folder(digits(70), tmp_path / "a"), folder(digits(90, 700), tmp_path / "b")
    weights = str(tmp_path / "weights.pth")
    ours = evaluate_path(
        [*METRICS, "is"], str(first), reference=str(second), compared=HowCompared(features_weights=weights, batch=64)
    )
    assert ours[0].features == "inception-v3-compat" and len(ours[0].features_hash) == 64
    theirs = command_line(
        first, second, "--isc", "--feature-extractor", "inception-v3-compat",
        "--feature-extractor-weights-path", weights, "--kid-subset-size", "70",
    )  # fmt: skip
    found = printed(ours)
    assert found.pop("is") == theirs["inception_score_mean"]
    assert found == {name: theirs[name] for name in found}


class Given:
    """Features that are the images' own values."""

    name, digest, names, device = "given", None, ["x"], torch.device("cpu")
    layers = dict.fromkeys([*METRICS, "is"], "x")

    def __call__(self, images):
        return {"x": images.flatten(1).float()}


def gaussians(count, mean, covariance, seed):
    values = np.random.default_rng(seed).multivariate_normal(mean, covariance, count)
    return torch.from_numpy(values).float()[:, :, None, None]


def test_fid_of_gaussian_features_is_the_closed_form():
    rng = np.random.default_rng(0)
    a, b = (m @ m.T / 6 for m in rng.standard_normal((2, 5, 6)))
    first, second = gaussians(60_000, np.zeros(5), a, 1), gaussians(60_000, np.full(5, 0.5), b, 2)
    (result,) = evaluate(["fid"], ImageSet.of(first), clean=ImageSet.of(second), features=Given(), batch=60_000)
    exact = 5 * 0.25 + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    assert result.value == pytest.approx(exact, abs=4 * result.standard_error + 1e-3)
    x, y = (v.flatten(1).double().numpy() for v in (first, second))
    cov = [np.cov(v, rowvar=False) for v in (x, y)]
    of_samples = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(
        cov[0] + cov[1] - 2 * linalg.sqrtm(cov[0] @ cov[1]).real
    )
    assert result.value == pytest.approx(of_samples, rel=1e-5)  # torch-fidelity's means are float32


@pytest.mark.parametrize("features", ["pixels", "efficientnet-lite0"])
def test_a_set_is_at_distance_0_from_itself(features):
    images = ImageSet.of(digits(200))
    fid, kid, precision, recall = evaluate(METRICS, images, clean=images, features=Features(features, METRICS))
    assert fid.value == pytest.approx(0, abs=1e-4) and precision.value == recall.value == 1
    assert kid.value <= 0  # unbiased: a set against itself is nearer than another of its kind


def test_standard_errors_are_the_scatter_of_other_samples(monkeypatch):
    reference = ImageSet.of(gaussians(1000, np.zeros(4), np.eye(4), 0))
    told, seen = {}, {}
    monkeypatch.setattr("rsd_fast.evaluation.metrics.kid.SUBSET_SIZE", 200)
    evaluator = Evaluator(METRICS[:3], clean=reference, features=Given(), batch=600)
    for seed in range(1, 41):
        for result in evaluator(ImageSet.of(gaussians(600, np.full(4, 0.3), np.eye(4) * 1.2, seed))):
            told.setdefault(result.metric, []).append(result.standard_error)
            seen.setdefault(result.metric, []).append(result.value)
    for metric in ("fid", "kid", "precision"):
        assert np.mean(told[metric]) == pytest.approx(np.std(seen[metric], ddof=1), rel=0.45), metric


def test_published_statistics_serve_fid_alone(tmp_path):
    features, reference = Features("efficientnet-lite0", ["fid"]), digits(300, 900)
    values = features(reference)["112"].double().numpy()
    np.savez(tmp_path / "stats.npz", mu=values.mean(0), sigma=np.cov(values, rowvar=False))
    images = folder(digits(200), tmp_path / "a")
    compared = HowCompared(features="efficientnet-lite0")
    (result,) = evaluate_path(["fid"], str(images), reference=str(tmp_path / "stats.npz"), compared=compared)
    mine = ImageSet.of(open_source(images).tensor(range(200)))
    (whole,) = evaluate(["fid"], mine, clean=ImageSet.of(reference), features=features)
    assert result.value == pytest.approx(whole.value, rel=1e-4)
    assert result.standard_error == pytest.approx(whole.standard_error, rel=1e-4)
    assert result.reference == "stats" and len(result.reference_hash) == 64 and result.num_reference is None
    with pytest.raises(ValueError, match="kid: needs the images"):
        evaluate_path(["kid"], str(images), reference=str(tmp_path / "stats.npz"), compared=compared)
    np.savez(tmp_path / "stats.npz", mu=np.zeros(5), sigma=np.eye(5))
    with pytest.raises(ValueError, match=r"5 features.*112"):
        evaluate_path(["fid"], str(images), reference=str(tmp_path / "stats.npz"), compared=compared)
    np.savez(tmp_path / "stats.npz", mu=np.zeros(5), sigma=np.eye(4))
    with pytest.raises(ValueError, match=r"stats\.npz: mu \[5\] and sigma \[4, 4\]"):
        evaluate_path(["fid"], str(images), reference=str(tmp_path / "stats.npz"), compared=compared)


# features


def test_efficientnet_knows_photographs():
    """Weights, scale and padding are right: ImageNet's classes of two that come with scikit-learn."""
    from sklearn.datasets import load_sample_images

    network = Features("efficientnet-lite0", ["is", "fid"])
    china, flower = (torch.from_numpy(x.copy()).permute(2, 0, 1)[None] / 127.5 - 1 for x in load_sample_images().images)
    for image, classes in ((china, {698, 663, 442}), (flower, {985})):  # palace, monastery, bell cote; daisy
        assert int(network(image[:, :, :427, 100:527])["logits"].argmax()) in classes
    small = torch.rand(20, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = network(small)["112"]
    assert found.shape == (20, 112) and found.dtype == torch.float32
    torch.testing.assert_close(network(small[3:4])["112"], found[3:4], rtol=1e-4, atol=1e-4)


def test_features_see_8_bits_and_grey_as_rgb():
    features = Features("efficientnet-lite0", ["fid", "is"])
    grey = digits(20)
    found = features(grey)
    assert {name: t.shape[1] for name, t in found.items()} == {"112": 112, "logits": 1000}
    for same in (grey.expand(-1, 3, -1, -1), grey + 1e-3):
        assert torch.equal(features(same)["112"], found["112"])
    complex_image = torch.stack([0.6 * torch.ones(2, 8, 8), 0.8 * torch.ones(2, 8, 8)], 1)
    assert torch.equal(Features("pixels", ["fid"])(complex_image)["pixels"], torch.ones(2, 192))  # magnitude 1: white


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet", ["fid"]), r"unknown 'resnet'; known: .*inception-v3-compat.*pixels"),
        (("pixels", ["is"]), "pixels have none"),
        (("pixels", ["fid"], "FILE"), "features_weights: pixels have none"),
        (("clip-vit-b-32", ["fid"], "FILE"), "features_weights: those of clip-vit-b-32 are a program"),
    ],
)
def test_features_that_cannot_be_had(arguments, message):
    with pytest.raises(ValueError, match=message):
        Features(*arguments[:2], weights=arguments[2] if len(arguments) > 2 else None)


def test_weights_that_are_not_there_or_run_code(tmp_path, monkeypatch):
    from torch_fidelity import feature_extractor_inceptionv3 as inception

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(inception, "load_state_dict_from_url", offline)
    with pytest.raises(ValueError, match=r"could not be downloaded \(no network\).*--features-weights"):
        Features("inception-v3-compat", ["fid"])
    with pytest.raises(ValueError, match=r"features_weights: .*missing"):
        Features("inception-v3-compat", ["fid"], weights=tmp_path / "missing.pth")
    with pytest.raises(ValueError, match="not the weights of inception-v3-compat"):
        Features("inception-v3-compat", ["fid"], weights=find_weights())
    evil = zipfile.ZipFile(tmp_path / "evil.pth", "w")
    with evil:
        evil.writestr("archive/data.pkl", b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00trueq\x00\x85q\x01Rq\x02.")
        evil.writestr("archive/version", b"3")
    with pytest.raises(ValueError, match=r"evil\.pth.*os\.system"):
        Features("inception-v3-compat", ["fid"], weights=tmp_path / "evil.pth")


# caching, resuming, provenance


@pytest.fixture
def generator(tmp_path):
    generators.write(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def seen(monkeypatch):
    """Sizes of the batches that go through EfficientNet."""
    found, forward = [], EfficientNetLite0.forward
    monkeypatch.setattr(EfficientNetLite0, "forward", lambda self, x: found.append(len(x)) or forward(self, x))
    return found


LITE = HowCompared(features="efficientnet-lite0", batch=50)


def test_a_second_evaluation_takes_no_pass_over_the_reference(generator, seen):
    watch = Stopwatch()
    compared = HowCompared(features="efficientnet-lite0", batch=600, watch=watch)
    first = evaluate_path(["fid", "kid"], generator, reference="digits", num=60, compared=compared)
    assert seen == [600, 600, 597, 60], "one pass for both metrics"
    assert list(watch.seconds) == ["reference", "images", "features", "metrics"]
    seen.clear()
    again = evaluate_path(["fid", "kid"], generator, reference="digits", num=60, compared=compared)
    assert seen == [60] and again == first
    other = HowCompared(features="efficientnet-lite0", cache=False)
    seen.clear()
    assert evaluate_path(["fid", "kid"], generator, reference="digits", num=60, compared=other)[0].num_reference == 1797
    assert sum(seen) == 60 + 1797


def test_another_reference_of_the_same_name_is_not_taken_for_the_first(tmp_path, generator):
    values = []
    for scale in (1.0, 0.5):
        write_npz(tmp_path / "same.npz", digits(100) * scale)
        (result,) = evaluate_path(["fid"], generator, reference=str(tmp_path / "same.npz"), num=60, compared=LITE)
        values.append((result.value, result.reference_hash))
    assert values[0] != values[1] and values[0][1] != values[1][1]


def test_a_killed_evaluation_goes_on_and_gives_the_same(generator, seen, monkeypatch, cache):
    monkeypatch.setattr("rsd_fast.evaluation.images.BLOCK", 50)
    whole = evaluate_path(["fid"], generator, reference="digits", num=200, compared=LITE)
    seen.clear()
    forward = EfficientNetLite0.forward

    def dying(self, images):
        if sum(seen) >= 150:
            raise KeyboardInterrupt
        return forward(self, images)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EfficientNetLite0, "forward", dying)
        evaluate_path(["fid"], generator, reference="digits", num=200, compared=LITE)
    assert len(list((cache / "unfinished").rglob("*.safetensors"))) == 3
    seen.clear()
    assert evaluate_path(["fid"], generator, reference="digits", num=200, compared=LITE) == whole
    assert seen == [50], "the three batches before were kept"
    assert not list((cache / "unfinished").rglob("*.safetensors"))


def test_a_broken_file_of_the_cache_is_computed_again(generator, cache):
    first = evaluate_path(["fid"], generator, reference="digits", num=60, compared=LITE)
    (file,) = (cache / "references").iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    assert evaluate_path(["fid"], generator, reference="digits", num=60, compared=LITE) == first


def test_every_number_says_where_it_comes_from(generator):
    compared = replace(LITE, seed=3)
    results = evaluate_path(["fid", "proximal-kid"], generator, reference="digits", num=60, compared=compared)
    for result in results:
        assert (result.num, result.seed, result.kimg, result.num_reference) == (60, 3, 12.5, 1797)
        assert result.reference == "digits" and result.features == "efficientnet-lite0"
        hashes = result.reference_hash, result.features_hash, result.model_hash
        assert all(len(value) == 64 for value in hashes) and result.checkpoint == "model"
        assert {"rsd-fast", "python", "torch", "numpy", "torch-fidelity"} <= result.versions.keys()
        json.dumps(result.__dict__)
    assert results[0].reference_hash != results[1].reference_hash  # the digits, and noisy ones


@pytest.mark.parametrize("kind", ["plain", "mask", "fourier"])
def test_proximal_metrics_of_every_kind_of_corruption(tmp_path, kind):
    generators.write(tmp_path / "model", kind)
    if kind == "fourier":
        k = torch.randn(40, 2, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-3, 3) / 3
        np.savez(tmp_path / "data.npz", images=k.numpy())
        data = str(tmp_path / "data.npz")
    else:
        data = "digits"
    metrics = [f"proximal-{name}" for name in METRICS]
    results = evaluate_path(
        metrics, str(tmp_path / "model"), reference=data, num=40, compared=HowCompared(features="pixels")
    )
    assert [r.metric for r in results] == metrics and all(np.isfinite(r.value) for r in results)
    assert results[-1].standard_error is None  # of recall it is not known
    assert results[0].floor is None or results[0].floor > 0


def test_an_operator_of_ones_own_is_not_remembered(tmp_path, monkeypatch, generator):
    """Its code may change under the same name."""
    from rsd_fast.corruptions import Identity

    class Dark(Identity):
        factor = 1.0

        def __init__(self):
            super().__init__()
            self.operator = None

        def forward(self, x, **how):
            return x * self.factor

    Dark.__module__ = "my_module"
    monkeypatch.setattr("rsd_fast.corruptions.parse", lambda spec: Dark())
    values = []
    for Dark.factor in (1.0, 0.5):
        (result,) = evaluate_path(["proximal-fid"], generator, reference="digits", num=60, compared=LITE)
        values.append(result.value)
    assert values[0] != values[1]


def test_observations_of_another_shape_than_the_runs_are_refused(tmp_path, generator):
    write_npz(tmp_path / "large.npz", torch.zeros(30, 1, 16, 16))
    with pytest.raises(
        ValueError, match=r"large\.npz: observations of shape \[1, 16, 16\], but the run's are \[1, 8, 8\]"
    ):
        evaluate_path(["proximal-fid"], generator, reference=str(tmp_path / "large.npz"), num=20, compared=LITE)


def test_a_reference_of_another_size_is_not_resized(tmp_path, generator):
    write_npz(tmp_path / "large.npz", torch.zeros(30, 1, 16, 16))
    with pytest.raises(ValueError, match=r"large is of size \[16, 16\], the samples of \[8, 8\]"):
        evaluate_path(["fid"], generator, reference=str(tmp_path / "large.npz"), num=20, compared=LITE)


def test_precision_and_recall_are_computed_once(monkeypatch, generator):
    from torch_fidelity import metric_prc

    calls, whole = [], metric_prc.prc_features_to_metric
    monkeypatch.setattr(metric_prc, "prc_features_to_metric", lambda *a, **k: calls.append(k) or whole(*a, **k))
    evaluate_path(["precision", "recall", "precision"], generator, reference="digits", num=60, compared=LITE)
    assert len(calls) == 1 and calls[0]["save_cpu_ram"] is False


# pairs


def test_pairs_against_numpy(tmp_path):
    truth = torch.rand(9, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = (truth + 0.2 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))).clamp(-1, 1)
    psnr, ssim = evaluate_pairs(["psnr", "ssim"], ImageSet.of(images), ImageSet.of(truth), batch=4)
    each = 10 * np.log10(4 / ((images - truth) ** 2).flatten(1).mean(1).numpy())
    assert psnr.value == pytest.approx(each.mean(), rel=1e-5)
    assert psnr.standard_error == pytest.approx(each.std(ddof=1) / 3, rel=1e-4)
    c1, c2, window = 0.01**2, 0.03**2, np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(window, window) / window.sum() ** 2

    def blurred(x):  # where the window lies within the image, as the metric has it
        return np.einsum("bcijkl,kl->bcij", np.lib.stride_tricks.sliding_window_view(x, (11, 11), (2, 3)), window)

    x, y = ((v.double().numpy() + 1) / 2 for v in (images, truth))
    mx, my = blurred(x), blurred(y)
    sx, sy, sxy = blurred(x * x) - mx**2, blurred(y * y) - my**2, blurred(x * y) - mx * my
    values = (2 * mx * my + c1) * (2 * sxy + c2) / ((mx**2 + my**2 + c1) * (sx + sy + c2))
    assert ssim.value == pytest.approx(values.mean(), abs=2e-3)
    (same,) = evaluate_pairs(["ssim"], ImageSet.of(truth), ImageSet.of(truth))
    assert same.value == pytest.approx(1, abs=1e-6)


def test_pairs_of_complex_images_are_of_magnitudes():
    truth = torch.rand(4, 2, 16, 16, generator=torch.Generator().manual_seed(0)) / 2
    turned = torch.stack([-truth[:, 1], truth[:, 0]], 1)  # by a quarter of phase
    psnr, ssim = evaluate_pairs(["psnr", "ssim"], ImageSet.of(turned), ImageSet.of(truth))
    assert psnr.value > 100 and ssim.value == pytest.approx(1, abs=1e-6)


def test_pairs_that_are_none(tmp_path, generator):
    ten = folder(digits(10), tmp_path / "ten")
    with pytest.raises(ValueError, match="psnr: of pairs, but 10 images face 1797 of digits"):
        evaluate_path(["psnr"], str(ten), reference="digits")
    with pytest.raises(ValueError, match="psnr: of pairs, but 1797 images face 10 of ten"):
        evaluate_path(["psnr"], "digits", reference=str(ten))
    with pytest.raises(ValueError, match=r"num: .* holds 10 images, fewer than 20"):
        evaluate_path(["psnr"], str(ten), reference="digits", num=20)
    (first,) = evaluate_path(["psnr"], str(ten), reference="digits", num=5)
    assert first.num == 5 and first.value > 40  # the same images, in 8 bits
    np.savez(tmp_path / "stats.npz", mu=np.zeros(5), sigma=np.eye(5))
    with pytest.raises(ValueError, match="psnr: needs the truth of each image"):
        evaluate_path(["psnr"], str(ten), reference=str(tmp_path / "stats.npz"))
    with pytest.raises(ValueError, match="psnr: of images and the truth of each"):
        evaluate_path(["psnr"], generator, reference="digits")
    with pytest.raises(ValueError, match="one at a time"):
        evaluate_path(["psnr", "pixel-fd"], str(ten), reference="digits")
    with pytest.raises(ValueError, match="ssim: needs images of at least 11 pixels"):
        evaluate_path(["ssim"], str(ten), reference=str(ten))
    write_npz(tmp_path / "larger.npz", torch.zeros(10, 1, 9, 9))
    with pytest.raises(ValueError, match=r"\[1, 8, 8\] face those of larger, \[1, 9, 9\]"):
        evaluate_path(["psnr"], str(ten), reference=str(tmp_path / "larger.npz"))


def test_pairs_without_torchmetrics(monkeypatch):
    monkeypatch.setattr("rsd_fast.evaluation.pairs.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"metrics: psnr needs torchmetrics; pip install 'rsd-fast\[metrics\]'"):
        evaluate_pairs(["psnr"], ImageSet.of(digits(3)), ImageSet.of(digits(3)))


def test_lpips_without_its_weights(monkeypatch, tmp_path):
    lpip = pytest.importorskip("torchmetrics.image.lpip")

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(lpip, "LearnedPerceptualImagePatchSimilarity", offline)
    with pytest.raises(ValueError, match=r"lpips: .*\(no network\).*TORCH_HOME"):
        evaluate_pairs(["lpips"], ImageSet.of(digits(3)), ImageSet.of(digits(3)))
