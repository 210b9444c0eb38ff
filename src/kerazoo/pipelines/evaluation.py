"""Evaluation: what a model answers for every example of a split, kept on disk, and the metrics of it."""

import csv
import io
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerazoo.errors import DataError, GateError, KerazooError
from kerazoo.models.heads import find_head
from kerazoo.models.stored import ModelSpec, load_model, read_json, write_json, write_text
from kerazoo.pipelines.batches import evaluation_batches
from kerazoo.pipelines.examples import Examples, check_class_names, load_examples
from kerazoo.pipelines.preflight import check_pictures
from kerazoo.pipelines.runs import Run

TOLERANCE = 1e-4  # largest difference of a probability between two answers for a picture; batches round otherwise


@dataclass(frozen=True)
class Evaluation:
    """N answers: `probabilities` (N, K) float32 in [0, 1], `labels` (N,), and the examples' `keys`."""

    split: str
    keys: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    class_names: tuple[str, ...]
    loss: float  # mean cross-entropy in nats

    @property
    def predicted(self) -> np.ndarray:
        """(N,) class numbers."""
        answers: np.ndarray = self.probabilities.argmax(axis=1)
        return answers

    @property
    def accuracy(self) -> float:
        """The share of examples answered right."""
        return float((self.predicted == self.labels).mean())

    def interval(self, z: float = 1.96) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy (Wilson 1927)."""
        n, p = len(self.labels), self.accuracy
        centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return ((centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n))

    def confusion(self) -> np.ndarray:
        """(K, K) counts; rows are true classes, columns answers."""
        size = len(self.class_names)
        return np.bincount(self.labels * size + self.predicted, minlength=size * size).reshape(size, size)

    def summary(self) -> dict[str, Any]:
        """{"val_accuracy": ..., "val_accuracy_interval": [low, high], "val_loss": ..., "val_examples": ...}"""
        values = {
            "accuracy": self.accuracy, "accuracy_interval": list(self.interval()), "loss": self.loss,
            "examples": len(self.labels),
        }  # fmt: skip
        return {f"{self.split}_{name}": value for name, value in values.items()}

    def line(self) -> str:
        """One line for a person."""
        low, high = self.interval()
        accuracy = f"accuracy {self.accuracy:.4f} (95 % {low:.4f}-{high:.4f})"
        return f"{self.split}: {accuracy}, loss {self.loss:.4f}, {len(self.labels):,} pictures"

    def write(self, folder: Path) -> None:
        """`SPLIT.csv` (key, label, predicted, probability), `SPLIT.npy` (probabilities), `SPLIT.json` (metrics)."""
        folder.mkdir(parents=True, exist_ok=True)
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["key", "label", "predicted", "probability"])
        names = self.class_names
        for key, label, answer, row in zip(self.keys, self.labels, self.predicted, self.probabilities, strict=True):
            table.writerow([key, names[label], names[answer], f"{row[answer]:.6f}"])
        write_text(folder / f"{self.split}.csv", text.getvalue())
        temporary = folder / f"{self.split}.{os.getpid()}.tmp.npy"
        np.save(temporary, self.probabilities)
        temporary.replace(folder / f"{self.split}.npy")
        confusion = self.confusion()
        recall = confusion.diagonal() / np.maximum(confusion.sum(axis=1), 1)
        details = {"recall": dict(zip(names, recall.tolist(), strict=True)), "confusion": confusion.tolist()}
        write_json(folder / f"{self.split}.json", {**self.summary(), **details})


def evaluate_model(model: keras.Model, spec: ModelSpec, examples: Examples, folder: Path, split: str) -> Evaluation:
    """What `model` answers for `examples`, in inference mode; written into `folder`."""
    result = answers_of(model, spec, examples, split)
    result.write(folder)
    return result


def answers_of(model: keras.Model, spec: ModelSpec, examples: Examples, split: str) -> Evaluation:
    """What `model` answers for `examples`, in inference mode. Raises KerazooError where an answer is not finite."""
    logits = model.predict(evaluation_batches(examples, spec.preprocessing), verbose=0)
    if not np.isfinite(logits).all():
        bad = examples.keys[int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])]
        raise KerazooError(f"the network's answer for {bad} is not a finite number; train with a lower learning rate")
    probabilities = keras.ops.convert_to_numpy(find_head(spec.head).answers(keras.ops.convert_to_tensor(logits)))
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    right = wide[np.arange(len(wide)), examples.labels]
    loss = float((np.log(np.exp(wide).sum(axis=1)) - right).mean())
    return Evaluation(split, examples.keys, examples.labels, probabilities, spec.class_names, loss)


def evaluate(run: Run, data: str | None = None) -> list[Evaluation]:
    """Evaluate a finished run on its own val and test, or on every split of other `data` (all of it as `test`, where
    it has no splits of its own).

    Answers on its own data must be those the run recorded; results on other data go into `evaluation/NAME-DIGEST/`.
    Raises DataError where the run's data has changed since, or where the classes differ, and GateError where the
    answers do.
    """
    recipe = run.recipe()
    spec, model = load_model(run.folder)
    examples = load_examples(data or recipe.data.path, validation=None if data else recipe.data.validation)
    check_class_names(examples.class_names, spec.class_names, examples.source)
    folder = run.folder / "evaluation"
    if data is not None:
        check_pictures(examples, spec.preprocessing)
        folder = folder / f"{Path(examples.source).stem}-{examples.digest()[:8]}"
        return [evaluate_model(model, spec, examples.split(s), folder, s) for s in examples.split_names]
    check_unchanged(run, examples)
    results = []
    for split in examples.split_names[1:]:
        result = answers_of(model, spec, examples.split(split), split)
        recorded = np.load(folder / f"{split}.npy")
        if not np.allclose(result.probabilities, recorded, rtol=0, atol=TOLERANCE):
            raise GateError(f"{run.folder} does not answer its {split} pictures as it did when it was trained")
        results.append(result)
    return results


def check_unchanged(run: Run, examples: Examples) -> None:
    """Raise DataError where `examples` are not what `run` was trained on, byte by byte."""
    recorded = read_json(run.folder / "data.json")["digest"]
    if examples.digest() != recorded:
        raise DataError(
            f"{examples.source} has changed since {run.folder} was trained (its digest was {recorded[:16]}); "
            f"name it with --data {examples.source} to evaluate on it as it is now"
        )
