"""Predictions for files, from a run or from an export, in one form."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kerazoo.errors import DataError, RunError
from kerazoo.pipelines.examples import undecodable
from kerazoo.pipelines.image_folder import picture_files
from kerazoo.serving.saved_model import PASSPORT, ExportedModel, read_file


@dataclass(frozen=True)
class Prediction:
    """The answer for one file: class names by falling probability, in [0, 1]; or a regression's numbers by name."""

    path: Path
    top: tuple[tuple[str, float], ...]
    task: str = "multiclass"

    def to_json(self) -> dict[str, Any]:
        """{"file": ..., "label": ..., "probability": ..., "top": [[name, probability], ...]}, or
        {"file": ..., "values": {name: number}}."""
        if self.task == "regression":
            return {"file": str(self.path), "values": dict(self.top)}
        label, probability = self.top[0]
        return {"file": str(self.path), "label": label, "probability": probability, "top": [list(t) for t in self.top]}


def predict(model: str | Path, targets: list[Path], *, top: int = 5) -> list[Prediction]:
    """The `top` likeliest classes for every picture in `targets` (files, or folders read through).

    `model` is an export folder (answered by TensorFlow alone) or a run. Raises RunError and DataError.
    """
    files = find_files(targets)
    export = Path(model)
    if (export / PASSPORT).is_file():
        loaded = ExportedModel(export)
        answers, names, task = list(loaded.predict_files(files)), loaded.class_names, loaded.task
    elif (export / "saved_model.pb").is_file():
        raise RunError(f"{model} is a SavedModel without {PASSPORT}: it was not made by `kerazoo export`")
    else:
        answers, names, task = _from_run(model, files)
    if task == "regression":
        return [Prediction(path, tuple(zip(names, map(float, row), strict=True)), task) for path, row in answers]
    return [Prediction(path, _top(row, names, top), task) for path, row in answers]


def find_files(targets: list[Path]) -> list[Path]:
    """Files as given, and the pictures below folders. Raises DataError for what is missing or empty."""
    files: list[Path] = []
    for target in targets:
        if target.is_dir():
            found, others = picture_files(target)
            if not found:
                raise DataError(f"there are no pictures in {target}{undecodable(others)}")
            files += found
        elif target.is_file():
            files.append(target)
        else:
            raise DataError(f"there is no file or folder {target}")
    return files


def _from_run(model: str | Path, files: list[Path]) -> tuple[list[tuple[Path, np.ndarray]], tuple[str, ...], str]:
    import keras
    import tensorflow as tf

    from kerazoo.models.stored import load_model
    from kerazoo.pipelines.runs import open_run

    spec, network = load_model(open_run(model).folder)
    answers = []
    for path in files:
        try:
            x = spec.preprocessing(tf.constant(read_file(path)))
        except tf.errors.OpError as error:
            raise DataError(f"{path} cannot be decoded; it must be a JPEG, PNG, GIF, BMP or WebP picture") from error
        logits = network(x[None], training=False)
        answers.append((path, keras.ops.convert_to_numpy(spec.answers(logits))[0]))
    return answers, spec.class_names, spec.head


def _top(row: np.ndarray, names: tuple[str, ...], count: int) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-row, kind="stable")[:count]
    return tuple((names[i], float(row[i])) for i in order)
