"""The settings of both stages by name, which are those of the commands' options, and the types of their values."""

import dataclasses
import numbers
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rsd_fast.config import Distillation, Monitoring, Network, Objective, Training
from rsd_fast.data import DataError
from rsd_fast.errors import FieldError, nearest

Settings = dict[str, Any]  # every setting of a stage by its name; None where it was not given

# Fields of a config that follow from the data or from other settings, or that describe imported weights.
DERIVED = frozenset({"augment_dim", "attn_levels", "preconditioning", "name"})
OF_RUNS = {"out": Any, "resume": bool, "resume_or_start": bool, "preset": str, "config": Any}
OF_OBSERVATIONS = {
    "data": Any,  # a path, an array, a tensor or a data set
    "simulate": bool,
    "corruption": Any,  # SPEC or operator
    "sigma_obs": Any,  # `noise.NoiseSetting`
    "clean_share": float,
    "augment": str,
    "cond": bool,
}


def types_of(*sections: type) -> dict[str, Any]:
    """{setting: its type} of a config's sections."""
    return {name: hint for kind in sections for name, hint in typing.get_type_hints(kind).items()}


OF_OBJECTIVES = {"objective": str, "attn_resolutions": tuple[int, ...], "augment_probability": float}
PRETRAIN = OF_RUNS | OF_OBSERVATIONS | OF_OBJECTIVES | types_of(Network, Objective, Training, Monitoring)
# The observations of a distillation are its teacher's: they are given again only where they cannot be opened.
DISTILL = OF_RUNS | {"teacher": Any, "data": Any, "corruption": Any} | types_of(Distillation, Training, Monitoring)
STAGES: dict[str, dict[str, Any]] = {
    "pretrain": {name: hint for name, hint in PRETRAIN.items() if name not in DERIVED},
    "distill": {name: hint for name, hint in DISTILL.items() if name not in DERIVED},
}


def complete(stage: str, settings: Mapping[str, Any]) -> Settings:
    """Every setting of the stage, None where it was not given; those of `config` stand under the others.

    Raises FieldError for an unknown name, and for a value of another type.
    """
    known = STAGES[stage]
    over = {name: value for name, value in settings.items() if value is not None}
    settings = {**in_config(settings.get("config"), stage), **over}
    for name in settings:
        if name not in known:
            raise FieldError(name, f"unknown setting of {stage}{nearest(name, known)}")
    return {name: typed(name, settings.get(name), hint) for name, hint in known.items()}


def in_config(config: Any, stage: str) -> Mapping[str, Any]:
    """The settings in `config`: a dict of settings, or a JSON file, which may be the config.json of a run."""
    if config is None or isinstance(config, Mapping):
        return config or {}
    from rsd_fast.config.files import settings_from_file

    return settings_from_file(config, stage)


def typed(name: str, value: Any, hint: Any) -> Any:
    """The value as its type wants it, a list as a tuple and a whole number as a float. FieldError where it is none."""
    if value is None or hint is Any:
        return value
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if typing.get_origin(option) is tuple and isinstance(value, list | tuple):
            return tuple(typed(name, item, typing.get_args(option)[0]) for item in value)
        if isinstance(value, bool) or option in (bool, str):
            if isinstance(option, type) and isinstance(value, option):
                return value
        elif option is int and isinstance(value, numbers.Integral):
            return int(value)
        elif option is float and isinstance(value, numbers.Real):
            return float(value)
    raise FieldError(name, f"expected {' or '.join(filter(None, map(_in_words, options)))}, got {value!r}")


def _in_words(hint: Any) -> str:
    if typing.get_origin(hint) is tuple:
        return "a list, each element of it " + _in_words(typing.get_args(hint)[0])
    return {float: "a number", int: "a whole number", bool: "True or False", str: "a string"}.get(hint, "")


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
