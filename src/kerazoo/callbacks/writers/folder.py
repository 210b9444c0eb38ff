"""A writer into a run folder, and TensorBoard beside it."""

import io
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event

from kerazoo.files import set_aside, write_whole

log = logging.getLogger("kerazoo")

LINES, IMAGES, BOARD = "watch.jsonl", "feature_maps", "tensorboard"


class RunWriter:
    """Writes `watch.jsonl`, `feature_maps/TAG.png` (the newest of each tag) and `tensorboard/` into a folder.

    JSON lines are {"step": 1, "tag": "...", "value": 0.5}; numbers that are not finite are strings ("nan", "inf").
    Losses and metrics go to TensorBoard alone, with Keras's own tags, into runs below: `train`, `validation`, ...
    Of what is there already, the first `epochs` are kept: a resumed training writes the others again.
    An error of the disk never ends a training: what cannot be written is no longer written, and the log says so once.
    """

    def __init__(self, folder: str | Path, *, epochs: int = 0) -> None:
        self.folder = Path(folder)
        self._lines: io.FileIO | None = None
        self._epochs = epochs
        self._boards: dict[str, tf.summary.SummaryWriter] = {}
        self._given_up: set[str] = set()
        self._attempt(LINES, lambda: self._open_lines(epochs))

    def _open_lines(self, epochs: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / LINES
        if path.exists() and not path.is_file():
            set_aside(path, "it is no regular file")
        if path.exists():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            write_whole(path, "".join(line for line in lines if _step(line) <= epochs))
        self._lines = path.open("ab", buffering=0)  # nothing is left to write when it is closed

    def _board(self, run: str, first: int) -> tf.summary.SummaryWriter:
        """The writer of a run of TensorBoard; what is there of steps from `first` on is taken away."""
        if run not in self._boards:
            if (self.folder / BOARD).exists() and not (self.folder / BOARD).is_dir():
                set_aside(self.folder / BOARD, "it is no folder")
            folder = self.folder / BOARD / run
            for path in sorted(folder.glob("events.*")):
                _cut_events(path, first)
            self._boards[run] = tf.summary.create_file_writer(str(folder), flush_millis=10_000)
        return self._boards[run]

    def _attempt(self, what: str, write: Callable[[], Any]) -> None:
        """Call `write`, unless it failed before for `what`; say the first failure."""
        if what in self._given_up:
            return
        try:
            write()
        except (OSError, tf.errors.OpError) as error:
            self._given_up.add(what)
            reason = getattr(error, "strerror", None) or str(getattr(error, "message", error)).splitlines()[0]
            log.info(f"{self.folder / what} cannot be written any more: {reason}; training goes on without it")

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Keep one number."""
        number = float(value) if np.isfinite(value) else str(float(value))
        line = json.dumps({"step": step, "tag": tag, "value": number}) + "\n"
        if self._lines is not None:
            lines = self._lines
            self._attempt(LINES, lambda: lines.write(line.encode()))
        self._on_board(lambda: tf.summary.scalar(tag, value, step=step))

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """Keep one grey image, (H, W) uint8."""
        self._attempt(IMAGES, lambda: self._write_image(self.folder / f"{tag}.png", pixels))
        self._on_board(lambda: tf.summary.image(tag, pixels[None, ..., None], step=step))

    def _write_image(self, path: Path, pixels: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        png = io.BytesIO()
        Image.fromarray(pixels).save(png, format="PNG")
        write_whole(path, png.getvalue(), sync=False)

    def measured(self, run: str, values: Mapping[str, float], step: int) -> None:
        """Keep the numbers of an epoch as `epoch_NAME` in the run of TensorBoard called `run`."""
        self._on_board(lambda: self._write_measured(values, step), run=run)

    def level(self, run: str, values: Mapping[str, float], last: int) -> None:
        """The same as lines from step 0 to `last`, in the place of any that are there."""

        def write() -> None:
            for step in sorted({0, last}):
                self._write_measured(values, step)

        self._on_board(write, run=run, first=0)

    def _write_measured(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            tf.summary.scalar(f"epoch_{name}", value, step=step)

    def flush(self) -> None:
        """Have all that was written on disk, before a checkpoint says that it is."""
        for board in self._boards.values():
            self._attempt(BOARD, board.flush)

    def _on_board(self, write: Callable[[], Any], *, run: str = "", first: int | None = None) -> None:
        """Call `write` with the writer of a run of TensorBoard as the default one."""

        def attempt() -> None:
            with self._board(run, self._epochs + 1 if first is None else first).as_default():
                write()

        self._attempt(BOARD, attempt)

    def close(self) -> None:
        """Flush and close all."""
        if self._lines is not None:
            self._lines.close()
        for board in self._boards.values():
            self._attempt(BOARD, board.close)

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _cut_events(path: Path, first: int) -> None:
    """Leave of a file of events what is of steps before `first`, and whole.

    TensorBoard's own purge, by an event that says "restarted", is not heeded by all that read such files.
    """
    temporary, cut = path.with_name("cut.tmp"), False
    try:
        with tf.io.TFRecordWriter(str(temporary)) as left:
            try:
                for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                    event = Event.FromString(record)
                    if event.HasField("summary") and event.step >= first:
                        cut = True
                    else:
                        left.write(record)
            except (tf.errors.DataLossError, DecodeError):  # torn by a kill, or damaged
                cut = True
        if cut:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _step(line: str) -> float:
    """The step of a line, infinite where it is torn."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return float("inf")
