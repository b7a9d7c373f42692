"""A setting is defined once, as a dataclass field: its default, what its value may be, and what it is for.

    lr: float = setting(2e-4, more_than=0, help="Adam's learning rate.")

`Settings` checks values by that, `options` lists what a user may set, and the command line makes its options of that
list.
"""

import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

from rsd_fast.errors import FieldError, nearest
from rsd_fast.registry import Registry

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a value may be, and how a user is told of it. The ranges and choices of a tuple are those of its items."""

    # In a sentence; "" where the field is no option. The command line puts lists in place of {sources}, {operators}.
    help: str = ""
    at_least: float | None = None
    more_than: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: Collection[str] | None = None  # what a text may be; a registry is read whenever a value is checked
    what: str = ""  # a choice in words, where one calls an unknown one unknown
    auto: bool = False  # an option may be "auto", too, of which a value is made before the field is set
    unit: str = ""
    metavar: str | None = None
    default_text: str = ""  # what the default is, where the field's own default does not say it
    type_text: str = ""  # what the value is, in words that the type does not have
    derived: bool = False  # it follows from the data or from other settings
    name: str | None = None  # the option's, where it is not the field's
    type: Any = None  # likewise
    takes: "Setting | None" = None  # what the option takes, where the field holds something else

    def typed(self, name: str, value: Any, kind: Any) -> Any:
        """The value, with tuples for lists and floats for integers as the type `kind` has them; else FieldError."""
        try:
            return cast(kind, value)
        except TypeError:
            expected = self.type_text or self._texts(kind) or type_name(kind)
            raise FieldError(name, f"expected {expected}, got {value!r}") from None

    def check(self, name: str, value: Any, kind: Any) -> Any:
        """The value as `typed` has it. FieldError where it is not finite, out of range or none of the choices, too."""
        value = self.typed(name, value, kind)
        each = " each" if isinstance(value, tuple) else ""
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, str) and self.choices is not None and not self._is_choice(item):
                known = f"unknown {self.what} '{item}'; known: {', '.join(self.choices)}{nearest(item, self.choices)}"
                raise FieldError(name, known if self.what else f"expected {self._texts(kind)}, got '{item}'")
            if isinstance(item, int | float) and not isinstance(item, bool) and not self._in_range(item):
                limits = self._limits(name)
                problem = f"expected {limits}{each}" if limits else "expected a finite number"
                raise FieldError(name, f"{problem}, got {list(value) if each else as_text(value)}")
        return value

    def _is_choice(self, value: str) -> bool:
        """Registries raise an error of their own."""
        assert self.choices is not None
        return self.choices[value] is not None if isinstance(self.choices, Registry) else value in self.choices

    def _in_range(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.at_least is None or value >= self.at_least)
            and (self.more_than is None or value > self.more_than)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def _texts(self, kind: Any) -> str:
        """The choices in words."""
        names = [*["auto"][: self.auto], *(self.choices or ())]
        if not names:
            return ""
        if any(member in (int, float) for member in _members(kind)):
            names = ["a number", *names]
        return " or ".join(names) if len(names) < 3 else f"one of {', '.join(names)}"

    def _limits(self, name: str) -> str:
        """The range in words."""
        low = self.at_least if self.more_than is None else self.more_than
        high = self.at_most if self.below is None else self.below
        if high is None:
            return "" if low is None else f"{'at least' if self.more_than is None else 'more than'} {_number(low)}"
        if low is None:
            return f"{'at most' if self.below is None else 'less than'} {_number(high)}"
        if self.more_than is None and self.below is None:
            return f"{_number(low)} to {_number(high)}"
        least, most = "<" if self.at_least is None else "<=", "<" if self.at_most is None else "<="
        return f"{_number(low)} {least} {name} {most} {_number(high)}"


def as_text(value: Any) -> str:
    """A value as one would type it; "" for none."""
    if value is None or value is MISSING:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(map(as_text, value)) or "none"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    power = math.frexp(value)[1] - 1
    return f"2^{power}" if power >= 32 and value == 2**power else f"{value:g}"


@overload
def setting(default: T, **details: Any) -> T: ...
@overload
def setting(**details: Any) -> Any: ...
def setting(default: Any = MISSING, **details: Any) -> Any:
    """A dataclass field. default: none where it has to be given. details: those of `Setting`."""
    return dataclasses.field(default=default, metadata={"setting": Setting(**details)})


def setting_of(field: "dataclasses.Field[Any]") -> Setting:
    return field.metadata.get("setting", Setting())


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A section of a run's configuration, or all of it. Raises FieldError for a value that a field cannot have."""

    def __post_init__(self) -> None:
        kinds = types_of(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            checked = setting_of(field).check(field.name, value, kinds[field.name])
            if isinstance(value, list):
                object.__setattr__(self, field.name, checked)

    @classmethod
    def variants(cls) -> tuple[type["Settings"], ...]:
        """The classes that may stand for this one, each with fields of its own."""
        return (cls,)

    @classmethod
    def variant(cls, values: Mapping[str, Any]) -> type["Settings"]:
        """The one among them that such values are of."""
        return cls

    @classmethod
    def as_options(cls, values: Mapping[str, Any], height: int | None = None) -> dict[str, Any]:
        """Values by field as values by option, for images of a height in pixels.

        Those of derived fields are left out. FieldError for one that is neither derived, nor an option, nor the
        default.
        """
        by_option = {}
        for field in dataclasses.fields(cls):
            details = setting_of(field)
            if field.name not in values or details.derived:
                continue
            if option_of(field, Any) is not None:
                by_option[(details.takes or details).name or field.name] = values[field.name]
            elif values[field.name] != field.default:
                problem = f"there is no option for it, and {values[field.name]!r} is not the default"
                raise FieldError(field.name, problem)
        return by_option


def types_of(kind: type[Settings]) -> dict[str, Any]:
    """The types of the fields, by name."""
    return typing.get_type_hints(kind)


@dataclass(frozen=True, kw_only=True)
class Option:
    """What a user may set: a keyword of Python, a key of a --config file, and, with dashes, an option of a command."""

    name: str
    type: Any
    setting: Setting
    field: str
    section: str = ""  # the part of the configuration it is in; "" at its top
    default: Any = MISSING

    def check(self, value: Any) -> Any:
        """The value in the option's type. FieldError for one that it cannot have."""
        if self.setting.auto and value == "auto":
            return value
        return self.setting.check(self.name, value, self.type)


def option_of(field: "dataclasses.Field[Any]", kind: Any, section: str = "") -> Option | None:
    """The option that sets a field of a type; None where there is none."""
    details = setting_of(field)
    asked = details.takes or details
    if not asked.help:
        return None
    return Option(
        name=asked.name or field.name,
        type=kind if asked.type is None else asked.type,
        setting=asked,
        field=field.name,
        section=section,
        default=field.default if details.takes is None else MISSING,
    )


def options_of(kind: type[Settings], section: str = "") -> Iterator[Option]:
    """The options of a section, or of all sections of a configuration."""
    for variant in kind.variants():
        kinds = types_of(variant)
        for field in dataclasses.fields(variant):
            nested = kinds[field.name]
            if is_settings(nested):
                if not setting_of(field).derived:
                    yield from options_of(nested, field.name)
            elif (option := option_of(field, nested, section)) is not None:
                yield option


def is_settings(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Settings)


def _members(kind: Any) -> tuple[Any, ...]:
    """The types of a union; of any other the type itself."""
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


def cast(kind: Any, value: Any) -> Any:
    """The value as one of the type: a tuple of a list, a float of an integer. TypeError where it is none."""
    for member in _members(kind):
        if member is Any or (member is types.NoneType and value is None):
            return value
        items = typing.get_args(member)
        if items and isinstance(value, list | tuple):
            kinds = [items[0]] * len(value) if items[-1] is ... else list(items)
            if len(kinds) == len(value):
                return tuple(cast(item_kind, item) for item_kind, item in zip(kinds, value, strict=True))
        elif member is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
            return float(value)
        elif member is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
            return int(value)
        elif isinstance(member, type) and not items and isinstance(value, member):
            if not (member is int and isinstance(value, bool)):
                return str(value) if member is Path else value
    raise TypeError(value)


def type_name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
