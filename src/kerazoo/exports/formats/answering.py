"""Answers of an export by one of its formats, for files: without TensorFlow and keras."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerazoo.errors import DataError, KerazooError, ModelError, RunError
from kerazoo.exports.formats import reference
from kerazoo.exports.formats.runners import as_taken, load_runner
from kerazoo.exports.formats.table import SETTINGS, Format
from kerazoo.exports.layout import CLASS_NAMES, PASSPORT, THRESHOLDS
from kerazoo.files import read_json
from kerazoo.models.description import check_names, check_thresholds
from kerazoo.preprocessing.image_files import read_encoded
from kerazoo.tasks.task import find_task


class FormatModel:
    """A format of the export in `folder`.

    Raises RunError if the export has no such format or is damaged, InputError if its engine is not installed.
    """

    def __init__(self, folder: Path, one: Format) -> None:
        passport = read_json(folder / PASSPORT)
        try:
            check_names(passport.get(CLASS_NAMES))
            task = find_task(passport.get("task"))
            check_thresholds(passport.get(THRESHOLDS, ()), task, len(passport[CLASS_NAMES]))
        except ModelError as error:
            raise RunError(f"{folder / PASSPORT} was changed: {error}; export the run again") from error
        self.task: str = task.name
        self.class_names: tuple[str, ...] = tuple(passport[CLASS_NAMES])
        self.thresholds: tuple[float, ...] = tuple(passport.get(THRESHOLDS, ()))
        self.answers = load_runner(folder, one)  # (B, H, W, C) uint8, as the format takes them -> (B, K) float32
        self._format = one
        self.settings: dict[str, Any] = read_json(folder / SETTINGS)
        channels = self.settings["channels"]
        if channels not in (1, 3):
            raise RunError(
                f"{folder / one.file} is for images with {channels} channels, which encoded images cannot have; "
                "give it pixels by its own engine"
            )

    def pixels(self, contents: bytes) -> np.ndarray:
        """An encoded image -> (H, W, C) uint8, as the format takes it. Raises DataError if it cannot be decoded."""
        try:
            pixels = reference.decode(contents, self.settings)
        except MemoryError as error:
            raise KerazooError("there is not enough memory for the prediction of one image") from error
        except Exception as error:  # Pillow's decoders raise errors of many kinds
            raise DataError(f"not decoded: {' '.join(str(error).split())[:160] or type(error).__name__}") from error
        return as_taken(pixels, self._format, self.settings)

    def answer(self, contents: bytes) -> np.ndarray:
        """An encoded image -> (K,) float32 probabilities, or a regression's numbers. Raises DataError."""
        row: np.ndarray = self.answers(self.pixels(contents)[None])[0]
        return row

    def predict_files(self, paths: Sequence[Path]) -> Iterator[tuple[Path, "np.ndarray | DataError"]]:
        """(path, the answer or why there is none) for each file, in order."""
        for path in paths:
            try:
                yield path, self.answer(read_encoded(path))
            except DataError as error:
                yield path, error
