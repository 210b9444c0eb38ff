"""A writer for TensorBoard: event files, written as TensorBoard's own summaries are."""

import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import (
    DATA_CLASS_BLOB_SEQUENCE,
    DATA_CLASS_SCALAR,
    DATA_CLASS_TENSOR,
    Summary,
    SummaryMetadata,
)
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_DOUBLE, DT_FLOAT, DT_STRING

from kerazoo.callbacks.writers.pictures import finite_edges, png_of
from kerazoo.callbacks.writers.settings import flatten
from kerazoo.callbacks.writers.tags import is_kept, path_of
from kerazoo.callbacks.writers.writer import EPOCHS
from kerazoo.errors import InputError
from kerazoo.files import set_aside

ENDING = ".kerazoo"  # of the names of event files: only its own are cut and removed
SECONDS = 10.0  # after which what was written is on disk, for a page that is open
HPARAMS = "_hparams_/"


def _metadata(plugin: str, data_class: int) -> SummaryMetadata:
    return SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin), data_class=data_class)


SCALARS = _metadata("scalars", DATA_CLASS_SCALAR)
HISTOGRAMS = _metadata("histograms", DATA_CLASS_TENSOR)
IMAGES = _metadata("images", DATA_CLASS_BLOB_SEQUENCE)
TEXTS = _metadata("text", DATA_CLASS_TENSOR)


class TensorBoardWriter:
    """Writes event files for TensorBoard, its HParams tab included.

    Tags `epoch/RUN/NAME` go into TensorBoard's run RUN as `epoch_NAME`: so `epoch/train/loss` and
    `epoch/validation/loss` are where `keras.callbacks.TensorBoard` has them. All others are in the run of the folder
    itself. Numbers are float32 there.

    The values of a step are one event, written when the next step comes, or at `flush`; after 10 s they are on disk.
    Without a `rewind`, the first write removes event files of earlier trainings; only files that end in `.kerazoo`
    are changed or removed.

    Args:
        folder: Where to write; `tensorboard --logdir FOLDER` shows it. It is made if it is missing. Raises InputError
            where it cannot be written.

    Example:
    ```python
    writer = TensorBoardWriter("log/tensorboard")
    model.fit(x, y, callbacks=[GradientLogger(writer, every=10)])
    writer.finish()
    ```
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._runs: dict[str, _EventFile] = {}
        self._settings: dict[str, Any] | None = None
        self._begun = False
        try:
            if self.folder.exists() and not self.folder.is_dir():
                set_aside(self.folder, "it is no folder")
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"the log folder {self.folder} cannot be written: {error.strerror}; choose another one"
            ) from error

    def config(self, values: Mapping[str, Any]) -> None:
        """See Writer."""
        self._settings = flatten(values)
        if self._begun:
            self._write_settings()

    def scalar(self, tag: str, value: float, step: int) -> None:
        """See Writer."""
        self._add(tag, step, TensorProto(dtype=DT_FLOAT, float_val=[value]), SCALARS)

    def histogram(self, tag: str, counts: np.ndarray, edges: np.ndarray, step: int) -> None:
        """See Writer. Kept as it is, in rows of (left, right, count)."""
        edges = finite_edges(edges)
        rows = np.stack([edges[:-1], edges[1:], np.asarray(counts, np.float64)], axis=1)
        tensor = TensorProto(dtype=DT_DOUBLE, tensor_content=rows.tobytes())
        for size in rows.shape:
            tensor.tensor_shape.dim.add(size=size)
        self._add(tag, step, tensor, HISTOGRAMS)

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """See Writer."""
        height, width = pixels.shape[:2]
        parts = [str(width).encode(), str(height).encode(), png_of(pixels)]
        tensor = TensorProto(dtype=DT_STRING, string_val=parts)
        tensor.tensor_shape.dim.add(size=len(parts))
        self._add(tag, step, tensor, IMAGES)

    def text(self, tag: str, text: str, step: int) -> None:
        """See Writer. TensorBoard reads it as Markdown."""
        self._add(tag, step, TensorProto(dtype=DT_STRING, string_val=[text.encode()]), TEXTS)

    def _add(self, tag: str, step: int, tensor: TensorProto, metadata: SummaryMetadata) -> None:
        self._begin()
        run, name = _place(tag)
        self._run(run).add(int(step), Summary.Value(tag=name, tensor=tensor, metadata=metadata))

    def _run(self, run: str) -> "_EventFile":
        if run not in self._runs:
            self._runs[run] = _EventFile(self.folder / run)
        return self._runs[run]

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            for path in self._files():
                path.unlink()
            self._write_settings()

    def _write_settings(self) -> None:
        if self._settings is not None:
            from tensorboard.plugins.hparams.summary_v2 import hparams_pb  # takes a while, and not all need it

            for value in hparams_pb(self._settings).value:
                self._run("").add(0, value)

    def _files(self) -> list[Path]:
        return sorted(self.folder.rglob(f"events.*{ENDING}"))

    def flush(self) -> None:
        """Have on disk what was written."""
        for run in self._runs.values():
            run.flush()

    def rewind(self, step: int, epoch: int) -> None:
        """Keep what was written up to `step`, and of tags that begin with `epoch/` up to `epoch`; see Writer."""
        self._begun = True
        anew = self._settings is not None
        self._cut(lambda tag, at: not (anew and tag.startswith(HPARAMS)) and is_kept(tag, at, step, epoch))
        self._write_settings()

    def remove(self, prefix: str) -> None:
        """Remove what was written of tags that begin with `prefix`: they come again."""
        self._cut(lambda tag, at: not tag.startswith(prefix))

    def _cut(self, keep: Callable[[str, int], bool]) -> None:
        self._close()
        for path in self._files():
            run = path.parent.relative_to(self.folder).as_posix()
            _cut_events(path, "" if run == "." else run, keep)

    def _close(self) -> None:
        for run in self._runs.values():
            run.close()
        self._runs = {}

    def finish(self) -> None:
        """See Writer."""
        if self._settings is not None:
            self._begin()
        self._close()


class _EventFile:
    """An event file, which is made with its first event; values of one step become one event."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._event = Event()
        self._file: tf.io.TFRecordWriter | None = None
        self._path = folder
        self._flushed = time.monotonic()

    def add(self, step: int, value: Summary.Value) -> None:
        if self._event.summary.value and step != self._event.step:
            self._write()
        if not self._event.summary.value:
            self._event.step = step
            self._event.wall_time = time.time()
        self._event.summary.value.append(value)

    def _write(self) -> None:
        event, self._event = self._event, Event()
        if self._file is None:
            self._path = _new_path(self.folder)
            self._attempt(lambda: self._open())
        file = self._file
        assert file is not None
        self._attempt(lambda: file.write(event.SerializeToString()))
        if time.monotonic() - self._flushed > SECONDS:
            self._flush()

    def _open(self) -> None:
        self._file = tf.io.TFRecordWriter(str(self._path))
        self._file.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())

    def _flush(self) -> None:
        self._flushed = time.monotonic()
        if self._file is not None:
            self._attempt(self._file.flush)

    def _attempt(self, write: Callable[[], Any]) -> None:
        """Call `write`. Raises OSError for TensorFlow's errors, whose words end with those of the system."""
        try:
            write()
        except tf.errors.OpError as error:
            raise OSError(f"{self._path}: {str(error.message).rpartition('; ')[2]}") from error

    def flush(self) -> None:
        if self._event.summary.value:
            self._write()
        self._flush()

    def close(self) -> None:
        try:
            self.flush()
        finally:
            if self._file is not None:
                file, self._file = self._file, None
                self._attempt(file.close)


