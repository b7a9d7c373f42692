"""Entry point: finds the command, and turns every failure into one line and an exit code.

Exit codes: 0 success, 1 a failure, 2 a usage error. Commands import torch inside, so that --help answers at once.
"""

import importlib
import os
import sys
import traceback
from typing import Any

import click

from rsd_fast import __version__
from rsd_fast.errors import FieldError

from .usage import about_option

# OpenMP threads that wait by spinning take the core from the thread they wait for, where another program runs, too:
# training was 8 times slower beside one busy core, and not measurably slower alone, than with the default of spinning
# longer. Read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

COMMANDS = (
    "pretrain",
    "distill",
    "sample",
    "evaluate",
    "report",
    "corrupt",
    "convert",
    "presets",
    "push",
    "demo",
    "doctor",
)


class Commands(click.Group):
    """Loads a command's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return getattr(importlib.import_module(f"rsd_fast.cli.{name}"), name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a FieldError becomes a usage error that names the option."""
        try:
            return super().invoke(ctx)
        except FieldError as error:
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            raise about_option(error, command or self) from error


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="rsd-fast")
def group() -> None:
    """Train one-step image generators from corrupted images alone.

    First `pretrain` learns a diffusion teacher from the observations, then `distill` turns it into a generator that
    makes clean images in one step. `demo` shows both on handwritten digits, in minutes.
    """


def main() -> None:
    debug = "--debug" in sys.argv
    try:
        group.main(args=[a for a in sys.argv[1:] if a != "--debug"], prog_name="rsd-fast", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted", 1)
    except click.ClickException as error:
        fail(error.format_message(), error.exit_code)
    except BrokenPipeError:  # the reader of our output has gone: nothing to say, and nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            traceback.print_exc()
            sys.exit(1)
        fail(describe(error), 1)


def describe(error: Exception) -> str:
    """One line for a person. What is no error of theirs says its type, too."""
    from rsd_fast.data import DataError
    from rsd_fast.engine import Interrupted, NonFiniteLoss
    from rsd_fast.runs import RunError

    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError | DataError | RunError | NonFiniteLoss | Interrupted | ValueError):
        return str(error)
    return f"{type(error).__name__}: {error} (run again with --debug for the traceback)"


def fail(message: str, code: int) -> None:
    print("Error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)
