"""The one error of image sources."""


class DataError(ValueError):
    """A source that cannot be read: one line that names the file and says what is wrong with it."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


def first_line(error: BaseException) -> str:
    """What a library's exception says, short enough to end a line of ours."""
    return (str(error).splitlines() or [type(error).__name__])[0]
