"""The numbers of each epoch in the run folder, while it trains: `metrics.jsonl` and `history.csv`."""

import csv
import io
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import keras

from kerazoo.files import write_whole

log = logging.getLogger("kerazoo")

Row = dict[str, float]


class MetricsWriter(keras.callbacks.Callback):  # type: ignore[misc]
    """At the end of every epoch, one more line in `folder/metrics.jsonl`, and `folder/history.csv` written anew.

    A line is {"epoch": 1, "step": 430, "seconds": 12.3, "images_per_second": 4890.1, "learning_rate": 0.01, "loss":
    0.25, ...}: the optimizer's steps so far; seconds with validation, those before a resume counted in; the rate that
    the next step takes. Numbers that are not finite are strings ("nan", "inf"). `history.csv` has losses and metrics
    only: what a resumed run repeats to the last bit. `key` is how the epochs are named.

    `history` holds the rows so far, of an earlier phase or of a run that is resumed; both files are then those rows
    and no others. `rows` is the whole history. Stand last among the callbacks that add to the logs, and before the one
    that keeps `state()`.

    An error of the disk does not end the training: the log says so once, the next epoch tries again, and `settle`,
    which raises it, writes what is missing.
    """

    def __init__(
        self, folder: str | Path, images: int, *, history: Iterable[Row] = (), key: str = "epoch",
        ) -> None:  # fmt: skip
        super().__init__()
        self.lines_path = Path(folder) / "metrics.jsonl"
        self.table_path = Path(folder) / "history.csv"
        self.images = images
        self.key = key
        self._lines = _lines_in(self.lines_path)  # every line known, those of epochs to be run again among them
        self._before = 0.0
        self._start = time.perf_counter()
        self.rows = [dict(row) for row in history]
        self._settled = False  # the files are those of `rows`
        self._warned = False

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON has it: the rows, and the seconds of the epoch so far."""
        rows = [encode(row) for row in self.rows]
        return {"history": rows, "seconds": self._before + time.perf_counter() - self._start}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`, in the middle of an epoch or between two; the files follow."""
        self._before = float(state["seconds"])
        self._start = time.perf_counter()
        self.rows = [{name: float(value) for name, value in row.items()} for row in state["history"]]
        self._attempt(self.settle)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the clock, in the first epoch with files that hold the rows so far."""
        if not self._settled:
            self._attempt(self.settle)
        self._start = time.perf_counter()

    def settle(self) -> None:
        """Make the files those of `rows`; not before `restore`, which knows more of them, has been called.

        A row whose line is lost gets one without seconds and rates. Raises OSError.
        """
        lines = []
        for row in self.rows:
            wanted = encode(row)
            known = (line for line in reversed(self._lines) if wanted.items() <= line.items())
            lines.append(next(known, wanted))
        _write_if_other(self.lines_path, "".join(json.dumps(line) + "\n" for line in lines))
        _write_if_other(self.table_path, history_table(self.rows) if self.rows else "")
        self._settled = True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write both."""
        seconds = self._before + time.perf_counter() - self._start
        self._before, self._start = 0.0, time.perf_counter()
        row = {self.key: float(epoch + 1)} | {name: float(value) for name, value in (logs or {}).items()}
        step = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        line: dict[str, Any] = {self.key: epoch + 1, "step": step}
        line |= {"seconds": round(seconds, 3), "images_per_second": round(self.images / seconds, 1)}
        line |= self._learning_rate() | {name: value for name, value in encode(row).items() if name != self.key}
        self.rows.append(row)
        self._lines.append(line)
        self._attempt(self._append if self._settled else self.settle)

    def _learning_rate(self) -> dict[str, Any]:
        """Nothing where the optimizer has several."""
        rate = getattr(self.model.optimizer, "learning_rate", None)
        return {} if rate is None else encode({"learning_rate": float(keras.ops.convert_to_numpy(rate))})

    def _append(self) -> None:
        with self.lines_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self._lines[-1]) + "\n")
        write_whole(self.table_path, history_table(self.rows))

    def _attempt(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            self._settled = False
            if not self._warned:
                self._warned = True
                log.info(f"{self.table_path} cannot be written: {error.strerror}; training goes on and tries again")


def history_table(rows: Iterable[Row]) -> str:
    """CSV: one row an epoch, a column for each name in any row, numbers to the last bit."""
    rows = list(rows)
    text = io.StringIO()
    table = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def encode(row: Mapping[str, float]) -> dict[str, Any]:
    """The same with whole numbers of epochs as int, and numbers that are not finite as strings."""
    return {
        name: (int(value) if name.endswith("epoch") else value) if math.isfinite(value) else str(value)
        for name, value in row.items()
    }


def _write_if_other(path: Path, text: str) -> None:
    if (path.read_text(encoding="utf-8", errors="replace") if path.is_file() else "") != text:
        write_whole(path, text)


def _lines_in(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that is there or not; what is torn or damaged is no line."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines
