"""SIGINT and SIGTERM, heeded between two steps."""

import contextlib
import signal
from types import FrameType, TracebackType
from typing import Any


class StopSignal:
    """While it is entered, the first SIGINT or SIGTERM sets `number`; a second one acts at once, as it did before.

    A signal that is ignored, as SIGINT is in a background job of a shell, stays ignored. Outside the main thread
    nothing changes.
    """

    number: int | None = None

    def __enter__(self) -> "StopSignal":
        self.handlers: dict[int, Any] = {}
        heeded = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
        with contextlib.suppress(ValueError):  # not in the main thread
            self.handlers = {number: signal.signal(number, self.stop) for number in heeded}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.put_back()

    def stop(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self.put_back()

    def put_back(self) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    @property
    def name(self) -> str | None:
        return None if self.number is None else signal.Signals(self.number).name
