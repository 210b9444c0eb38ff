"""Answers from an exported SavedModel, with TensorFlow alone: keras need not be installed."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from kerazoo.errors import DataError, KerazooError, ModelError, RunError
from kerazoo.exports.layout import CLASS_NAMES, OK, PASSPORT, SAVED_MODEL, STATUS, THRESHOLDS
from kerazoo.files import read_json
from kerazoo.models.description import check_names, check_thresholds
from kerazoo.pipelines.data.file_names import one_line
from kerazoo.preprocessing.decoding import reason_of
from kerazoo.preprocessing.image_files import EMPTY, read_encoded
from kerazoo.preprocessing.preprocessing import Preprocessing
from kerazoo.tasks.task import find_task

BATCH = 32  # images in a batch
Row = np.ndarray | DataError
T = TypeVar("T", bytes, np.ndarray)


class ExportedModel:
    """A loaded export. `passport` describes it; `class_names` is the order of probabilities, and of `thresholds`."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        if not (folder / SAVED_MODEL).is_file() or not (folder / PASSPORT).is_file():
            raise RunError(f"{folder} is not an export: it must contain {SAVED_MODEL} and {PASSPORT}")
        self.folder = folder
        self.passport: dict[str, Any] = read_json(folder / PASSPORT)
        try:
            check_names(self.passport.get(CLASS_NAMES))
            task = find_task(self.passport.get("task"))
            check_thresholds(self.passport.get(THRESHOLDS, ()), task, len(self.passport[CLASS_NAMES]))
            self.preprocessing = Preprocessing.from_json(self.passport.get("preprocessing", {}))
        except ModelError as error:
            raise RunError(f"{folder / PASSPORT} was changed: {error}; export the run again") from error
        self.class_names: tuple[str, ...] = tuple(self.passport[CLASS_NAMES])
        self.thresholds: tuple[float, ...] = tuple(self.passport.get(THRESHOLDS, ()))
        try:
            self._loaded = tf.saved_model.load(str(folder))  # keep a reference, or the signatures lose their variables
            self._signatures = dict(self._loaded.signatures)
            serve = self._signatures["serving_default"]
        except (OSError, ValueError, LookupError, AttributeError, RuntimeError, tf.errors.OpError) as error:
            reason = " ".join(str(error).split())[:200]
            raise RunError(f"{folder} cannot be loaded ({reason}); it is damaged: export the run again") from error
        if {*task.outputs, STATUS} != set(serve.structured_outputs):
            raise RunError(f"the task in {folder / PASSPORT} differs from the SavedModel's; export the run again")
        self.task = task.name
        self._answers = task.main_output
        self._takes_bytes = "image_bytes" in serve.structured_input_signature[1]

    @property
    def signatures(self) -> tuple[str, ...]:
        """The names of the signatures."""
        return tuple(self._signatures)

    def function(self, signature: str) -> Any:
        """The signature as a function of its input, by name, that gives tensors by name. Raises RunError."""
        if signature not in self._signatures:
            raise RunError(f"{self.folder} has no signature {signature!r}; it has {', '.join(self._signatures)}")
        return self._signatures[signature]

    def ask(self, signature: str, images: Any) -> dict[str, np.ndarray]:
        """B images, as the signature takes them -> every output by name, see `write_saved_model`.

        Raises RunError if there is no such signature.
        """
        function = self.function(signature)
        ((name, spec),) = function.structured_input_signature[1].items()
        return {name: values.numpy() for name, values in function(**{name: tf.constant(images, spec.dtype)}).items()}

    def outputs(self, contents: Sequence[bytes]) -> dict[str, np.ndarray]:
        """B encoded images -> every output by name. Raises RunError if the export takes only pixels."""
        if not self._takes_bytes:
            channels = self.preprocessing.channels
            raise RunError(
                f"this export is for images with {channels} channels, which encoded images cannot have; call its "
                f"signature serve_images with pixels, (B, H, W, {channels}) float32 in [0, 255]"
            )
        return self.ask("serving_default", list(contents))

    def image_outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """(B, H, W, C) float32 pixels in [0, 255] -> every output by name."""
        return self.ask("serve_images", images)

    def pixel_answers(self, pixels: np.ndarray) -> np.ndarray:
        """(B, H, W, C) uint8 pixels -> (B, K) float32."""
        return self.ask("serve_pixels", pixels)[self._answers]

    def rows(self, contents: Sequence[bytes]) -> list[Row]:
        """B encoded images -> for each (K,) float32 probabilities or a regression's numbers, or why it has none.

        Raises as `outputs` does, and RunError if the class names in the passport differ from those in the SavedModel.
        """
        outputs = self.outputs(contents)
        for row in outputs[CLASS_NAMES][:1]:
            if tuple(name.decode("utf-8") for name in row) != self.class_names:
                raise RunError(
                    f"the class names in {self.folder / PASSPORT} differ from the SavedModel's; export the run again"
                )
        answers = zip(contents, outputs[self._answers], outputs[STATUS], strict=True)
        return [row if status.decode() == OK else self._reason(item, status) for item, row, status in answers]

    def _reason(self, contents: bytes, status: bytes) -> DataError:
        """Why the export did not decode an image: what TensorFlow says of it here, where an error has its own words."""
        try:
            self.preprocessing.read(contents)
        except tf.errors.OpError as error:
            return _failure(error)
        return DataError(status.decode("utf-8"))

    def file_probabilities(self, images: Sequence[Path | bytes]) -> np.ndarray:
        """B files or encoded images -> (B, K) float32. Raises DataError, which names the first image that fails."""
        names = [
            f"image {index}" if isinstance(image, bytes) else one_line(str(image)) for index, image in enumerate(images)
        ]
        found = ((image or DataError(EMPTY)) if isinstance(image, bytes) else _contents(image) for image in images)
        contents = [_good(name, one) for name, one in zip(names, found, strict=True)]
        return np.stack([_good(name, row) for name, row in zip(names, self.rows(contents), strict=True)])

    def image_probabilities(self, images: np.ndarray) -> np.ndarray:
        """(B, H, W, C) float32 pixels in [0, 255] -> (B, K) float32."""
        return self.image_outputs(images)[self._answers]

    def predict_files(self, paths: Sequence[Path]) -> Iterator[tuple[Path, Row]]:
        """(path, (K,) float32 answer, or the error) for each file, in order."""
        return answer_files(self.rows, paths)


