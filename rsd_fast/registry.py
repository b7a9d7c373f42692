"""Records by name: the one place that lists what there is of a kind."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

from .errors import FieldError, nearest

Record = TypeVar("Record")


class Registry(Mapping[str, Record]):
    """Records by name, in the order in which they were added.

    field: the setting that takes such a name. what: a record in words, for errors. auto: is "auto" a name, too, in
    lists of what is known?
    """

    def __init__(self, field: str, what: str, *, auto: bool = False) -> None:
        self.field, self.what, self.auto = field, what, auto
        self._records: dict[str, Record] = {}

    def add(self, name: str, record: Record) -> Record:
        """Register; ValueError for a name that is taken."""
        if name in self._records:
            raise ValueError(f"{self.what} '{name}': the name is taken")
        self._records[name] = record
        return record

    def __getitem__(self, name: str) -> Record:
        """The record. FieldError, which lists the known names, for an unknown one."""
        if name not in self._records:
            known = ["auto"] * self.auto + list(self._records)
            raise FieldError(
                self.field, f"unknown {self.what} '{name}'; known: {', '.join(known)}{nearest(name, known)}"
            )
        return self._records[name]

    def __contains__(self, name: object) -> bool:
        return name in self._records

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)
