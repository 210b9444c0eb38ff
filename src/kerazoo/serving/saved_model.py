"""Answers from an exported SavedModel, by TensorFlow alone: it works where keras is not installed."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kerazoo.errors import DataError, RunError

PASSPORT = "assets.extra/passport.json"


class ExportedModel:
    """An export loaded for answering. `passport` says what it is; `class_names` is the order of probabilities."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "saved_model.pb").is_file() or not (folder / PASSPORT).is_file():
            raise RunError(f"{folder} is not an export: it holds no saved_model.pb with a {PASSPORT}")
        self.passport: dict[str, Any] = json.loads((folder / PASSPORT).read_text(encoding="utf-8"))
        self.class_names: tuple[str, ...] = tuple(self.passport["class_names"])
        self.task: str = self.passport["head"]
        self._answers = "values" if self.task == "regression" else "probabilities"
        self._loaded = tf.saved_model.load(str(folder))  # signatures lose their variables when this is collected
        self._serve = self._loaded.signatures["serving_default"]
        self._takes_bytes = "image_bytes" in self._serve.structured_input_signature[1]

    def probabilities(self, contents: Sequence[bytes]) -> np.ndarray:
        """B encoded pictures -> (B, K) float32 probabilities, or a regression's numbers.

        Raises tf.errors.InvalidArgumentError where one cannot be decoded, RunError where it takes pixels only.
        """
        if not self._takes_bytes:
            channels = self.passport["preprocessing"]["channels"]
            raise RunError(
                f"this export is for pictures of {channels} channels, which no encoded picture has: call its signature "
                f"serve_images with pixels, (B, H, W, {channels}) float32 in [0, 255]"
            )
        values: np.ndarray = self._serve(image_bytes=tf.constant(list(contents), tf.string))[self._answers].numpy()
        return values

    def image_probabilities(self, images: np.ndarray) -> np.ndarray:
        """(B, H, W, C) float32 pixels in [0, 255] -> (B, K) float32."""
        serve = self._loaded.signatures["serve_images"]
        values: np.ndarray = serve(images=tf.constant(images, tf.float32))[self._answers].numpy()
        return values

    def predict_files(self, paths: Sequence[Path], batch_size: int = 32) -> Iterator[tuple[Path, np.ndarray]]:
        """(path, (K,) float32) for each file, in order. Raises DataError that names the file which cannot be read."""
        for start in range(0, len(paths), batch_size):
            batch = paths[start : start + batch_size]
            contents = [read_file(path) for path in batch]
            try:
                rows = self.probabilities(contents)
            except tf.errors.OpError:
                rows = np.concatenate([self._one(path, item) for path, item in zip(batch, contents, strict=True)])
            yield from zip(batch, rows, strict=True)

    def _one(self, path: Path, contents: bytes) -> np.ndarray:
        try:
            return self.probabilities([contents])
        except tf.errors.OpError as error:
            raise DataError(f"{path} cannot be decoded; it must be a JPEG, PNG, GIF, BMP or WebP picture") from error


def read_file(path: Path) -> bytes:
    """The bytes of a file. Raises DataError that names it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
