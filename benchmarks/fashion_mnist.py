"""Fashion-MNIST at 16x16, from the Debian package dataset-fashion-mnist (MIT licence), and what the benchmarks that
train on it share: the network, the two commands, their options."""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from rsd_fast.data import open_source, write_npz

FOLDER = Path("/usr/share/datasets/fashion-mnist")
VARIABLE = "RSD_FAST_FASHION_MNIST"
SIZE = 16
PRETRAIN_KIMG = 60
NETWORK = "--preset small --model-channels 32 --channel-mult 1,2,2 --num-blocks 1 --attn-resolutions none"


def find() -> Path:
    """train-images-idx3-ubyte.gz: what the environment variable names (the file or its folder), or the package's."""
    path = Path(os.environ.get(VARIABLE) or FOLDER)
    if path.is_dir():
        path /= "train-images-idx3-ubyte.gz"
    if not path.is_file():
        sys.exit(f"{path}: no such file; apt-get install dataset-fashion-mnist, or set {VARIABLE} to the file")
    return path


def small_images(size: int = SIZE) -> np.ndarray:
    """[60000, 1, size, size] uint8: padded with background from 28x28 to 32x32, then means of square blocks, rounded.

    The order is the file's, whose labels lie in train-labels-idx1-ubyte.gz. Raises ValueError unless size divides 32.
    """
    if size < 1 or 32 % size:
        raise ValueError(f"size: expected a divisor of 32, got {size}")
    images = np.pad(open_source(find()).images, [(0, 0), (0, 0), (2, 2), (2, 2)])  # [N, 1, 32, 32]
    block = 32 // size
    sums = images.reshape(len(images), 1, size, block, size, block).sum((3, 5), dtype=np.uint32)
    return ((sums + block**2 // 2) // block**2).astype(np.uint8)


def add_options(parser: argparse.ArgumentParser, rows: Iterable[str], num: int) -> None:
    """Add the options of every benchmark of several rows, a row being a teacher and what becomes of it."""
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--rows", default=",".join(rows), help="comma-separated; default: all")
    parser.add_argument("--length", type=float, default=1.0, help="length of all training, times the rows' own  [1]")
    parser.add_argument("--num", type=int, default=num, help="samples of each model")
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"), help="precision of sampling")
    parser.add_argument("--seed", type=int, default=0)


def chosen(parser: argparse.ArgumentParser, options: argparse.Namespace, rows: Iterable[str]) -> tuple[list[str], Path]:
    """(names of --rows, the data set in --out, which is written if it is not there).

    An unknown row is a usage error.
    """
    names, known = [name.strip() for name in options.rows.split(",")], list(rows)
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"--rows: unknown row '{unknown[0]}'; known: {', '.join(known)}")
    options.out.mkdir(parents=True, exist_ok=True)
    data = options.out / f"fashion-mnist-{SIZE}.npz"
    if not data.exists():
        write_npz(data, small_images())
    return names, data


def run_command(command: str, seed: int) -> None:
    """Run a command of rsd-fast that trains; where it was stopped before, it goes on."""
    arguments = [*shlex.split(command), "--resume-or-start", "--seed", str(seed)]
    subprocess.run([sys.executable, "-m", "rsd_fast", *arguments], check=True)
