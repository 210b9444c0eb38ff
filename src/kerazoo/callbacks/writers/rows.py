"""What W&B and Trackio share: the values of a step are one row, which one call logs."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from kerazoo.callbacks.writers.pictures import check_pixels
from kerazoo.callbacks.writers.tags import counts_epochs


class RowWriter(ABC):
    """A writer that gathers values into rows.

    A run begins with the first value, so that a `rewind` before it can go on with an earlier one. What that one has
    already is not logged again: trackers remove nothing, and a training that goes on gives the same values.
    """

    def __init__(self) -> None:
        self._settings: dict[str, Any] = {}
        self._rows: dict[str, tuple[int, dict[str, Any]]] = {}  # by what the step counts: its number, and the values
        self._landed: set[tuple[str, int]] = set()
        self._open = False
        self._finished = False

    @abstractmethod
    def _begin(self, settings: dict[str, Any], *, resume: bool) -> None:
        """Begin a run, or go on with the one there is."""

    @abstractmethod
    def _read(self) -> set[tuple[str, int]]:
        """The (tag, step) pairs that the resumed run already has."""

    @abstractmethod
    def _log(self, axis: str, at: int, row: dict[str, Any]) -> None:
        """Log a row; `axis` is "step" or "epoch", and `at` its number."""

    @abstractmethod
    def _settle(self) -> None:
        """Wait until what was logged is kept, whatever becomes of this process."""

    @abstractmethod
    def _end(self) -> None:
        """Finish the run."""

    @abstractmethod
    def _histogram(self, counts: np.ndarray, edges: np.ndarray) -> Any:
        """A histogram as the tracker takes it."""

    @abstractmethod
    def _image(self, image: Image.Image) -> Any:
        """An image as the tracker takes it."""

    @abstractmethod
    def _text(self, text: str) -> Any:
        """A text as the tracker takes it."""

    def config(self, values: Mapping[str, Any]) -> None:
        """See Writer. Taken before the first value."""
        self._settings = dict(values)

    def scalar(self, tag: str, value: float, step: int) -> None:
        """See Writer."""
        if self._is_new(tag, step):
            self._add(tag, value, step)

    def histogram(self, tag: str, counts: np.ndarray, edges: np.ndarray, step: int) -> None:
        """See Writer."""
        if self._is_new(tag, step):
            self._add(tag, self._histogram(np.array(counts), edges), step)

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """See Writer."""
        check_pixels(pixels)
        if self._is_new(tag, step):
            self._add(tag, self._image(Image.fromarray(np.array(pixels))), step)

    def text(self, tag: str, text: str, step: int) -> None:
        """See Writer."""
        if self._is_new(tag, step):
            self._add(tag, self._text(text), step)

    def _is_new(self, tag: str, step: int) -> bool:
        if not self._open:
            self._start(resume=False)
        return (tag, step) not in self._landed

    def _start(self, *, resume: bool) -> None:
        self._begin(self._settings, resume=resume)
        self._open = True

    def _add(self, tag: str, value: Any, step: int) -> None:
        axis = "epoch" if counts_epochs(tag) else "step"
        at, row = self._rows.get(axis, (step, {}))
        if row and (at != step or tag in row):
            self._log(axis, at, row)
            row = {}
        row[tag] = value
        self._rows[axis] = step, row

    def flush(self) -> None:
        """Log the rows that are not complete, and wait until the tracker keeps all."""
        for axis, (at, row) in self._rows.items():
            self._log(axis, at, row)
        self._rows = {}
        if self._open:
            self._settle()

    def rewind(self, step: int, epoch: int) -> None:
        """Resume the run; what it already has is not logged again."""
        if not self._open:
            self._start(resume=True)
            self._landed = {(tag, at) for tag, at in self._read() if at > step or counts_epochs(tag)}

    def finish(self) -> None:
        """See Writer."""
        if self._finished:
            return
        self._finished = True
        if self._settings and not self._open:
            self._start(resume=False)
        if self._open:
            try:
                self.flush()
            finally:
                self._end()
