"""What the resolution of settings tells the user beside its result."""

import sys


def say(message: str) -> None:
    """Print a line on stderr."""
    print(message, file=sys.stderr, flush=True)
