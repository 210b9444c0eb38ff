"""Where watchers write: a run folder (JSON lines and PNG files) and TensorBoard beside it."""

import io
import json
from pathlib import Path
from typing import Protocol

import numpy as np
import tensorflow as tf
from PIL import Image

from kerazoo.files import write_whole


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
    """

    def __init__(self, folder: Path, *, epochs: int = 0) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "watch.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            write_whole(path, "".join(line for line in lines if _step(line) <= epochs))
        self._lines = path.open("a", encoding="utf-8", buffering=1)
        self._board = tf.summary.create_file_writer(str(folder / "tensorboard"), flush_millis=10_000)

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Keep one number."""
        number = float(value) if np.isfinite(value) else str(float(value))
        self._lines.write(json.dumps({"step": step, "tag": tag, "value": number}) + "\n")
        with self._board.as_default():
            tf.summary.scalar(tag, value, step=step)

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """Keep one grey picture, (H, W) uint8."""
        path = self.folder / f"{tag}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        png = io.BytesIO()
        Image.fromarray(pixels).save(png, format="PNG")
        write_whole(path, png.getvalue(), sync=False)
        with self._board.as_default():
            tf.summary.image(tag, pixels[None, ..., None], step=step)

    def close(self) -> None:
        """Flush and close both."""
        self._lines.close()
        self._board.close()

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
