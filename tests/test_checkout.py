"""A checkout that nothing is installed into: its own commands and kernels are found from its root, and it says so."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .house import ROOT

VERSION = "98.7.6"  # by which output tells that it comes from the copy, and not from what is installed


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, without an extension."""
    root = tmp_path_factory.mktemp("checkout")
    for folder in ("rsd_fast", "cli", "kernels"):
        only_python = shutil.ignore_patterns("__pycache__", "_C*", "_native_skipped.txt")
        shutil.copytree(ROOT / folder, root / folder, ignore=only_python)
    shutil.copy(ROOT / "setup.py", root)
    (root / "rsd_fast" / "_version.py").write_text(f'__version__ = "{VERSION}"\n')
    with (root / "cli" / "__init__.py").open("a") as file:
        file.write("\nprint('commands of the copy')\n")
    return root


def run(root: Path, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1")


@pytest.mark.parametrize(
    "arguments",
    [("-m", "rsd_fast", "--version"), (*TORCHRUN, "-m", "rsd_fast", "--", "--version")],
    ids=["python", "torchrun"],
)
def test_commands_run_from_the_root(root: Path, arguments: tuple[str, ...]) -> None:
    output = run(root, *arguments)
    assert "commands of the copy" in output and VERSION in output


def test_packages_beside_the_package_are_imported_from_the_root(root: Path) -> None:
    code = "import rsd_fast.kernels, rsd_fast.cli.main as main; print(rsd_fast.kernels.__file__, main.__file__)"
    files = run(root, "-c", code).split()[-2:]
    assert files == [str(root / "kernels" / "__init__.py"), str(root / "cli" / "main.py")]


def test_a_checkout_without_its_extension_says_that_it_is_one(root: Path) -> None:
    # Without `site` an editable install elsewhere, whose extension would be found, is not there.
    packages = os.pathsep.join(path for path in sys.path if path and Path(path) != ROOT)
    output = run(root, "-S", "-m", "rsd_fast", "doctor", PYTHONPATH=packages)
    (reason,) = (line for line in output.splitlines() if "not built: " in line)
    assert f"this is the checkout {root}; `pip install -e .` builds the extension in it" in reason
    assert "a package that is installed elsewhere is found from another folder" in reason
