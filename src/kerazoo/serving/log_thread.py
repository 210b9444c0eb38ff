"""Write the log in a thread of its own: a log that nobody reads, such as a full pipe, must not hold up a server."""

import logging
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import QueueHandler

LINES = 10_000  # that wait to be written; more are dropped, and counted
NAME = "kerazoo-log"
SECONDS = 2.0  # for the last ones, at the end


class LogThread(QueueHandler):
    """A handler that gives records to others in a thread. `dropped` counts those that found no room."""

    def __init__(self, handlers: list[logging.Handler]) -> None:
        self._waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(LINES)
        super().__init__(self._waiting)
        self._handlers = handlers
        self.dropped = 0
        self._thread = threading.Thread(target=self._write, name=NAME, daemon=True)
        self._thread.start()

    def enqueue(self, record: logging.LogRecord) -> None:
        """Take a record, or drop it."""
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def end(self) -> None:
        """Write what waits, unless that takes long."""
        try:
            self._waiting.put(None, timeout=SECONDS)
        except queue.Full:
            return
        self._thread.join(SECONDS)

    def _write(self) -> None:
        while (record := self._waiting.get()) is not None:
            for handler in self._handlers:
                handler.handle(record)


@contextmanager
def log_in_thread(name: str = "kerazoo") -> Iterator[LogThread]:
    """Inside, a thread writes the records of the logger `name` to its handlers."""
    logger = logging.getLogger(name)
    handlers = logger.handlers
    thread = LogThread(list(handlers))
    logger.handlers = [thread]
    try:
        yield thread
    finally:
        logger.handlers = handlers
        thread.end()
