"""Settings from a file: a run's config.json, or a part of one, as the options of a command."""

import dataclasses
from collections.abc import Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from rsd_fast import presets
from rsd_fast.errors import FieldError, nearest

from .encoding import decoded_fields, from_values, parse
from .observations import Observations
from .options import check_settings, of_preset
from .run import KINDS, RunConfig
from .setting import Settings, as_text, is_settings, setting_of, types_of


def settings_from_file(path: str | Path, command: str) -> dict[str, Any]:
    """The settings in a JSON file by the names of a command's options, "pretrain" or "distill", in their types.

    The file holds a run's config.json, or a part of it: some of its sections, some of their fields, or options by their
    names. The whole config of a run gives what repeats the run: of what its preset, or the default, says anyway,
    nothing is returned, as an option that changes nothing may be refused. What the data says (shapes, the number of
    images) is not returned, and of a distillation nothing of what its teacher's config says.

    Raises ValueError of one line that names the file, and the field where it is about one; OSError where the file
    cannot be read.
    """
    try:
        return settings_of(parse(Path(path).read_text(encoding="utf-8")), command)
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not JSON: it is no text") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def settings_of(values: Mapping[str, Any], command: str) -> dict[str, Any]:
    """The same of the object that a JSON file holds."""
    kind = values.get("kind", command)
    if kind != command:
        raise FieldError("kind", f"is of a run of rsd-fast {kind}, of which {command} takes no settings")
    whole = {"kind", *_sections(command)} <= values.keys()
    return check_settings(command, _of_run(from_values(values)) if whole else _of_part(values, command))


def _sections(command: str) -> set[str]:
    """The sections that a configuration cannot lack."""
    kind, kinds = KINDS[command], types_of(KINDS[command])
    return {f.name for f in dataclasses.fields(kind) if f.default is MISSING and is_settings(kinds[f.name])}


def _of_run(config: RunConfig) -> dict[str, Any]:
    preset = presets.load(config.preset)
    height = config.observations.observation_shape[1]
    by_option: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if setting_of(field).derived:
            continue
        if isinstance(value, Settings):
            fields = _beyond(value, of_preset(preset, config.kind, field.name))
            _merge(by_option, type(value).as_options(fields, height))
        else:
            by_option[field.name] = value
    return by_option


def _beyond(section: Settings, preset: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are not what the preset or the default says; those whose default depends on more, always."""
    fields = {}
    for field in dataclasses.fields(section):
        value, details = getattr(section, field.name), setting_of(field)
        otherwise = preset.get(field.name, field.default)
        if value is None and otherwise not in (None, MISSING):
            raise FieldError(field.name, f"is null, and no option takes the preset's {as_text(otherwise)} away")
        if value != otherwise or details.default_text or details.auto or details.takes is not None:
            fields[field.name] = value
    return fields


def _of_part(values: Mapping[str, Any], command: str) -> dict[str, Any]:
    kind = KINDS[command]
    sections = {name: section for name, section in types_of(kind).items() if is_settings(section)}
    derived = {field.name for field in dataclasses.fields(kind) if setting_of(field).derived}
    by_option: dict[str, Any] = {}
    for name, value in values.items():
        if name == "format" or name in derived:
            continue
        if isinstance(value, dict) and name not in sections:
            raise FieldError(name, f"is no section of {command}; known: {', '.join(sections)}{nearest(name, sections)}")
        if isinstance(value, dict):
            section = sections[name]
            fields = decoded_fields(section, value, f"{name}.")
            _merge(by_option, section.variant(fields).as_options(fields, _height(values.get("observations"))))
        else:
            _merge(by_option, {name.replace("-", "_"): value})
    return by_option


def _height(observations: Any) -> int | None:
    """The height of the observations, where the file says it."""
    if not isinstance(observations, dict) or "observation_shape" not in observations:
        return None
    return decoded_fields(Observations, observations, "observations.")["observation_shape"][1]


def _merge(by_option: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        if name in by_option and by_option[name] != value:
            raise FieldError(name, f"is both {by_option[name]!r} and {value!r}, in different sections")
        by_option[name] = value