def answer_files(
    ask: Callable[[Sequence[bytes]], Sequence[Row] | np.ndarray], paths: Sequence[Path], batch_size: int = BATCH
) -> Iterator[tuple[Path, Row]]:
    """(path, the answer of `ask`) for each file, in order; `ask` takes up to `batch_size` encoded images.

    A file that cannot be read or decoded has the error in place of an answer, and does not affect the other files.
    """
    for start in range(0, len(paths), batch_size):
        batch = paths[start : start + batch_size]
        contents = [_contents(path) for path in batch]
        whole = [item for item in contents if isinstance(item, bytes)]
        try:
            rows: Iterator[Row] = iter(ask(whole) if whole else ())
        except tf.errors.OpError:
            rows = (_answer_one(ask, item) for item in whole)
        for path, item in zip(batch, contents, strict=True):
            yield path, next(rows) if isinstance(item, bytes) else item


def _contents(path: Path) -> bytes | DataError:
    try:
        return read_encoded(path)
    except DataError as error:
        return error


def _good(name: str, found: T | DataError) -> T:
    if isinstance(found, DataError):
        raise DataError(f"{name}: {found}")
    return found


def _answer_one(ask: Callable[[Sequence[bytes]], Sequence[Row] | np.ndarray], contents: bytes) -> Row:
    try:
        row: Row = ask([contents])[0]
    except tf.errors.OpError as error:
        return _failure(error)
    return row


def _failure(error: tf.errors.OpError) -> DataError:
    if isinstance(error, tf.errors.ResourceExhaustedError):
        raise KerazooError("there is not enough memory for the prediction of one image") from error
    return DataError(f"it cannot be decoded: {reason_of(error)}")
