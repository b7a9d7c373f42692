"""Where sets of images go: an npz file or a folder of PNGs, never over what is there."""

from pathlib import Path

import click

from rsd_fast.data import DataError


def refuse_existing(out: str, suffixes: tuple[str, ...] = (".npz",)) -> None:
    """DataError where `out` exists (an empty folder is fine), usage error for a name that is neither kind."""
    path = Path(out)
    if path.suffix and path.suffix not in suffixes and not path.is_dir():
        raise click.UsageError(f"--out: expected {', '.join('FILE' + s for s in suffixes)} or a folder, got {out}")
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise DataError(f"{out}: exists already")
