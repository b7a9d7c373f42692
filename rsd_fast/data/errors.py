"""The one error of image sources."""

import importlib
from types import ModuleType


class DataError(ValueError):
    """A source that cannot be read: one line that names the file and says what is wrong with it."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


def first_line(error: BaseException) -> str:
    """What a library's exception says, short enough to end a line of ours."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def missing_package(package: str, *, extra: str, purpose: str) -> DataError:
    """The error that says what `purpose` needs, and the extra of this package that brings it."""
    return DataError(f"{purpose} needs {package}: pip install 'rsd-fast[{extra}]'")


def optional_package(module: str, *, extra: str, purpose: str) -> ModuleType:
    """The module, of a package that not every installation has.

    Raises DataError where it cannot be imported, that of `missing_package` where it is not there.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing_package(package, extra=extra, purpose=purpose) from error
    except ImportError as error:
        raise DataError(f"{purpose} needs {package}, which cannot be imported ({first_line(error)})") from error
