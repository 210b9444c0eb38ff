"""SIGTERM for a whole command."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stoppable() -> Iterator[None]:
    """Within, SIGTERM ends the command as an error would: what is half-written goes, a run is marked interrupted.

    Training puts its own handler in the place of this one. Without any, the first process of a container ignores it.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
