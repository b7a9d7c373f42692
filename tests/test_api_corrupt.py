"""`rsd_fast.corrupt` and `rsd_fast.estimate_noise`: observations in memory and in files."""

import numpy as np
import pytest
import torch
from PIL import Image

import rsd_fast
from rsd_fast import corruptions
from rsd_fast.data import DataError, ImageArray, ObservedDataset, open_source
from rsd_fast.errors import FieldError
from tests.image_files import random_pixels

DIGITS = open_source("digits")
CLEAN = ImageArray(images=DIGITS.images[:40], labels=DIGITS.labels[:40], name="digits")
KSPACE = "fourier:acceleration=2,acs_lines=2,real=1"
CASES = {
    "blur": ("gaussian_blur:size=3,std=1", {"sigma_obs": 0.1, "seed": 3}, "x.npz"),
    "mask": ("random_mask:missing=0.5", {"sigma_obs": 0.1}, "x.npz"),
    "levels": ("identity", {"sigma_obs": (0.1, 0.3), "clean_share": 0.2}, "x.npz"),
    "k-space": (KSPACE, {"sigma_obs": 0.05}, "x.h5"),
    "coils": (f"{KSPACE},coils=3", {}, "x.h5"),
}


@pytest.mark.parametrize("case", CASES)
def test_observations_in_memory_are_those_that_are_written(tmp_path, case):
    spec, options, name = CASES[case]
    if name == "x.h5":
        pytest.importorskip("h5py", reason="needs h5py")
    observed = rsd_fast.corrupt(CLEAN, corruption=spec, **options)
    assert rsd_fast.corrupt(CLEAN, corruption=spec, out=tmp_path / name, **options) == tmp_path / name
    written = open_source(tmp_path / name, observations=True, sigma_obs_max=1.0)
    for field in ("images", "mask", "maps", "sigma"):
        here, there = getattr(observed, field), getattr(written, field)
        assert here is there is None or (here.dtype == there.dtype and np.array_equal(here, there)), field
    assert observed.kspace == written.kspace == (name == "x.h5")
    assert observed.labels.tolist() == CLEAN.labels.tolist()  # which an .h5 does not hold
    assert {"mask": observed.mask, "levels": observed.sigma, "coils": observed.maps}.get(case, 0) is not None


@pytest.mark.parametrize("case", ["blur", "mask", "levels", "coils"])
def test_observations_are_those_that_a_training_simulates(case):
    """And they can be trained on as they are."""
    spec, options, _ = CASES[case]
    observed = rsd_fast.corrupt(CLEAN, corruption=spec, **options)
    operator, index = corruptions.parse(spec), torch.arange(40)
    how = {"corruption": operator, "seed": options.get("seed", 0)}
    levels = corruptions.NoiseLevels(highest=0.3, lowest=0.1, clean_share=0.2)
    sigma_obs = levels if case == "levels" else options.get("sigma_obs", 0.0)
    simulated = ObservedDataset(CLEAN, sigma_obs=sigma_obs, simulate=True, **how).observe(index)[0]
    given = ObservedDataset(open_source(observed), sigma_obs=sigma_obs, simulate=False, **how).observe(index)[0]
    assert torch.equal(given.y, simulated.y) and np.array_equal(observed.images, simulated.y.numpy())


def test_the_operator_may_be_an_object():
    class Negative(corruptions.Corruption):
        name = spec = "negative"

        def forward(self, x, *, index=None, seed=0):
            return -x

    images = random_pixels(3, 1, 4, 4)
    observed = rsd_fast.corrupt(images, corruption=Negative())
    np.testing.assert_array_equal(observed.images, -open_source(images).tensor(range(3)).numpy())
    assert observed.name == "the array" and observed.labels is None


def test_a_preview_and_a_folder(tmp_path):
    out = rsd_fast.corrupt(CLEAN, out=tmp_path / "seen", corruption="box_mask:size=2", preview=tmp_path / "p.png")
    source = open_source(out)
    assert (1 - source.mask).sum() == 40 * 4 and source.labels.tolist() == CLEAN.labels.tolist()
    with Image.open(tmp_path / "p.png") as preview:
        assert preview.size[0] > 100


def test_the_noise_of_arrays_is_estimated():
    observed = rsd_fast.corrupt("digits", sigma_obs=0.3)
    estimate = rsd_fast.estimate_noise(observed.images)
    assert estimate.low < 0.3 < estimate.high and abs(estimate.sigma - 0.3) < 0.015
    with pytest.raises(DataError, match="the array: images must be at least 2 pixels a side"):
        rsd_fast.estimate_noise(np.zeros((3, 1, 4), np.float32))


def test_what_does_not_fit_is_named_by_its_option(tmp_path):
    for options, error, message in (
        ({"preveiw": "p.png"}, FieldError, "preveiw: unknown option of corrupt; did you mean 'preview'?"),
        ({"clean_share": 1}, FieldError, "clean_share: expected 0 <= clean_share < 1, got 1"),
        ({"sigma_obs": -0.1}, FieldError, "sigma_obs: expected a number of at least 0"),
        ({"sigma_obs": (0.3, 0.1)}, FieldError, "sigma_obs: expected a number of at least 0, LEAST:GREATEST"),
        ({"sigma_obs": "estimate"}, FieldError, "sigma_obs: expected a number or LEAST:GREATEST, got estimate"),
        ({"device": "gpu"}, FieldError, "device: expected"),
        ({"out": tmp_path / "x.h5"}, FieldError, "out: observations of 'identity' go to an .npz file or a folder"),
        ({"out": tmp_path / "x.npz", "corruption": KSPACE}, FieldError, "out: observations of 'fourier' go to an .h5"),
        ({"out": tmp_path / "x", "sigma_obs": (0.1, 0.2)}, FieldError, "out: only an .npz says"),
        ({"out": tmp_path / "x.png"}, FieldError, "out: expected FILE.npz, FILE.h5 or a folder"),
        ({"out": tmp_path.parent}, DataError, "exists already"),
        ({"data": tmp_path / "absent.npy"}, DataError, "absent.npy: no such file"),
        ({"corruption": "fog"}, FieldError, "corruption: unknown corruption 'fog'"),
        ({"corruption": "gaussian_blur:size=31"}, FieldError, "corruption: corruption 'gaussian_blur': size 31"),
    ):
        with pytest.raises(error) as caught:
            rsd_fast.corrupt(**{"data": CLEAN, **options})
        assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []
