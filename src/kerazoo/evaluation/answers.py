"""What a model answers for the examples of a split, the metrics of that, and the files that keep it."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from kerazoo.files import write_array, write_json, write_whole

TOLERANCE = 1e-4  # largest difference of a probability between two answers for an image; batches round otherwise


@dataclass(frozen=True)
class Evaluation:
    """N answers, (N, K) float32, and what was right, as in `Examples.labels`; the examples' `keys` name them.

    Answers are probabilities in [0, 1] of classes or labels, or the numbers of a regression. `loss` is the mean
    cross-entropy in nats (of a label, for multilabel), or the mean squared error.
    """

    split: str
    keys: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    class_names: tuple[str, ...]
    loss: float
    task: str = "multiclass"

    @property
    def predicted(self) -> np.ndarray:
        """(N,) class numbers, (N, K) 0 or 1 at p = 0.5, or (N, K) numbers."""
        if self.task == "multiclass":
            answers: np.ndarray = self.probabilities.argmax(axis=1)
            return answers
        return (self.probabilities >= 0.5).astype(np.float32) if self.task == "multilabel" else self.probabilities

    @property
    def accuracy(self) -> float:
        """The share answered right: of examples, or of the labels of all examples."""
        return float((self.predicted == self.labels).mean())

    @property
    def right(self) -> float:
        """The share of examples answered wholly right."""
        same = self.predicted == self.labels
        return float(same.all(axis=1).mean() if same.ndim == 2 else same.mean())

    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share of examples answered right (Wilson 1927), within [0, 1]."""
        count = len(self.labels)
        found = binomtest(round(self.right * count), count).proportion_ci(0.95, method="wilson")
        return float(found.low), float(found.high)

    def confusion(self) -> np.ndarray:
        """(K, K) counts; rows are true classes, columns answers."""
        size = len(self.class_names)
        return np.bincount(self.labels * size + self.predicted, minlength=size * size).reshape(size, size)

    def metrics(self) -> dict[str, Any]:
        """The metrics of the task, by name.

        multiclass: accuracy and its interval; multilabel: accuracy of labels, exact_match of examples and its interval,
        mean_average_precision over the labels that occur; regression: mae, rmse, r2.
        """
        if self.task == "multiclass":
            return {"accuracy": self.accuracy, "accuracy_interval": list(self.interval())}
        if self.task == "multilabel":
            known = [p for p in self.precisions().values() if p is not None]
            precision = {"mean_average_precision": float(np.mean(known)) if known else None}
            exact = {"exact_match": self.right, "exact_match_interval": list(self.interval())}
            return {"accuracy": self.accuracy, **exact, **precision}
        wide = self.labels.astype(np.float64)
        error = self.probabilities - wide
        unexplained, all_of_it = (error**2).sum(), ((wide - wide.mean(axis=0)) ** 2).sum()
        return {
            "mae": float(np.abs(error).mean()), "rmse": float(np.sqrt((error**2).mean())),
            "r2": float(1 - unexplained / all_of_it) if all_of_it else None,
        }  # fmt: skip

    def precisions(self) -> dict[str, float | None]:
        """The average precision of each label; None where it does not occur."""
        from sklearn.metrics import average_precision_score

        columns = zip(self.class_names, self.labels.T, self.probabilities.T, strict=True)
        return {name: float(average_precision_score(y, p)) if y.any() else None for name, y, p in columns}

    def summary(self) -> dict[str, Any]:
        """The metrics with the split's name before each: {"val_accuracy": ..., "val_loss": ..., "val_examples": ...}"""
        values = {**self.metrics(), "loss": self.loss, "examples": len(self.labels)}
        return {f"{self.split}_{name}": value for name, value in values.items()}

    def line(self) -> str:
        """One line for a person."""
        values, (low, high) = self.metrics(), self.interval()
        if self.task == "multiclass":
            said = f"accuracy {self.accuracy:.4f} (95 % {low:.4f}-{high:.4f})"
        elif self.task == "multilabel":
            said = f"accuracy of labels {self.accuracy:.4f}, all right {self.right:.4f} (95 % {low:.4f}-{high:.4f})"
            if values["mean_average_precision"] is not None:
                said += f", mean average precision {values['mean_average_precision']:.4f}"
        else:
            said = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if value is not None)
        return f"{self.split}: {said}, loss {self.loss:.4f}, {len(self.labels):,} images"

    def write(self, folder: Path) -> None:
        """`SPLIT.csv` (what was right and answered for each key), `SPLIT.npy` (answers), `SPLIT.json` (metrics)."""
        folder.mkdir(parents=True, exist_ok=True)
        text = io.StringIO()
        minimal, full = (csv.writer(text, lineterminator="\n", quoting=q) for q in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
        for row in self._rows():  # Python before 3.13 leaves a carriage return without quotes
            (full if any("\r" in str(cell) for cell in row) else minimal).writerow(row)
        write_whole(folder / f"{self.split}.csv", text.getvalue())
        write_array(folder / f"{self.split}.npy", self.probabilities)
        details: dict[str, Any] = {}
        if self.task == "multiclass":
            confusion = self.confusion()
            recall = confusion.diagonal() / np.maximum(confusion.sum(axis=1), 1)
            recalls = dict(zip(self.class_names, recall.tolist(), strict=True))
            details = {"recall": recalls, "confusion": confusion.tolist()}
        elif self.task == "multilabel":
            details = {"average_precision": self.precisions()}
        write_json(folder / f"{self.split}.json", {**self.summary(), **details})

    def _rows(self) -> Iterator[list[Any]]:
        names, answers = self.class_names, zip(self.keys, self.labels, self.predicted, self.probabilities, strict=True)
        if self.task == "multiclass":
            yield ["key", "label", "predicted", "probability"]
            for key, y, found, row in answers:
                yield [*map(as_text, (key, names[y], names[found])), f"{row[found]:.6f}"]
        elif self.task == "multilabel":
            yield ["key", "labels", "predicted", *map(as_text, names)]
            for key, y, found, row in answers:
                words = ["|".join(n for n, on in zip(names, ones, strict=True) if on) for ones in (y, found)]
                yield [*map(as_text, (key, *words)), *(f"{p:.6f}" for p in row)]
        else:
            yield ["key", *map(as_text, names), *(f"predicted_{name}" for name in names)]
            for key, y, _, row in answers:
                yield [as_text(key), *(f"{v:.9g}" for v in y), *(f"{v:.9g}" for v in row)]


def as_text(value: str) -> str:
    """A name as a cell of a CSV file which a spreadsheet takes for text, never for a formula.

    An apostrophe comes before what begins like a formula, and before another apostrophe, so that taking one off gives
    the name back. Source: OWASP, CSV Injection.
    """
    return f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t", "\r", "\n", "'") and value else value


def agree(answers: np.ndarray, recorded: np.ndarray, task: str) -> np.ndarray:
    """(N,) whether two answers for an image are the same, within TOLERANCE (of the number, where it is over 1).

    A multiclass answer must also be the same class.
    """
    near = np.abs(answers - recorded) <= TOLERANCE * np.maximum(1, np.abs(recorded))  # NaN is near nothing
    same: np.ndarray = near.all(axis=1)
    return same & (answers.argmax(axis=1) == recorded.argmax(axis=1)) if task == "multiclass" else same
