"""What a reader is: one kind of source, and everything that lists of sources say of it."""

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from rsd_fast.registry import Registry

from .errors import optional_package
from .rules import Contents


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One kind of source. The modules of `rsd_fast.data.readers` register theirs in READERS.

    about:    the kind in words, for lists: "an EDM-style .zip"
    brief:    the same in a word or two, for the help of an option: ".zip"
    read:     its images and what comes with them; DataError or OSError where that is impossible
    names:    sources that are known by name rather than by a path
    suffixes: how names of its files end, in lower case
    claims:   takes a path that is there, perhaps a folder, and says whether it is of this kind, where no suffix tells
    fallback: only what no other reader takes is of this kind
    package, extra: a package that reading needs and that not every installation has, and the extra of this library
              that brings it
    """

    about: str
    brief: str
    read: Callable[[Path], Contents]
    names: Collection[str] = ()
    suffixes: tuple[str, ...] = ()
    claims: Callable[[Path], bool] | None = None
    fallback: bool = False
    package: str = ""
    extra: str = ""

    def takes(self, path: Path) -> bool:
        """Is what lies at `path` of this kind?"""
        if path.is_file() and path.name.lower().endswith(self.suffixes):
            return True
        return self.claims is not None and self.claims(path)

    def open(self, path: Path) -> Contents:
        """`read`, after a DataError that names the extra to install where the package is not there."""
        if self.package:
            optional_package(self.package, extra=self.extra, purpose=f"{path}: reading {self.about}")
        return self.read(path)

    def short_name(self, path: Path) -> str:
        """What lies at `path` in a word: the name of the file, resolved, without its suffix."""
        name = path.resolve().name
        if path.is_dir():
            return name
        suffixes = [suffix for suffix in self.suffixes if name.lower().endswith(suffix)]
        return name[: len(name) - max(map(len, suffixes), default=0)]


READERS: Registry[Reader] = Registry("data", "reader")


def reader_of(src: str | os.PathLike[str]) -> Reader | None:
    """The reader of a source, None where none takes it."""
    readers = _in_order()
    for reader in readers:
        if src in reader.names:
            return reader
    path = Path(src)
    return next((reader for reader in readers if path.exists() and reader.takes(path)), None)


def kinds() -> str:
    """All kinds of sources in words: "a folder of images, ..., or the name of a bundled set (digits)"."""
    return _listed([reader.about for reader in _in_order()])


def brief_kinds() -> str:
    """`kinds` for the help of an option: "folder, ..., .zip, or a bundled set (digits)"."""
    return _listed([reader.brief for reader in _in_order()])


def _in_order() -> list[Reader]:
    """The readers as they are asked: those that take what is left come last."""
    return sorted(READERS.values(), key=lambda reader: reader.fallback)


def _listed(words: list[str]) -> str:
    """The words of readers `_in_order`, the most general one first."""
    *others, last = reversed(words)
    return f"{', '.join(others)}, or {last}" if others else last
