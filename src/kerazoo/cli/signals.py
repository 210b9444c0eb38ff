"""Handle SIGTERM and Ctrl-C for a whole command."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

AGAIN = 0.05  # seconds until a signal that Python swallowed is sent again


class TerminatedError(SystemExit):
    """SIGTERM asked the command to stop."""


@contextmanager
def stoppable(*, at_the_end: bool = False) -> Iterator[None]:
    """Inside, SIGTERM ends the command like an error: temporary files are removed, and a run is marked as interrupted.

    `at_the_end` means that the process ends after this. SIGTERM and Ctrl-C are then ignored, because the work is done
    or undone and the exit code is fixed. (Python removes its handlers before the process ends, but ignored signals stay
    ignored.) Otherwise the old handlers are restored.

    Training replaces this handler by its own. Without a handler, the first process of a container ignores SIGTERM.
    Python swallows exceptions inside destructors, of which TensorFlow has many. A signal that arrives in one is
    therefore sent again.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise TerminatedError(128 + number)

    def swallowed(unraisable: Any) -> None:
        number = {TerminatedError: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}.get(unraisable.exc_type)
        if number is None:
            hook(unraisable)
        else:
            threading.Timer(AGAIN, os.kill, (os.getpid(), number)).start()

    before = signal.signal(signal.SIGTERM, stop)
    hook = sys.unraisablehook
    sys.unraisablehook = swallowed
    try:
        yield
    finally:
        sys.unraisablehook = hook
        if at_the_end:
            _ignore_stops()
        else:
            signal.signal(signal.SIGTERM, before)


def _ignore_stops() -> None:
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
    except (TerminatedError, KeyboardInterrupt):  # a signal arrived just before
        _ignore_stops()
        raise
