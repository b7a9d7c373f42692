"""The settings of both stages by name, which are those of the commands' options, and what of them was given."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rsd_fast import config
from rsd_fast.data import DataError
from rsd_fast.errors import FieldError, nearest

Settings = dict[str, Any]  # every setting of a stage by its name; None where it was not given

OF_RUNS = ("out", "resume", "resume_or_start", "config")
# What may be given as objects. The observations of a distillation are its teacher's: they and their operator are given
# again only where they cannot be opened.
OBJECTS = {"pretrain": ("data", "corruption"), "distill": ("teacher", "data", "corruption")}
STAGES: dict[str, tuple[str, ...]] = {
    stage: tuple(dict.fromkeys((*OF_RUNS, *objects, *config.options(stage)))) for stage, objects in OBJECTS.items()
}


def complete(stage: str, settings: Mapping[str, Any]) -> Settings:
    """Every setting of the stage, None where it was not given; those of `config` stand under the others.

    Raises FieldError for an unknown name, and for a value that a setting cannot have.
    """
    known = STAGES[stage]
    named = {name: value for name, value in settings.items() if value is not None}
    named = {**in_config(named.get("config"), stage), **named}
    for name in named:
        if name not in known:
            raise FieldError(name, f"unknown setting of {stage}{nearest(name, known)}")
    apart = {name: named.pop(name) for name in (*OF_RUNS, *OBJECTS[stage]) if name in named}
    # A number may be a tensor or an array without dimensions.
    named = {name: value.item() if getattr(value, "ndim", None) == 0 else value for name, value in named.items()}
    return {**dict.fromkeys(known), **apart, **config.check_settings(stage, named)}


def in_config(source: Any, stage: str) -> Mapping[str, Any]:
    """The settings in `config`: a run's config or a part of one, as a dict or a JSON file."""
    if source is None:
        return {}
    if isinstance(source, Mapping):
        return config.settings_of(source, stage)
    try:
        return config.settings_from_file(source, stage)
    except ValueError as error:
        raise FieldError("config", str(error)) from None


def fields_of(section: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the given settings that are fields of a config's section."""
    names = {field.name for field in dataclasses.fields(section)}
    return {name: value for name, value in settings.items() if name in names and value is not None}


@contextmanager
def about(field: str) -> Iterator[None]:
    """A ValueError becomes a FieldError of that setting, unless it is of another one already, or of the data."""
    try:
        yield
    except DataError:
        raise
    except FieldError as error:
        if any(error.field in known for known in STAGES.values()):
            raise
        raise FieldError(field, error.problem) from None
    except ValueError as error:
        raise FieldError(field, str(error)) from None
