"""The benchmark of every corruption: its rows are what the library can train, and its table says who is lower."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rsd_fast import corruptions, objectives

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))
import restoration  # noqa: E402

sys.path.remove(str(FOLDER))


@pytest.mark.parametrize("name", restoration.ROWS)
def test_each_row_is_a_corruption_with_an_objective(name):
    row = restoration.ROWS[name]
    operator = corruptions.parse(row.corruption)
    shape = (1, restoration.SIZE, restoration.SIZE)
    operator.observation_shape(shape)
    assert objectives.resolve("auto", row.sigma_obs, operator, shape)
    assert row.teacher is None or restoration.ROWS[row.teacher].corruption == row.corruption


def test_every_kind_of_the_method_has_a_row():
    found = {(row.corruption.partition(":")[0], row.sigma_obs) for row in restoration.ROWS.values()}
    assert found >= {
        *(("identity", sigma) for sigma in (0.2, 0.4)),
        *(("gaussian_blur", sigma) for sigma in (0.0, 0.1)),
        *((kind, 0.0) for kind in ("random_mask", "downsample", "fourier")),
    }


def result(teacher: float, student: float) -> dict:
    both = {"teacher": {"fd": teacher, "pixel_fd": 1.0}, "student": {"fd": student, "pixel_fd": 2.0}}
    return {"row": "blur", "title": "blur", "clean": both, "proximal": both}


def test_the_table_has_the_lower_of_each_pair_in_bold():
    line = restoration.table([result(3.0, 2.5)]).splitlines()[-1]
    assert line == "| blur | 3.00 | **2.50** | 3.00 | **2.50** | **1.00** | 2.00 |"


def test_the_committed_results_hold_every_row_and_are_what_the_readme_shows():
    results = json.loads((FOLDER / "results" / "restoration.json").read_text())
    assert [found["row"] for found in results] == list(restoration.ROWS)
    readme = (FOLDER.parent / "README.md").read_text()
    assert restoration.table(results) in readme
    assert all((FOLDER.parent / "docs" / "restoration" / f"{name}.png").is_file() for name in restoration.ROWS)
    ours = [found for found in results if restoration.ROWS[found["row"]].teacher is None]
    below = [found for found in ours if found["clean"]["student"]["fd"] < found["clean"]["teacher"]["fd"]]
    assert len(ours) == 7 and len(below) >= 6


def test_an_unknown_row_is_named(tmp_path):
    done = subprocess.run(
        [sys.executable, FOLDER / "restoration.py", "--out", tmp_path / "x", "--rows", "fog"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    assert (
        done.returncode == 2 and "unknown row 'fog'; known: noise-.2" in done.stderr and not (tmp_path / "x").exists()
    )


def test_a_set_has_zero_distance_to_itself_and_keeps_what_is_pictured():
    torch = pytest.importorskip("torch")
    images = torch.from_numpy(np.random.default_rng(0).uniform(-2, 2, (40, 1, 4, 4)).astype(np.float32))
    made = restoration.Set.of(images.split(16), lambda x: x.flatten(1)[:, :3])
    assert made.distances(made) == {"fd": 0.0, "pixel_fd": 0.0}
    assert made.pictured.abs().max() <= 1 and len(made.pictured) == restoration.PICTURED
