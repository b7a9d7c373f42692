"""What a user may set of a run: the keywords of Python, the keys of a --config file and the options of a command."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from rsd_fast import presets
from rsd_fast.errors import FieldError, nearest

from .run import KINDS
from .setting import Option, as_text, options_of


def options(command: str) -> dict[str, Option]:
    """The options of "pretrain" or "distill", by name."""
    by_name: dict[str, Option] = {}
    for option in options_of(KINDS[command]):
        by_name.setdefault(option.name, option)
    return by_name


def check_settings(command: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values by option, in the options' types, without those that are None, which count as not given.

    FieldError for an unknown option, with the nearest known one, and for a value that it cannot have.
    """
    known = options(command)
    for name in values:
        if name not in known:
            raise FieldError(name, f"unknown setting of {command}{nearest(name, known)}")
    return {name: known[name].check(value) for name, value in values.items() if value is not None}


def of_preset(preset: presets.Preset, command: str, section: str) -> dict[str, Any]:
    """A preset's values for a section of the configuration of a command, by field."""
    if section == "training":
        return preset.pretrain if command == "pretrain" else preset.distill
    if section == "":
        return {"augment_probability": preset.augment_probability}
    return getattr(preset, section, {})


def help_text(option: Option) -> str:
    """What an option is for; with the words of its choices, where their records say something about them."""
    choices = option.setting.choices
    records = choices.items() if isinstance(choices, Mapping) else ()
    words = "; ".join(f"{name}: {record.about}" for name, record in records if hasattr(record, "about"))
    return f"{option.setting.help} {words}." if words else option.setting.help


def default_text(option: Option, command: str) -> str:
    """What an option is where it is not given, in words; "" where there is nothing to say."""
    own = option.setting.default_text or ("auto" if option.setting.auto else as_text(option.default))
    sections = [of_preset(preset, command, option.section) for preset in _every_preset()]
    setting_it = [option.field in section or option.name in section for section in sections]
    words = f"from the preset{_among([section[option.name] for section in sections if option.name in section])}"
    if all(setting_it):
        return words
    return ", or ".join(filter(None, [words if any(setting_it) else "", own]))


def _among(values: Sequence[Any]) -> str:
    """What presets say, in brackets: each value of a few, the range of more numbers, else nothing."""
    numbers = all(isinstance(value, int | float) for value in values)
    texts = list(dict.fromkeys(map(as_text, sorted(values) if numbers else values)))
    if len(texts) > 3:
        return f" ({texts[0]} to {texts[-1]})" if numbers else ""
    return f" ({', '.join(texts[:-1])} or {texts[-1]})" if len(texts) > 1 else "".join(f" ({text})" for text in texts)


@functools.cache
def _every_preset() -> list[presets.Preset]:
    return [presets.load(name) for name in presets.names()]