def _new_path(folder: Path) -> Path:
    """The path of an event file that is read after those that are there: names are sorted, and begin with a time."""
    folder.mkdir(parents=True, exist_ok=True)
    times = [int(part) for path in folder.glob("events.out.tfevents.*") if (part := path.name.split(".")[3]).isdigit()]
    now = max(int(time.time()), max(times, default=0) + 1)
    return folder / f"events.out.tfevents.{now:010d}.{socket.gethostname()}.{os.getpid()}{ENDING}"


def _place(tag: str) -> tuple[str, str]:
    """The run of TensorBoard, and the tag in it."""
    run, slash, name = tag.removeprefix(EPOCHS).partition("/")
    if tag.startswith(EPOCHS) and slash:
        return path_of(run), f"epoch_{name}"
    return "", tag


def _tag_of(run: str, name: str) -> str:
    """The tag whose place is `name` in `run`."""
    return f"{EPOCHS}{run}/{name.removeprefix('epoch_')}" if run else name


def _cut_events(path: Path, run: str, keep: Callable[[str, int], bool]) -> None:
    """Leave of a file of events what is whole and of which `keep(tag, step)` is true.

    TensorBoard's own purge, by an event that says "restarted", is not heeded by all that read such files.
    """
    temporary = path.with_name("cut.tmp")
    cut = False
    try:
        with tf.io.TFRecordWriter(str(temporary)) as left:
            try:
                for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                    event = Event.FromString(record)
                    kept = [value for value in event.summary.value if keep(_tag_of(run, value.tag), event.step)]
                    if len(kept) == len(event.summary.value):
                        left.write(record)
                        continue
                    cut = True
                    if kept:
                        del event.summary.value[:]
                        event.summary.value.extend(kept)
                        left.write(event.SerializeToString())
            except (tf.errors.DataLossError, DecodeError):  # torn by a kill, or damaged
                cut = True
        if cut:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
