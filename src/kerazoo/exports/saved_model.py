"""Answers from an exported SavedModel, by TensorFlow alone: it works where keras is not installed."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kerazoo.errors import DataError, KerazooError, ModelError, RunError
from kerazoo.exports.layout import PASSPORT, SAVED_MODEL
from kerazoo.files import read_json
from kerazoo.models.description import check_names
from kerazoo.preprocessing.decoding import reason_of
from kerazoo.preprocessing.image_files import read_image
from kerazoo.tasks.task import find_task

BATCH = 32  # images that are answered together


class ExportedModel:
    """An export loaded for answering. `passport` says what it is; `class_names` is the order of probabilities."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        if not (folder / SAVED_MODEL).is_file() or not (folder / PASSPORT).is_file():
            raise RunError(f"{folder} is not an export: it holds no {SAVED_MODEL} with a {PASSPORT}")
        self.folder = folder
        self.passport: dict[str, Any] = read_json(folder / PASSPORT)
        try:
            check_names(self.passport.get("class_names"))
            task = find_task(self.passport.get("task"))
        except ModelError as error:
            raise RunError(f"{folder / PASSPORT} was changed: {error}; export the run again") from error
        self.class_names: tuple[str, ...] = tuple(self.passport["class_names"])
        try:
            self._loaded = tf.saved_model.load(str(folder))  # signatures lose their variables when it is collected
            self._serve = self._loaded.signatures["serving_default"]
            self._serve_images = self._loaded.signatures["serve_images"]
        except (OSError, ValueError, LookupError, AttributeError, RuntimeError, tf.errors.OpError) as error:
            reason = " ".join(str(error).split())[:200]
            raise RunError(f"{folder} cannot be loaded ({reason}); it is damaged: export the run again") from error
        if task.outputs != set(self._serve.structured_outputs):
            raise RunError(f"{folder / PASSPORT} names another task than the SavedModel; export the run again")
        self.task = task.name
        self._answers = task.main_output
        self._takes_bytes = "image_bytes" in self._serve.structured_input_signature[1]

    def outputs(self, contents: Sequence[bytes]) -> dict[str, np.ndarray]:
        """B encoded images -> every output by name, as `write_saved_model` says.

        Raises tf.errors.InvalidArgumentError where one cannot be decoded, RunError where it takes pixels only.
        """
        if not self._takes_bytes:
            channels = self._serve_images.structured_input_signature[1]["images"].shape[-1]
            raise RunError(
                f"this export is for images of {channels} channels, which no encoded image has: call its signature "
                f"serve_images with pixels, (B, H, W, {channels}) float32 in [0, 255]"
            )
        answers = self._serve(image_bytes=tf.constant(list(contents), tf.string))
        return {name: values.numpy() for name, values in answers.items()}

    def image_outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """(B, H, W, C) float32 pixels in [0, 255] -> every output by name."""
        answers = self._serve_images(images=tf.constant(images, tf.float32))
        return {name: values.numpy() for name, values in answers.items()}

    def probabilities(self, contents: Sequence[bytes]) -> np.ndarray:
        """B encoded images -> (B, K) float32 probabilities, or a regression's numbers; raises as `outputs` does.

        Raises RunError, too, where the passport names other classes than the SavedModel.
        """
        outputs = self.outputs(contents)
        for row in outputs["class_names"][:1]:
            if tuple(name.decode("utf-8") for name in row) != self.class_names:
                raise RunError(
                    f"{self.folder / PASSPORT} names other classes than the SavedModel; export the run again"
                )
        return outputs[self._answers]

    def file_probabilities(self, images: Sequence[Path | bytes]) -> np.ndarray:
        """B files, or encoded images -> (B, K) float32. Raises DataError for one that cannot be read or decoded."""
        contents = [image if isinstance(image, bytes) else read_file(image) for image in images]
        try:
            return self.probabilities(contents)
        except tf.errors.InvalidArgumentError as error:
            raise DataError(f"one of {len(contents)} images cannot be decoded: {reason_of(error)}") from error

    def image_probabilities(self, images: np.ndarray) -> np.ndarray:
        """(B, H, W, C) float32 pixels in [0, 255] -> (B, K) float32."""
        return self.image_outputs(images)[self._answers]

    def predict_files(self, paths: Sequence[Path]) -> Iterator[tuple[Path, np.ndarray | DataError]]:
        """(path, (K,) float32) for each file, in order, or the error that says why a file has no answer."""
        return answer_files(self.probabilities, paths)


def answer_files(
    ask: Callable[[Sequence[bytes]], np.ndarray], paths: Sequence[Path], batch_size: int = BATCH
) -> Iterator[tuple[Path, np.ndarray | DataError]]:
    """(path, what `ask` answers) for each file, in order; `ask` is given up to `batch_size` encoded images.

    A file that cannot be read or decoded gets the error in place of an answer, and takes those of no other.
    """
    for start in range(0, len(paths), batch_size):
        batch = paths[start : start + batch_size]
        contents = [_contents(path) for path in batch]
        whole = [item for item in contents if isinstance(item, bytes)]
        try:
            rows: Iterator[np.ndarray | DataError] = iter(ask(whole) if whole else ())
        except tf.errors.OpError:
            rows = (_answer_one(ask, item) for item in whole)
        for path, item in zip(batch, contents, strict=True):
            yield path, next(rows) if isinstance(item, bytes) else item


def _contents(path: Path) -> bytes | DataError:
    try:
        return read_file(path)
    except DataError as error:
        return error


def _answer_one(ask: Callable[[Sequence[bytes]], np.ndarray], contents: bytes) -> np.ndarray | DataError:
    try:
        row: np.ndarray = ask([contents])[0]
    except tf.errors.ResourceExhaustedError as error:
        raise KerazooError("there is not enough memory to answer for one image") from error
    except tf.errors.OpError as error:
        return DataError(f"it cannot be decoded: {reason_of(error)}")
    return row


def read_file(path: Path) -> bytes:
    """The bytes of a file. Raises DataError."""
    try:
        return read_image(path)[0]
    except OSError as error:
        raise DataError(f"it cannot be read: {error.strerror}") from error
