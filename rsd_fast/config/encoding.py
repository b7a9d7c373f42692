"""A configuration as JSON and back."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import MISSING
from typing import Any

from rsd_fast.errors import FieldError, nearest

from .run import KINDS, RunConfig
from .setting import Settings, is_settings, setting_of, types_of

FORMAT = 1  # the version of config.json and of the checkpoints' metadata


def to_json(config: RunConfig) -> str:
    return json.dumps({"format": FORMAT, **dataclasses.asdict(config)}, indent=2) + "\n"


def from_json(text: str) -> RunConfig:
    """The config of `to_json`. Raises ValueError that names an unknown, missing or ill-typed field."""
    return from_values(parse(text))


def parse(text: str) -> dict[str, Any]:
    """The object of a JSON text. Raises ValueError where it is none, or where its format is of a newer version."""
    try:
        values = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"expected an object, got {type(values).__name__}")
    written = values.get("format", FORMAT)
    if isinstance(written, int) and written > FORMAT:
        raise ValueError(f"written by a newer rsd-fast: format {written}; this one reads format {FORMAT}")
    return values


def from_values(values: Mapping[str, Any]) -> RunConfig:
    """The config of the object that `to_json` writes."""
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError("not the configuration of a run: 'kind' is neither pretrain nor distill")
    if values.get("format") != FORMAT:
        raise ValueError(f"written by another version of rsd-fast (this one reads format {FORMAT})")
    config = _decoded(KINDS[kind], {name: value for name, value in values.items() if name != "format"}, "")
    assert isinstance(config, RunConfig)
    return config


def _decoded(kind: type[Settings], values: Any, path: str) -> Settings:
    fields = decoded_fields(kind, values, path)
    variant = kind.variant(fields)
    for field in dataclasses.fields(variant):
        if field.name not in fields and field.default is MISSING:
            raise FieldError(f"{path}{field.name}", "missing")
    return variant(**fields)


def decoded_fields(kind: type[Settings], values: Any, path: str = "") -> dict[str, Any]:
    """Some fields of settings, by name, in their types. FieldError for an unknown or ill-typed one."""
    if not isinstance(values, dict):
        raise FieldError(path.rstrip(".") or "config", f"expected an object, got {type(values).__name__}")
    variant = kind.variant(values)
    kinds, fields = types_of(variant), {field.name: field for field in dataclasses.fields(variant)}
    for name in values:
        if name not in fields:
            raise FieldError(f"{path}{name}", f"unknown field{nearest(name, fields)}")
    return {
        name: _decoded(kinds[name], value, f"{path}{name}.")
        if is_settings(kinds[name])
        else setting_of(fields[name]).typed(f"{path}{name}", value, kinds[name])
        for name, value in values.items()
    }
