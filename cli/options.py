"""Options that several commands share, and those of a run's settings, which are made of their definition.

The value of a setting's option is None where it is not given, so that a preset can fill it in.
"""

import functools
import math
import operator
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin

import click

from rsd_fast import config
from rsd_fast.errors import nearest

from .listed_help import ListedHelpOption

Command = TypeVar("Command", bound=Callable[..., Any])
Decorator = Callable[[Command], Command]


def join(*decorators: Decorator) -> Decorator:
    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


class Integers(click.ParamType):
    """Comma-separated integers, e.g. 1,2,2; `none` for no element."""

    name = "integers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        if value.strip().lower() == "none":
            return ()
        try:
            return tuple(int(item) for item in value.split(","))
        except ValueError:
            self.fail(f"expected integers with commas between, e.g. 1,2,2, got '{value}'", param, ctx)


class Number(click.FloatRange):
    """A finite number in a range; click's own lets nan and inf through."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number

    def _describe_range(self) -> str:
        return "" if self.min is None and self.max is None else super()._describe_range()


POSITIVE = Number(min=0, min_open=True)
AT_LEAST_0 = Number(min=0)
COUNT = click.IntRange(min=1)
SEED = click.IntRange(min=0, max=2**64 - 1)


class NoiseLevel(click.ParamType):
    """A number; two with a colon between, the least and the greatest of a range; `data`; or `estimate`."""

    name = "noise level"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str) or value in ("data", "estimate"):
            return value
        levels = [AT_LEAST_0.convert(part, param, ctx) for part in value.split(":")]
        if len(levels) > 2 or levels != sorted(levels):
            self.fail(f"expected a number, LEAST:GREATEST, data or estimate, got '{value}'", param, ctx)
        return levels[0] if len(levels) == 1 else tuple(levels)


class MicroBatch(click.ParamType):
    """A number of images, or `auto`."""

    name = "micro-batch"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "auto" or isinstance(value, int):
            return value
        if not value.isdecimal() or int(value) < 1:
            self.fail(f"expected a number of images or auto, got '{value}'", param, ctx)
        return int(value)


class Names(click.ParamType):
    """Comma-separated names."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(n.strip() for n in value.split(",") if n.strip())


class OneOf(click.ParamType):
    """One of the names that a registry holds when it is asked for, one of a user's own perhaps; `auto` where it is one
    more."""

    name = "choice"

    def __init__(self, choices: Collection[str], *, auto: bool = False) -> None:
        self.choices, self.auto = choices, auto

    @property
    def names(self) -> list[str]:
        return [*["auto"][: self.auto], *self.choices]

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(self.names)}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value not in self.names:
            known = ", ".join(map(repr, self.names))
            self.fail(f"'{value}' is not one of {known}{nearest(value, self.names) or '.'}", param, ctx)
        return value


TYPES: dict[Any, click.ParamType | None] = {
    bool: None,  # --x/--no-x
    str: click.STRING,
    str | Path: click.Path(),
    int | str: MicroBatch(),
    float | tuple[float, float] | str: NoiseLevel(),
    tuple[int, ...]: Integers(),
    tuple[str, ...]: Names(),
}


def param_type(setting: config.Option) -> click.ParamType | None:
    """What reads a setting from the command line, and checks its range or choices."""
    kind, details = setting.type, setting.setting
    if get_origin(kind) is not tuple and get_args(kind):  # a union; None stands for what is not given
        kind = functools.reduce(operator.or_, (member for member in get_args(kind) if member is not NoneType))
    if kind is str and details.choices is not None:
        return OneOf(details.choices, auto=details.auto)
    if kind not in (int, float):
        return TYPES[kind]
    least = details.at_least if details.more_than is None else details.more_than
    most = details.at_most if details.below is None else details.below
    if kind is float:
        return Number(least, most, min_open=details.more_than is not None, max_open=details.below is not None)
    return click.IntRange(
        None if least is None else int(least) + (details.more_than is not None),
        None if most is None else int(most) - (details.below is not None),
    )


def of_setting(setting: config.Option, command: str = "pretrain") -> Decorator:
    """The option of one setting."""
    name, details = setting.name.replace("_", "-"), setting.setting
    text, default = config.help_text(setting), config.default_text(setting, command)
    brackets = "; ".join(filter(None, [details.unit, default and f"default: {default}"]))
    return click.option(
        f"--{name}/--no-{name}" if setting.type is bool else f"--{name}",
        cls=ListedHelpOption,
        type=param_type(setting),
        default=None,
        metavar=details.metavar,
        help=f"{text}  [{brackets}]" if brackets else text,
    )


def of_settings(settings: Iterable[config.Option], command: str = "pretrain") -> Decorator:
    """The options of settings. command: whose presets fill them in."""
    return join(*(of_setting(setting, command) for setting in settings))


def of_command(command: str) -> Decorator:
    """The options of all settings of "pretrain" or "distill"."""
    return of_settings(config.options(command).values(), command)


clean_share, precision = (of_setting(config.options("pretrain")[name]) for name in ("clean_share", "precision"))

debug = click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
json_flag = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
device = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute.",
)
seed = click.option("--seed", type=SEED, default=0, show_default=True, help="Of all random numbers.")
# Every command takes --seed and --device; those that have no use for them, hidden.
unused_seed = click.option("--seed", type=SEED, expose_value=False, hidden=True)
of_every_command = join(
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), expose_value=False, hidden=True),
    unused_seed,
)
compile_network = click.option(
    "--compile/--no-compile", default=False, help="torch.compile the network, which takes minutes.  [default: no]"
)
cuda_graphs = click.option(
    "--cuda-graphs/--no-cuda-graphs",
    default=False,
    help="Replay a batch's kernels from a CUDA graph rather than launch them one by one.  [default: no]",
)
batch_out = click.option("--batch", type=COUNT, default=256, show_default=True, help="Images a forward pass.")
num = click.option("--num", type=COUNT, required=True, help="Number of images.")
heun_steps = click.option(
    "--steps",
    type=COUNT,
    default=18,
    show_default=True,
    help="Heun steps of a teacher (2 steps - 1 evaluations).",
)
truncate = click.option(
    "--truncate", is_flag=True, help="Stop a teacher's sampling at sigma_obs, below which it was not trained."
)

run = join(
    click.option("--out", metavar="RUN", required=True, type=click.Path(), help="Folder of the run."),
    click.option(
        "--config",
        metavar="FILE.json",
        type=click.Path(),
        help="Settings: a run's config.json or a part of one, or options by their names; options override it.",
    ),
    click.option("--resume", is_flag=True, help="Go on with the run in --out; an error if there is none."),
    click.option("--resume-or-start", is_flag=True, help="Go on with the run in --out, or start one."),
    click.option("--dry-run", is_flag=True, help="Print the resolved config as JSON and stop."),
    debug,
)
