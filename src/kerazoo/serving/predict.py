"""Predictions for files, from a run or from an export, in the same form."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kerazoo.errors import DataError, RunError
from kerazoo.evaluation.answers import as_text
from kerazoo.exports.folder import find_export
from kerazoo.exports.formats.table import SAVED_MODEL_FORMAT, find_formats
from kerazoo.pipelines.data.file_names import image_files, one_line, undecodable
from kerazoo.tasks.columns import BETWEEN, escaped
from kerazoo.tasks.task import find_task

URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclass(frozen=True)
class Prediction:
    """The prediction for one file: class names with probabilities in [0, 1], largest first; or a regression's numbers.

    `labels`, where an image may have several, are those that it is given: whose probability is at least the threshold
    that the model keeps for the label, or 0.5 (`ModelSpec`), in the order of the model's labels; otherwise None. They
    may be more than are in `top`. If a file has no prediction, `error` says why.
    """

    path: Path
    top: tuple[tuple[str, float], ...] = ()
    task: str = "multiclass"
    error: str = ""
    labels: tuple[str, ...] | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of `rows`: the last one, `labels`, only where an image may have several labels."""
        return ("file", "rank", "name", "value", "error", *(("labels",) if find_task(self.task).has_thresholds else ()))

    def rows(self) -> Iterator[tuple[str, ...]]:
        """A row of text for each name in `top`, under the `columns`; one row for an error.

        The column `labels` has in each row all labels that the image is given, with `|` between them. Within a name, a
        backslash is before each `|` and each backslash.
        """
        more: tuple[str, ...] = ()
        if find_task(self.task).has_thresholds:
            more = (as_text(BETWEEN.join(map(escaped, self.labels or ()))),)
        if self.error:
            yield str(self.path), "", "", "", self.error, *more
        for rank, (name, value) in enumerate(self.top, 1):
            yield str(self.path), str(rank), as_text(name), f"{value:.6g}", "", *more

    def to_json(self) -> dict[str, Any]:
        """{"file": ..., "label": ..., "probability": ..., "top": [[name, probability], ...]}, or
        {"file": ..., "values": {name: number}}, or {"file": ..., "error": ...}.

        Where an image may have several labels, "labels": [name, ...] has those that it is given; "label" is the most
        probable one, given or not."""
        if self.error:
            return {"file": str(self.path), "error": self.error}
        return {"file": str(self.path), **find_task(self.task).top_json(self.top, self.labels)}

    def line(self) -> str:
        """The prediction in one line, with escapes for characters that cannot be printed: [given labels] first."""
        answer = self.error or "  ".join(f"{one_line(label)} {value:.4f}" for label, value in self.top)
        given = "" if self.labels is None else f"[{', '.join(map(one_line, self.labels))}]  "
        return f"{one_line(str(self.path))}  {given}{answer}"


def predict(
    model: str | Path, targets: Sequence[str | Path], *, top: int = 5, format: str = SAVED_MODEL_FORMAT
) -> Iterator[Prediction]:
    """The `top` most probable classes for every image in `targets` (files, or folders with all their images).

    Where an image may have several labels, also those that it is given by the model's thresholds.

    `model` is an export (which needs only TensorFlow), the name of one (saved_models/NAME, for its newest version), or
    a run. `format` is the one of an export's formats that answers, which needs only its own engine. A file that cannot
    be decoded gives a prediction with an `error`. Raises RunError and DataError; InputError for an unknown format.
    """
    files = find_files(targets)
    export = find_export(model)
    (other,) = find_formats([format], needed=False) or (None,)
    if other is not None:
        if export is None:
            raise RunError(f"{model} is not an export, so it has no format {other.name!r}; leave the format out")
        from kerazoo.exports.formats.answering import FormatModel

        served = FormatModel(export, other)
        described = Described(served.class_names, served.task, served.thresholds)
        answers = served.predict_files(files)
    elif export is not None:
        from kerazoo.exports.saved_model import ExportedModel

        exported = ExportedModel(export)
        described = Described(exported.class_names, exported.task, exported.thresholds)
        answers = exported.predict_files(files)
    else:
        answers, described = _from_run(model, files)
    return (_prediction(path, answer, described, top) for path, answer in answers)


def find_files(targets: Sequence[str | Path]) -> list[Path]:
    """The files in `targets`, and the images in its folders. Raises DataError if one is missing or empty."""
    files: list[Path] = []
    for given in targets:
        target = Path(given)
        if target.is_dir():
            images, others = image_files(target)
            if not images:
                raise DataError(f"there are no images in {target}{undecodable(others)}")
            files += images
        elif target.exists():  # the prediction for a pipe or a device is an error
            files.append(target)
        elif URL.match(str(given)):
            raise DataError(f"{given}: URLs are not read; download the image, and give the path of the file")
        else:
            raise DataError(f"there is no file or folder {target}")
    return files


Answers = Iterator[tuple[Path, "np.ndarray | DataError"]]


@dataclass(frozen=True)
class Described:
    """What is known of answers: the K names of their columns, the task, and the thresholds of labels."""

    names: tuple[str, ...]
    task: str
    thresholds: tuple[float, ...]


def _from_run(model: str | Path, files: list[Path]) -> tuple[Answers, Described]:
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

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)], autograph=False)  # type: ignore[untyped-decorator]
    def prepare(contents: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(spec.preprocessing, contents, fn_output_signature=prepared)

    def ask(contents: Sequence[bytes]) -> np.ndarray:
        images = prepare(tf.constant(list(contents), tf.string)).numpy()
        # all batches of many files have the same shape, so that the network is compiled once
        spare = BATCH - len(images) if len(files) > BATCH else 0
        padded = np.concatenate([images, np.repeat(images[-1:], spare, axis=0)])
        answers = spec.answers(keras.ops.convert_to_tensor(network.predict_on_batch(padded)))
        rows: np.ndarray = keras.ops.convert_to_numpy(answers)[: len(images)]
        return rows

    return answer_files(ask, files), Described(spec.class_names, spec.task, spec.thresholds)


def _prediction(path: Path, answer: "np.ndarray | DataError", described: Described, top: int) -> Prediction:
    task = find_task(described.task)
    if isinstance(answer, DataError):
        return Prediction(path, task=task.name, error=str(answer))
    labels = task.given(answer, described.names, described.thresholds)
    return Prediction(path, task.top(answer, described.names, top), task.name, labels=labels)
