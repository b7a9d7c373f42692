"""Errors that say which setting they are about."""

import difflib
from collections.abc import Iterable


class FieldError(ValueError):
    """A value that a setting cannot have; `field` is the setting's name, and the message begins with it.

    The command line names the option instead: `lr: ...` becomes `--lr: ...`.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field, self.problem = field, problem


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" of the known name that looks most like `name`, or nothing where none does."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{matches[0]}'?" if matches else ""
