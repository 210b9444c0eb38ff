"""Where watchers write: a run folder (JSON lines and PNG files) and TensorBoard beside it."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from PIL import Image

from kerazoo.files import write_whole

LINES, IMAGES, BOARD = "watch.jsonl", "feature_maps", "tensorboard"


class Writer(Protocol):
    """What a watcher needs of a writer. `step` counts finished epochs, from 1."""

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Keep one number."""

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """Keep one grey picture, (H, W) uint8."""


class RunWriter:
    """Writes `watch.jsonl`, `feature_maps/TAG.png` (the newest of each tag) and `tensorboard/` into a folder.

    JSON lines are {"step": 1, "tag": "...", "value": 0.5}; numbers that are not finite are strings ("nan", "inf").
    Of lines that are there already, those of the first `epochs` are kept: a resumed training writes the others again.
    An error of the disk never ends a training: what cannot be written is no longer written, and `say` is told once.
    """

    def __init__(self, folder: Path, *, epochs: int = 0, say: Callable[[str], None] = print) -> None:
        self.folder = folder
        self.say = say
        self._lines: io.FileIO | None = None
        self._board: tf.summary.SummaryWriter | None = None
        self._given_up: set[str] = set()
        self._attempt(LINES, lambda: self._open_lines(epochs))
        self._attempt(BOARD, self._open_board)

    def _open_lines(self, epochs: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / LINES
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            write_whole(path, "".join(line for line in lines if _step(line) <= epochs))
        self._lines = path.open("ab", buffering=0)  # nothing is left to write when it is closed

    def _open_board(self) -> None:
        self._board = tf.summary.create_file_writer(str(self.folder / BOARD), flush_millis=10_000)

    def _attempt(self, what: str, write: Callable[[], Any]) -> None:
        """Call `write`, unless it failed before for `what`; say the first failure."""
        if what in self._given_up:
            return
        try:
            write()
        except (OSError, tf.errors.OpError) as error:
            self._given_up.add(what)
            reason = getattr(error, "strerror", None) or str(getattr(error, "message", error)).splitlines()[0]
            self.say(f"{self.folder / what} cannot be written any more: {reason}; training goes on without it")

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Keep one number."""
        number = float(value) if np.isfinite(value) else str(float(value))
        line = json.dumps({"step": step, "tag": tag, "value": number}) + "\n"
        if self._lines is not None:
            lines = self._lines
            self._attempt(LINES, lambda: lines.write(line.encode()))
        self._on_board(lambda: tf.summary.scalar(tag, value, step=step))

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """Keep one grey picture, (H, W) uint8."""
        self._attempt(IMAGES, lambda: self._write_image(self.folder / f"{tag}.png", pixels))
        self._on_board(lambda: tf.summary.image(tag, pixels[None, ..., None], step=step))

    def _write_image(self, path: Path, pixels: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        png = io.BytesIO()
        Image.fromarray(pixels).save(png, format="PNG")
        write_whole(path, png.getvalue(), sync=False)

    def _on_board(self, write: Callable[[], Any]) -> None:
        """Call `write` with TensorBoard's writer as the default one."""
        if self._board is not None:
            with self._board.as_default():
                self._attempt(BOARD, write)

    def close(self) -> None:
        """Flush and close both."""
        if self._lines is not None:
            self._lines.close()
        if self._board is not None:
            self._attempt(BOARD, self._board.close)

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _step(line: str) -> float:
    """The step of a line, infinite where it is torn."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
