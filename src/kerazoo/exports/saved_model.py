"""Answers from an exported SavedModel, with TensorFlow alone: keras need not be installed."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kerazoo.errors import DataError, KerazooError, ModelError, RunError
from kerazoo.exports.layout import PASSPORT, SAVED_MODEL
from kerazoo.files import read_json
from kerazoo.models.description import check_names
from kerazoo.pipelines.data.file_names import one_line
from kerazoo.preprocessing.decoding import reason_of
from kerazoo.preprocessing.image_files import read_image
from kerazoo.tasks.task import find_task

BATCH = 32  # images in a batch
EMPTY = "it is empty"


class ExportedModel:
    """A loaded export. `passport` describes it; `class_names` is the order of probabilities."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        if not (folder / SAVED_MODEL).is_file() or not (folder / PASSPORT).is_file():
            raise RunError(f"{folder} is not an export: it must contain {SAVED_MODEL} and {PASSPORT}")
        self.folder = folder
        self.passport: dict[str, Any] = read_json(folder / PASSPORT)
        try:
            check_names(self.passport.get("class_names"))
            task = find_task(self.passport.get("task"))
        except ModelError as error:
            raise RunError(f"{folder / PASSPORT} was changed: {error}; export the run again") from error
        self.class_names: tuple[str, ...] = tuple(self.passport["class_names"])
        try:
            self._loaded = tf.saved_model.load(str(folder))  # keep a reference, or the signatures lose their variables
            self._serve = self._loaded.signatures["serving_default"]
            self._serve_images = self._loaded.signatures["serve_images"]
        except (OSError, ValueError, LookupError, AttributeError, RuntimeError, tf.errors.OpError) as error:
            reason = " ".join(str(error).split())[:200]
            raise RunError(f"{folder} cannot be loaded ({reason}); it is damaged: export the run again") from error
        if task.outputs != set(self._serve.structured_outputs):
            raise RunError(f"the task in {folder / PASSPORT} differs from the SavedModel's; export the run again")
        self.task = task.name
        self._answers = task.main_output
        self._takes_bytes = "image_bytes" in self._serve.structured_input_signature[1]

    def outputs(self, contents: Sequence[bytes]) -> dict[str, np.ndarray]:
        """B encoded images -> every output by name, see `write_saved_model`.

        Raises tf.errors.InvalidArgumentError if one cannot be decoded, RunError if the export takes only pixels.
        """
        if not self._takes_bytes:
            channels = self._serve_images.structured_input_signature[1]["images"].shape[-1]
            raise RunError(
                f"this export is for images with {channels} channels, which encoded images cannot have; call its "
                f"signature serve_images with pixels, (B, H, W, {channels}) float32 in [0, 255]"
            )
        answers = self._serve(image_bytes=tf.constant(list(contents), tf.string))
        return {name: values.numpy() for name, values in answers.items()}

    def image_outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """(B, H, W, C) float32 pixels in [0, 255] -> every output by name."""
        answers = self._serve_images(images=tf.constant(images, tf.float32))
        return {name: values.numpy() for name, values in answers.items()}

    def probabilities(self, contents: Sequence[bytes]) -> np.ndarray:
        """B encoded images -> (B, K) float32 probabilities, or a regression's numbers; raises as `outputs` does.

        Also raises RunError if the class names in the passport differ from those in the SavedModel.
        """
        outputs = self.outputs(contents)
        for row in outputs["class_names"][:1]:
            if tuple(name.decode("utf-8") for name in row) != self.class_names:
                raise RunError(
                    f"the class names in {self.folder / PASSPORT} differ from the SavedModel's; export the run again"
                )
        return outputs[self._answers]

    def file_probabilities(self, images: Sequence[Path | bytes]) -> np.ndarray:
        """B files or encoded images -> (B, K) float32. Raises DataError, which names the first image that fails."""
        names = [
            f"image {index}" if isinstance(image, bytes) else one_line(str(image)) for index, image in enumerate(images)
        ]
        contents = []
        for name, image in zip(names, images, strict=True):
            found = (image or DataError(EMPTY)) if isinstance(image, bytes) else _contents(image)
            if isinstance(found, DataError):
                raise DataError(f"{name}: {found}")
            contents.append(found)
        try:
            return self.probabilities(contents)
        except tf.errors.InvalidArgumentError as error:
            for name, found in zip(names, contents, strict=True):
                answer = _answer_one(self.probabilities, found)
                if isinstance(answer, DataError):
                    raise DataError(f"{name}: {answer}") from error
            raise

    def image_probabilities(self, images: np.ndarray) -> np.ndarray:
        """(B, H, W, C) float32 pixels in [0, 255] -> (B, K) float32."""
        return self.image_outputs(images)[self._answers]

    def predict_files(self, paths: Sequence[Path]) -> Iterator[tuple[Path, np.ndarray | DataError]]:
        """(path, (K,) float32 answer, or the error) for each file, in order."""
        return answer_files(self.probabilities, paths)


def answer_files(
    ask: Callable[[Sequence[bytes]], np.ndarray], paths: Sequence[Path], batch_size: int = BATCH
) -> Iterator[tuple[Path, np.ndarray | DataError]]:
    """(path, the answer of `ask`) for each file, in order; `ask` takes up to `batch_size` encoded images.

    A file that cannot be read or decoded has the error in place of an answer, and does not affect the other files.
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
        raise KerazooError("there is not enough memory for the prediction of one image") from error
    except tf.errors.OpError as error:
        return DataError(f"it cannot be decoded: {reason_of(error)}")
    return row


def read_file(path: Path) -> bytes:
    """The bytes of a file. Raises DataError."""
    try:
        contents = read_image(path)[0]
    except OSError as error:
        raise DataError(f"it cannot be read: {error.strerror}") from error
    if not contents:
        raise DataError(EMPTY)
    return contents
