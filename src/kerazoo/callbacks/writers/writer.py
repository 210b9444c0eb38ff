"""What a logger needs of a writer, and the guard between them: a writer that fails is left out, and training continues.

A tag says what a value is: `gradients/conv_1/kernel/norm`. `step` counts the batches trained so far; of tags that
begin with `epoch/` it counts finished epochs (`epoch/train/loss`, `epoch/validation/loss`).
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, runtime_checkable

import numpy as np

from kerazoo.errors import InputError

log = logging.getLogger("kerazoo")

METHODS = ("config", "scalar", "histogram", "image", "text", "finish")
EPOCHS = "epoch/"  # tags that begin so count epochs


@runtime_checkable
class Writer(Protocol):
    """Where loggers write: any object with these six methods.

    Three more are called where a writer has them: `flush()` before a checkpoint is written; `rewind(step, epoch)`
    when a training is resumed from there: what was written of later steps and epochs comes again, so it must be
    removed or skipped; and `remove(prefix)` before all tags that begin so are written once more. A writer that was not
    rewound begins anew with its first value, so a logger writes none before the first batch. Steps rise.
    """

    def config(self, values: Mapping[str, Any]) -> None:
        """Keep the settings of the training, nested dicts and lists of JSON values."""

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Keep one number, which may be infinite or NaN."""

    def histogram(self, tag: str, counts: np.ndarray, edges: np.ndarray, step: int) -> None:
        """Keep how many values, `counts` (N,), lie between neighbours of `edges` (N + 1,), which rise."""

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """Keep one image, uint8, grey (H, W) or RGB (H, W, 3)."""

    def text(self, tag: str, text: str, step: int) -> None:
        """Keep a text."""

    def finish(self) -> None:
        """Write what is left, and close. A closed writer is not used again."""


class QuietWriter:
    """A writer that keeps nothing; a subclass overrides what it keeps."""

    def config(self, values: Mapping[str, Any]) -> None:
        """See Writer."""

    def scalar(self, tag: str, value: float, step: int) -> None:
        """See Writer."""

    def histogram(self, tag: str, counts: np.ndarray, edges: np.ndarray, step: int) -> None:
        """See Writer."""

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """See Writer."""

    def text(self, tag: str, text: str, step: int) -> None:
        """See Writer."""

    def finish(self) -> None:
        """See Writer."""


class GuardedWriter:
    """One writer for several, each of which may fail: it is then left out, and the log says so once."""

    def __init__(self, writers: "Writer | Sequence[Writer] | GuardedWriter") -> None:
        """Raises InputError where an object is no writer."""
        self._failed: set[int] = set()
        if isinstance(writers, GuardedWriter):
            self._failed = writers._failed  # what failed for one logger is left out by all
            writers = writers.writers
        self.writers: list[Writer] = list(writers) if isinstance(writers, list | tuple) else [writers]  # type: ignore[list-item]
        for writer in self.writers:
            missing = [name for name in METHODS if not callable(getattr(writer, name, None))]
            if missing:
                raise InputError(
                    f"{type(writer).__name__} is not a writer: it has no method {missing[0]}; a writer must have "
                    f"{', '.join(METHODS)}"
                )

    def _each(self, method: str, *arguments: Any) -> None:
        for writer in self.writers:
            if id(writer) in self._failed:
                continue
            call = getattr(writer, method, None)
            if call is None:
                continue
            try:
                call(*arguments)
            except Exception as error:  # whatever a tracker raises must not end a training
                self._failed.add(id(writer))
                log.info(f"{type(writer).__name__} stopped: {_reason(error)}; training continues without it")
                with suppress(Exception):
                    writer.finish()

    def config(self, values: Mapping[str, Any]) -> None:
        """See Writer."""
        self._each("config", values)

    def scalar(self, tag: str, value: float, step: int) -> None:
        """See Writer."""
        self._each("scalar", tag, float(value), step)

    def histogram(self, tag: str, counts: np.ndarray, edges: np.ndarray, step: int) -> None:
        """See Writer."""
        self._each("histogram", tag, counts, edges, step)

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """See Writer."""
        self._each("image", tag, pixels, step)

    def text(self, tag: str, text: str, step: int) -> None:
        """See Writer."""
        self._each("text", tag, text, step)

    def flush(self) -> None:
        """Have on disk what was written."""
        self._each("flush")

    def rewind(self, step: int, epoch: int) -> None:
        """Keep what was written up to `step` and `epoch`; see Writer."""
        self._each("rewind", step, epoch)

    def remove(self, prefix: str) -> None:
        """Remove what was written of tags that begin with `prefix`; see Writer."""
        self._each("remove", prefix)

    def finish(self) -> None:
        """Finish all writers."""
        self._each("finish")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return (str(error).strip() or type(error).__name__).splitlines()[0]
