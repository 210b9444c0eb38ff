"""A writer into a folder: JSON lines, NPZ and PNG, which every program can read."""

import json
from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from kerazoo.callbacks.writers.histograms import FOLDER as HISTOGRAMS
from kerazoo.callbacks.writers.histograms import HistogramBlocks
from kerazoo.callbacks.writers.pictures import png_of
from kerazoo.callbacks.writers.tags import is_kept, path_of
from kerazoo.errors import InputError
from kerazoo.files import set_aside, write_whole

LINES, CONFIG = "watch.jsonl", "config.json"


class FolderWriter:
    """Writes numbers, histograms, images and texts into a folder.

    - `watch.jsonl` has a line for each number, {"step": 1, "tag": "a/b", "value": 0.5}, where what is not finite is a
      string ("nan", "inf", "-inf"), and for each text, {"step": 1, "tag": "a/b", "text": "..."};
    - `histograms/000001.npz` and so on are read by `read_histograms`;
    - `TAG.png` is the newest image of each tag;
    - `config.json` holds the settings.

    Without a `rewind`, the first write removes the lines and histograms that are there. The numbers of a step are
    written when the next step comes, or at `flush`.

    Args:
        folder: Where to write. It is made if it is missing. Raises InputError where it cannot be written.

    Example:
    ```python
    writer = FolderWriter("log")
    model.fit(x, y, callbacks=[GradientLogger(writer, every=10)])
    writer.finish()
    ```
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._pending: list[str] = []
        self._step: int | None = None  # of what is pending
        self._quoted: dict[str, str] = {}
        self._histograms = HistogramBlocks(self.folder / HISTOGRAMS)
        self._begun = False
        path = self.folder / LINES
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if path.exists() and not path.is_file():
                set_aside(path, "it is no regular file")
            _append(path, b"")
        except OSError as error:
            raise InputError(
                f"the log folder {self.folder} cannot be written: {error.strerror}; choose another one"
            ) from error

    def config(self, values: Mapping[str, Any]) -> None:
        """See Writer."""
        write_whole(self.folder / CONFIG, json.dumps(values, indent=2, ensure_ascii=False, default=str) + "\n")

    def scalar(self, tag: str, value: float, step: int) -> None:
        """See Writer."""
        number = repr(float(value)) if isfinite(value) else f'"{float(value)}"'
        self._add(f'{{"step": {step}, "tag": {self._quote(tag)}, "value": {number}}}\n', step)

    def text(self, tag: str, text: str, step: int) -> None:
        """See Writer."""
        self._add(f'{{"step": {step}, "tag": {self._quote(tag)}, "text": {json.dumps(text)}}}\n', step)

    def histogram(self, tag: str, counts: np.ndarray, edges: np.ndarray, step: int) -> None:
        """See Writer."""
        self._begin()
        self._histograms.add(tag, counts, edges, step)

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """See Writer."""
        path = self.folder / f"{path_of(tag)}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, png_of(pixels), sync=False)

    def _quote(self, tag: str) -> str:
        if tag not in self._quoted:
            self._quoted[tag] = json.dumps(tag)
        return self._quoted[tag]

    def _add(self, line: str, step: int) -> None:
        if step != self._step:
            self._write_lines()
            self._step = step
        self._pending.append(line)

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            write_whole(self.folder / LINES, b"", sync=False)
            self._histograms.clear()

    def _write_lines(self) -> None:
        if self._pending:
            self._begin()
            lines = "".join(self._pending).encode()
            self._pending = []
            _append(self.folder / LINES, lines)

    def flush(self) -> None:
        """Write what is left in memory."""
        self._write_lines()
        self._histograms.write()

    def rewind(self, step: int, epoch: int) -> None:
        """Keep what was written up to `step`, and of tags that begin with `epoch/` up to `epoch`; see Writer."""
        self._begun = True
        self._rewrite(lambda tag, at: is_kept(tag, at, step, epoch))
        self._histograms.rewind(step, epoch)

    def remove(self, prefix: str) -> None:
        """Remove the lines of tags that begin with `prefix`: they come again."""
        self._rewrite(lambda tag, at: not tag.startswith(prefix))

    def _rewrite(self, keep: Callable[[str, int], bool]) -> None:
        """Leave the lines that are whole and of which `keep(tag, step)` is true."""
        self._write_lines()
        path = self.folder / LINES
        write_whole(path, _kept_lines(path, keep), sync=False)

    def finish(self) -> None:
        """See Writer."""
        self.flush()


def _append(path: Path, lines: bytes) -> None:
    """Write `lines` to the end of `path`, which is not kept open: nobody need close a writer."""
    with path.open("ab", buffering=0) as file:
        while lines:  # a disk that is nearly full takes a part of them
            lines = lines[file.write(lines) :]


def _kept_lines(path: Path, keep: Callable[[str, int], bool]) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            try:
                values = json.loads(line)
                kept = line.endswith(b"\n") and keep(str(values["tag"]), values["step"])
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                kept = False  # torn by a kill, or damaged
            if kept:
                yield line
