"""SIGTERM and Ctrl-C for a whole command."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

AGAIN = 0.05  # seconds until a stop that was swallowed is asked for once more


class TerminatedError(SystemExit):
    """SIGTERM asked the command to stop."""


@contextmanager
def stoppable(*, at_the_end: bool = False) -> Iterator[None]:
    """Within, SIGTERM ends the command as an error would: what is half-written goes, a run is marked interrupted.

    `at_the_end` says that the process ends after this: SIGTERM and Ctrl-C are ignored from then on, since the work is
    done or undone and the exit code is settled. (Python puts its handlers away before the process has ended; what is
    ignored stays so.) Otherwise the handlers are put back.

    Training puts its own handler in the place of this one. Without any, the first process of a container ignores it.
    Python swallows what is raised inside a destructor, and TensorFlow has many: a SIGTERM or Ctrl-C that falls into one
    is sent once more.
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
    except (TerminatedError, KeyboardInterrupt):  # one came just before
        _ignore_stops()
        raise
