"""Usage errors: what is wrong with a value of an option, in a line that names the option."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from rsd_fast.errors import FieldError


def about_option(error: FieldError, command: click.Command) -> click.UsageError:
    """The error of a setting as one of its option: `lr: ...` becomes `--lr: ...`. Of what is no option it stays."""
    options = {parameter.name: parameter.opts[0] for parameter in command.params}
    return click.UsageError(f"{options.get(error.field, error.field)}: {error.problem}")


@contextmanager
def usage_errors() -> Iterator[None]:
    """A ValueError that is not about a file becomes a usage error."""
    from rsd_fast.convert import CheckpointError
    from rsd_fast.data import DataError

    try:
        yield
    except (FieldError, DataError, CheckpointError):  # ValueErrors, too; `main.Commands` names the option of the first
        raise
    except ValueError as error:
        raise click.UsageError(str(error)) from None
