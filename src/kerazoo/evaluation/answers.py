"""A model's answers for the examples of a split, their metrics, and the files that store them."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kerazoo.files import write_array, write_json, write_whole
from kerazoo.tasks.measures import confusion, interval, mean_interval
from kerazoo.tasks.task import find_task
from kerazoo.tasks.thresholds import cross_fitted_labels, given_labels, macro_f1

FOLDS = "folds"  # the name of out-of-fold answers among splits


@dataclass(frozen=True)
class Evaluation:
    """N answers, (N, K) float32, with the true labels, as in `Examples.labels`, and the `keys` of the examples.

    Answers are probabilities in [0, 1] of classes or labels, or the numbers of a regression. `loss` is the mean
    cross-entropy in nats (for each label, for multilabel), or the mean squared error.

    `thresholds` are those of the model's labels, empty for 0.5 each (`ModelSpec`). `chose` is whether they were chosen
    by these answers, so that what they are worth must be measured by cross-fitting.
    """

    split: str
    keys: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    class_names: tuple[str, ...]
    loss: float
    task: str = "multiclass"
    thresholds: tuple[float, ...] = ()
    chose: bool = False

    @property
    def is_exclusive(self) -> bool:
        """Whether each example has exactly one class."""
        return find_task(self.task).exclusive

    @property
    def has_probabilities(self) -> bool:
        """Whether the answers are probabilities, or else numbers."""
        return find_task(self.task).probabilities

    @property
    def losses(self) -> np.ndarray:
        """(N,) the loss of each example, as in `loss`."""
        return find_task(self.task).losses_of_answers(self.probabilities, self.labels)

    @property
    def scores(self) -> np.ndarray:
        """(N,) 1 or 0 for a class, the share of labels that are right, or minus the mean absolute error."""
        return find_task(self.task).scores_of_answers(self.probabilities, self.labels)

    @property
    def predicted(self) -> np.ndarray:
        """(N,) class numbers, (N, K) 0 or 1 at p = 0.5 whatever the thresholds, or (N, K) numbers."""
        return find_task(self.task).predicted(self.probabilities)

    @property
    def accuracy(self) -> float:
        """The share of right answers: of examples, or for multilabel, of the labels of all examples."""
        return find_task(self.task).accuracy(self.labels, self.probabilities)

    @property
    def right(self) -> float:
        """The share of examples for which the whole answer is right."""
        return find_task(self.task).right(self.labels, self.probabilities)

    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share of right answers, within [0, 1]."""
        return interval(self.right, len(self.labels))

    def score_interval(self) -> tuple[float, float]:
        """Student's 95 % interval of the mean of `scores`; infinite for one example."""
        return mean_interval(self.scores)

    def confusion(self) -> np.ndarray:
        """(K, K) counts; rows are true classes, columns answers."""
        return confusion(self.labels, self.predicted, len(self.class_names))

    def truth(self, row: int) -> str:
        """The true label of one example as text."""
        return find_task(self.task).text(self.labels[row], self.class_names)

    def answer(self, row: int) -> str:
        """The predicted label of one example as text."""
        return find_task(self.task).text(self.predicted[row], self.class_names)

    def take(self, rows: Sequence[int]) -> "Evaluation":
        """The evaluation of some examples, in that order."""
        chosen = np.asarray(rows, np.int64)
        labels, answers = self.labels[chosen], self.probabilities[chosen]
        loss = float(find_task(self.task).losses_of_answers(answers, labels).mean())
        keys = tuple(self.keys[row] for row in chosen)
        return replace(self, keys=keys, labels=labels, probabilities=answers, loss=loss)

    def metrics(self) -> dict[str, Any]:
        """The metrics of the task, by name.

        multiclass: accuracy and its interval; multilabel: accuracy of labels, exact_match of examples and its interval,
        macro_f1 and mean_average_precision over the labels that occur, and macro_f1_thresholds if the model has
        thresholds; regression: mae, rmse, r2. All but the last two of multilabel are at p = 0.5.
        """
        values = find_task(self.task).metrics(self.labels, self.probabilities)
        return {**values, "macro_f1_thresholds": self.macro_f1_thresholds} if self.thresholds else values

    @cached_property
    def macro_f1_thresholds(self) -> float | None:
        """As macro_f1, with the model's `thresholds` in place of 0.5; None if no label occurs.

        If these answers chose the thresholds, it is by cross-fitting: each fifth of the examples gets the thresholds
        that the others choose.
        """
        if self.chose:
            return macro_f1(self.labels, cross_fitted_labels(self.labels, self.probabilities))
        return macro_f1(self.labels, given_labels(self.probabilities, self.thresholds))

    def summary(self) -> dict[str, Any]:
        """The metrics with the split's name before each: {"val_accuracy": ..., "val_loss": ..., "val_examples": ...}"""
        values = {**self.metrics(), "loss": self.loss, "examples": len(self.labels)}
        return {f"{self.split}_{name}": value for name, value in values.items()}

    def line(self) -> str:
        """The result in one line."""
        metrics = find_task(self.task).line(self.labels, self.probabilities)
        if self.thresholds and self.macro_f1_thresholds is not None:
            how = " by cross-fitting" if self.chose else ""
            metrics += f", macro F1 at the labels' thresholds{how} {self.macro_f1_thresholds:.4f}"
        return f"{self.split}: {metrics}, loss {self.loss:.4f}, {len(self.labels):,} images"

    def write(self, folder: Path) -> None:
        """Write `SPLIT.csv` (true label and answer of each key), `SPLIT.npy` (answers) and `SPLIT.json` (metrics)."""
        folder.mkdir(parents=True, exist_ok=True)
        text = io.StringIO()
        minimal, full = (csv.writer(text, lineterminator="\n", quoting=q) for q in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
        for row in self._rows():  # Python before 3.13 does not quote a carriage return
            (full if any("\r" in str(cell) for cell in row) else minimal).writerow(row)
        write_whole(folder / f"{self.split}.csv", text.getvalue())
        write_array(folder / f"{self.split}.npy", self.probabilities)
        details = find_task(self.task).details(self.labels, self.probabilities, self.class_names)
        write_json(folder / f"{self.split}.json", {**self.summary(), **details})

    def _rows(self) -> Iterator[list[str]]:
        task = find_task(self.task)
        yield ["key", *map(as_text, task.columns(self.class_names))]
        rows = zip(self.keys, self.labels, self.predicted, self.probabilities, strict=True)
        for key, label, predicted, answer in rows:
            cells = task.cells(label, predicted, answer, self.class_names)
            written = (as_text(c) if isinstance(c, str) else format(c, task.digits) for c in cells)
            yield [as_text(key), *written]


def as_text(value: str) -> str:
    """A name as a CSV cell that a spreadsheet reads as text, never as a formula.

    An apostrophe is added before text that begins like a formula or with an apostrophe. Removing one apostrophe gives
    the name again. Source: OWASP, CSV Injection.
    """
    return f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t", "\r", "\n", "'") and value else value


def from_text(value: str) -> str:
    """The name that `as_text` wrote."""
    return value.removeprefix("'")
