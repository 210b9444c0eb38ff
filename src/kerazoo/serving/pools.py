"""Threads that decode and wait for the network, and whether they still work."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from kerazoo.serving.codes import BUSY, RequestError

STALLED = 60.0  # seconds without an end of anything, while something waits
P = ParamSpec("P")
T = TypeVar("T")


class Pool:
    """`threads` threads under a `name`, used from one event loop."""

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self._alive: list[threading.Thread] = []
        self._executor = ThreadPoolExecutor(threads, name, initializer=self._begin)
        self._pending = 0
        self._last = time.monotonic()

    def _begin(self) -> None:
        self._alive.append(threading.current_thread())

    async def run(self, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """The result of `function` in one of the threads. If the caller is cancelled, the thread goes on."""
        if not self._pending:
            self._last = time.monotonic()
        job = asyncio.get_running_loop().run_in_executor(self._executor, lambda: function(*arguments, **options))
        self._pending += 1
        job.add_done_callback(self._done)
        return await asyncio.shield(job)

    def _done(self, job: "asyncio.Future[T]") -> None:
        self._pending -= 1
        self._last = time.monotonic()
        if not job.cancelled():
            job.exception()  # so that nobody warns of an error that nobody waits for

    @property
    def is_busy(self) -> bool:
        """Whether a job has not ended."""
        return self._pending > 0

    def trouble(self) -> str:
        """What is wrong: a thread that ended, or jobs that do not end; "" if nothing is."""
        ended = sum(not thread.is_alive() for thread in self._alive)
        if ended:
            return f"{ended} of {len(self._alive)} threads of '{self.name}' ended"
        silent = time.monotonic() - self._last
        if self._pending and silent > STALLED:
            return f"'{self.name}' has {self._pending} jobs and finished none for {silent:.0f} s"
        return ""

    def close(self) -> None:
        """Let the threads end, without waiting for a job that never does."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class Slots:
    """At most `most` images, or what `unit` says, at a time. May be used from any thread."""

    def __init__(self, most: int, unit: str = "images") -> None:
        self.most = most
        self.unit = unit
        self.used = 0
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Take `count` slots. Raises RequestError if there are not so many."""
        with self._lock:
            if self.used + count > self.most:
                raise RequestError(
                    f"the server is busy with {self.used} {self.unit} and takes {self.most} at a time; try again", BUSY
                )
            self.used += count

    def give(self, count: int) -> None:
        """Give slots back."""
        with self._lock:
            self.used -= count
