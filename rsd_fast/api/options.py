"""The options of a function, which its command takes too."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeVar

from rsd_fast.errors import FieldError, nearest


class Dataclass(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


Options = TypeVar("Options", bound=Dataclass)


def options_of(kind: type[Options], command: str, values: Mapping[str, Any]) -> Options:
    """The dataclass `kind` of these values. FieldError, with the nearest known name, for one that it does not have."""
    known = [field.name for field in dataclasses.fields(kind)]
    for name in values:
        if name not in known:
            raise FieldError(name, f"unknown option of {command}{nearest(name, known)}")
    return kind(**values)
