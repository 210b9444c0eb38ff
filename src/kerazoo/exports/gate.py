"""The gate: look into the files of an export, use it in a fresh process without keras, and compare every answer.

An export that differs from the evaluated model in anything that can be seen is refused, and the images are named.
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerazoo.errors import GateError
from kerazoo.exports.asking import ask
from kerazoo.exports.graph_check import check_graph, check_variables
from kerazoo.exports.layout import CLASS_NAMES, CLASSES, CLASSIFY, FEATURES, OK, PREPARE, PREPARED, SCORES, STATUS
from kerazoo.exports.questions import Question
from kerazoo.tasks.measures import TOLERANCE, near
from kerazoo.tasks.task import find_task

if TYPE_CHECKING:
    import keras

    from kerazoo.models.description import ModelSpec
    from kerazoo.pipelines.data.examples import Examples
    from kerazoo.tasks.base import Task


NUMBERS = {FEATURES: FEATURES, PREPARE: PREPARED}  # signatures without answers, and what they give


@dataclass(frozen=True)
class GateResult:
    """The result for an export that passed: the number of compared `images` of a `split`, and of `synthetic` images.

    `largest_difference` is the largest difference of a probability, or of a regression's number; `signatures` are the
    names of those that were asked.
    """

    split: str
    images: int
    synthetic: int
    largest_difference: float
    signatures: Sequence[str] = ()

    def line(self) -> str:
        """The result in one line."""
        largest = f"largest difference {self.largest_difference:.1g}"
        return f"answers {self.images:,} {self.split} images as the run did ({largest})"

    def to_json(self) -> dict[str, Any]:
        """The fields, as in the passport."""
        return {**asdict(self), "signatures": list(self.signatures)}


def check_export(
    export: Path,
    spec: "ModelSpec",
    model: "keras.Model",
    val: "Examples",
    asked: Sequence[Question],
    scratch: Path,
) -> GateResult:
    """The result of the gate for `export`.

    `asked` are its questions, the first of which is about all of `val`. Temporary files are written into `scratch`. A
    copy of the export is used, as it may be copied to a server. Raises GateError if a file or an answer differs, or if
    the export cannot be loaded.
    """
    check_graph(export)
    check_variables(export, model)
    copy = scratch / "copy"
    shutil.copytree(export, copy)
    differences = []
    for question, outputs in zip(asked, ask(copy, asked, scratch), strict=True):
        same, difference = compare(outputs, question, val.class_names, find_task(spec.task))
        wrong = [key for key, is_same in zip(question.keys, same, strict=True) if not is_same]
        if wrong:
            other = "the evaluated model" if question.recorded else "the run's own network"
            raise GateError(
                f"the export does not give the same answers as {other} for {len(wrong)} of {len(same)} images, "
                f"{_named(wrong)} (signature {question.signature}, largest difference {difference.max():.2g})"
            )
        if question.signature not in NUMBERS:
            differences.append(float(difference.max()))
    synthetic = sum(
        len(question.keys) for question in asked if not question.recorded and question.signature not in NUMBERS
    )
    names = tuple(dict.fromkeys(question.signature for question in asked))
    return GateResult("val", len(val), synthetic, max(differences), names)


def _named(keys: Sequence[str], most: int = 5) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more


def compare(
    outputs: dict[str, Any], question: Question, names: Sequence[str], task: "Task"
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) whether every output of a signature is right for each image, and (N,) the largest difference of a number.

    Raises GateError if the outputs are not those of the signature, or if their class names are not `names`.
    """
    expected = question.expected
    output = NUMBERS.get(question.signature, "")
    wanted = {output, STATUS} if output else {*task.outputs, STATUS}
    if question.signature in (CLASSIFY, PREPARE):
        wanted = {CLASSES, SCORES} if question.signature == CLASSIFY else {PREPARED}
    if set(outputs) != wanted:
        raise GateError(
            f"the outputs of the signature {question.signature} must be {', '.join(sorted(wanted))}, got "
            f"{', '.join(sorted(outputs))}"
        )
    if question.signature == CLASSIFY:
        return _compare_classes(outputs, expected, names, task)
    is_answered = np.array([status == OK for status in outputs.get(STATUS, [OK] * len(expected))])
    if output:
        return _compare_numbers(output, outputs[output], expected, is_answered)
    for row in outputs[CLASS_NAMES]:
        if row != list(names):
            raise GateError(f"the class names of the export are {row[:5]}, but those of the data are {list(names)[:5]}")
    answers = outputs[task.main_output]
    if answers.shape != expected.shape:
        raise GateError(f"the export's answers must have the shape {expected.shape}, got {answers.shape}")
    difference: np.ndarray = np.abs(answers - expected).max(axis=1)
    same = is_answered & (task.agree(answers, expected) if question.recorded else near(answers, expected))
    if not task.probabilities:
        return same, difference

    count = outputs["top_probabilities"].shape[1]
    index = {name: number for number, name in enumerate(names)}
    top = np.array([[index.get(label, -1) for label in row] for row in outputs["top_labels"]])
    if top.shape != outputs["top_probabilities"].shape or (top < 0).any():
        raise GateError("the export's top_labels are not names of the data's classes")
    best = -np.sort(-expected, axis=1)[:, :count]
    of_labels = np.take_along_axis(expected, top, axis=1)
    for numbers in (best, of_labels):
        off = np.abs(outputs["top_probabilities"] - numbers).max(axis=1)
        same &= off <= TOLERANCE
        difference = np.maximum(difference, off)
    same &= [len(set(row)) == count for row in outputs["top_labels"]]
    same &= [label == row[0] for label, row in zip(outputs["label"], outputs["top_labels"], strict=True)]
    if question.recorded:
        same &= task.is_first(top[:, 0], expected)
    return same, difference


def _compare_classes(
    outputs: dict[str, Any], expected: np.ndarray, names: Sequence[str], task: "Task"
) -> tuple[np.ndarray, np.ndarray]:
    """As `compare`, for the signature that TensorFlow Serving's classify requests are answered by."""
    scores = outputs[SCORES]
    if scores.shape != expected.shape:
        raise GateError(f"the export's scores must have the shape {expected.shape}, got {scores.shape}")
    named = np.array([row == list(names) for row in outputs[CLASSES]])
    difference: np.ndarray = np.abs(scores - expected).max(axis=1)
    return named & task.agree(scores, expected), difference


def _compare_numbers(
    name: str, values: np.ndarray, expected: np.ndarray, is_answered: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """As `compare`, for features or prepared images; the tolerance is a share of the largest: they have any scale."""
    if values.shape != expected.shape:
        raise GateError(f"the export's {name} must have the shape {expected.shape}, got {values.shape}")
    scale = max(1.0, float(np.abs(expected).max()))
    difference: np.ndarray = np.abs(values - expected).reshape(len(values), -1).max(axis=1)
    return is_answered & (difference <= TOLERANCE * scale), difference
