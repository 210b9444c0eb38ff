"""Predictions for files, from a run or from an export, in one form."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kerazoo.errors import DataError
from kerazoo.exports.folder import find_export
from kerazoo.pipelines.data.file_names import image_files, one_line, undecodable
from kerazoo.tasks.task import find_task


@dataclass(frozen=True)
class Prediction:
    """The answer for one file: class names by falling probability, in [0, 1]; or a regression's numbers by name.

    A file that has no answer has an `error` that says why.
    """

    path: Path
    top: tuple[tuple[str, float], ...] = ()
    task: str = "multiclass"
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """{"file": ..., "label": ..., "probability": ..., "top": [[name, probability], ...]}, or
        {"file": ..., "values": {name: number}}, or {"file": ..., "error": ...}."""
        if self.error:
            return {"file": str(self.path), "error": self.error}
        return {"file": str(self.path), **find_task(self.task).top_json(self.top)}

    def line(self) -> str:
        """One line for a person; characters that do not print are written out."""
        said = self.error or "  ".join(f"{one_line(label)} {value:.4f}" for label, value in self.top)
        return f"{one_line(str(self.path))}  {said}"


def predict(model: str | Path, targets: Sequence[str | Path], *, top: int = 5) -> Iterator[Prediction]:
    """The `top` likeliest classes for every image in `targets` (files, or folders read through).

    `model` is an export (answered by TensorFlow alone), the newest version of one (saved_models/NAME), or a run. A file
    that cannot be decoded is a prediction with an `error`. Raises RunError and DataError.
    """
    files = find_files(targets)
    export = find_export(model)
    if export is not None:
        from kerazoo.exports.saved_model import ExportedModel

        loaded = ExportedModel(export)
        answers, names, task = loaded.predict_files(files), loaded.class_names, loaded.task
    else:
        answers, names, task = _from_run(model, files)
    return (_prediction(path, found, names, task, top) for path, found in answers)


def find_files(targets: Sequence[str | Path]) -> list[Path]:
    """Files as given, and the images below folders. Raises DataError for what is missing or empty."""
    files: list[Path] = []
    for target in map(Path, targets):
        if target.is_dir():
            found, others = image_files(target)
            if not found:
                raise DataError(f"there are no images in {target}{undecodable(others)}")
            files += found
        elif target.exists():  # what is no regular file becomes a row that says so
            files.append(target)
        else:
            raise DataError(f"there is no file or folder {target}")
    return files


Answers = Iterator[tuple[Path, "np.ndarray | DataError"]]


def _from_run(model: str | Path, files: list[Path]) -> tuple[Answers, tuple[str, ...], str]:
    import keras
    import tensorflow as tf

    from kerazoo.exports.saved_model import BATCH, answer_files
    from kerazoo.models.saved import load_model
    from kerazoo.runs.digests import check_digests
    from kerazoo.runs.run import open_run

    folder = open_run(model).folder
    check_digests(folder)
    spec, network = load_model(folder)
    prepared = tf.TensorSpec(spec.preprocessing.shape, tf.float32)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])  # type: ignore[untyped-decorator]
    def prepare(contents: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(spec.preprocessing, contents, fn_output_signature=prepared)

    def ask(contents: Sequence[bytes]) -> np.ndarray:
        images = prepare(tf.constant(list(contents), tf.string)).numpy()
        # one shape for all batches of many files, so that the network is compiled once
        spare = BATCH - len(images) if len(files) > BATCH else 0
        padded = np.concatenate([images, np.repeat(images[-1:], spare, axis=0)])
        answers = spec.answers(keras.ops.convert_to_tensor(network.predict_on_batch(padded)))
        found: np.ndarray = keras.ops.convert_to_numpy(answers)[: len(images)]
        return found

    return answer_files(ask, files), spec.class_names, spec.task


def _prediction(path: Path, found: "np.ndarray | DataError", names: tuple[str, ...], task: str, top: int) -> Prediction:
    if isinstance(found, DataError):
        return Prediction(path, task=task, error=str(found))
    return Prediction(path, find_task(task).top(found, names, top), task)
