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


class Terminated(SystemExit):
    """SIGTERM asked the command to stop."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Within, SIGTERM ends the command as an error would: what is half-written goes, a run is marked interrupted.

    Training puts its own handler in the place of this one. Without any, the first process of a container ignores it.
    Python swallows what is raised inside a destructor, and TensorFlow has many: a SIGTERM or Ctrl-C that falls into one
    is sent once more.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated(128 + number)

    def swallowed(unraisable: Any) -> None:
        number = {Terminated: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}.get(unraisable.exc_type)
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
        signal.signal(signal.SIGTERM, before)
