"""Where the seconds of a run went: one part of the work at a time, each counted without the parts within it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from kerazoo.startup import take_start_seconds

REST = "everything else"


class Timings:
    """Seconds by part, in the order of their first beginning. `whole` adds the rest, up to now."""

    def __init__(self) -> None:
        self.begin = time.perf_counter()
        self.start = take_start_seconds()
        self.seconds: dict[str, float] = {}
        self.within: list[float] = []  # seconds of the parts within each open part

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time inside for `name`, but for that of the parts that begin inside."""
        self.seconds.setdefault(name, 0.0)
        self.within.append(0.0)
        begin = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - begin
            self.seconds[name] += took - self.within.pop()
            if self.within:
                self.within[-1] += took

    def whole(self) -> dict[str, float]:
        """{part: seconds}, with the start of TensorFlow, which came before, and the rest."""
        rest = time.perf_counter() - self.begin - sum(self.seconds.values())
        parts = {"starting TensorFlow": self.start, **self.seconds, REST: rest}
        return {name: round(seconds, 2) for name, seconds in parts.items()}


_current: ContextVar[Timings | None] = ContextVar("timings", default=None)


@contextmanager
def timing() -> Iterator[Timings]:
    """Inside, `timed` counts for the timings that this gives; those of a run within a run are its own."""
    timings = Timings()
    token = _current.set(timings)
    try:
        yield timings
    finally:
        _current.reset(token)


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Count the time inside for the part `name` of the run that is being timed, if one is."""
    timings = _current.get()
    if timings is None:
        yield
        return
    with timings.part(name):
        yield


def spent() -> dict[str, float]:
    """The timings, so far, of the run that is being timed; {} if none is."""
    timings = _current.get()
    return {} if timings is None else timings.whole()
