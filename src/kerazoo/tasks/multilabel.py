"""Multilabel: an image may have several labels, or none."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerazoo.errors import DataError
from kerazoo.tasks.columns import in_order, join_labels, labels_in, numbers, split_labels
from kerazoo.tasks.linear import ALL, Rows, Solution, one_label
from kerazoo.tasks.measures import average_precisions, calibration_gap, interval
from kerazoo.tasks.probabilities import LEAST, MOST, Probabilities, log_mean
from kerazoo.tasks.thresholds import given_labels, macro_f1


@dataclass(frozen=True)
class Multilabel(Probabilities):
    """Labels are (N, K) float32 of 0 and 1, answers the sigmoids of the logits."""

    name: str = "multilabel"
    column: str = "labels"
    units: str = "labels"
    loss: str = "binary_cross_entropy"
    other_losses: tuple[str, ...] = ("focal", "quadratic")
    exclusive: bool = False

    def make_metric(self, *, soft: bool = False) -> Any:
        """The accuracy of labels at p = 0.5."""
        import keras

        return keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)  # a logit of 0 is p = 0.5

    def answers(self, logits: Any) -> Any:
        """The sigmoids."""
        from keras import ops

        return ops.sigmoid(logits)

    def pooled(self, logits: Sequence[Any]) -> Any:
        """The log-odds of the mean probabilities."""
        return log_mean([self.answers(one) for one in logits]) - log_mean([self.answers(-one) for one in logits])

    def read_columns(
        self, where: str, columns: Sequence[Sequence[Any]], names: Sequence[str]
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """The labels from one column of names, or from a column of 0 and 1 for each label."""
        if len(columns) > 1:
            values = numbers(where, columns, names)
            if not np.isin(values, (0, 1)).all():
                row, at = np.argwhere(~np.isin(values, (0, 1)))[0]
                raise DataError(
                    f"{where}, row {row + 1}: column {names[at]} must be 0 or 1, got {values[row, at]:g}; to predict "
                    'numbers, set data.task="regression"'
                )
            return values.astype(np.float32), tuple(names)
        sets = [labels_in(value) for value in columns[0]]
        class_names = in_order(label for labels in sets for label in labels)
        if not class_names:
            raise DataError(f"{where}: column {names[0]} is empty in every row")
        targets = np.array([[name in labels for name in class_names] for labels in sets], np.float32)
        return targets.reshape(len(sets), len(class_names)), class_names

    def from_stored(self, values: Sequence[Any], units: int) -> np.ndarray:
        """0 and 1 from lists of label numbers."""
        return np.array([[unit in row for unit in range(units)] for row in values], np.float32)

    def counts(self, labels: np.ndarray, names: Sequence[str]) -> dict[str, int]:
        """The number of examples with each label."""
        return dict(zip(names, labels.sum(axis=0).astype(int).tolist(), strict=True))

    def text(self, label: Any, names: Sequence[str]) -> str:
        """The names of the labels."""
        return "+".join(name for name, on in zip(names, label, strict=True) if on) or "no label"

    def scores(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The shares of labels that are right."""
        shares: np.ndarray = ((logits >= 0) == (labels >= 0.5)).mean(axis=1)
        return shares

    def scores_of_answers(self, answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """As in `Task`."""
        return self.scores(answers - 0.5, labels)

    def losses(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The mean cross-entropy of the sigmoids, nats."""
        z = logits.astype(np.float64)
        losses: np.ndarray = (np.maximum(z, 0) - z * labels + np.log1p(np.exp(-np.abs(z)))).mean(axis=1)
        return losses

    def losses_of_answers(self, answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """As in `Task`."""
        wide = np.clip(answers.astype(np.float64), LEAST, MOST)
        return self.losses(np.log(wide) - np.log1p(-wide), labels)

    def doubts(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The losses with one label inverted, as the mean over the labels."""
        z = logits.astype(np.float64)
        inverted: np.ndarray = self.losses(logits, labels) + (z * (2 * labels - 1)).mean(axis=1) / z.shape[1]
        return inverted

    def calibration_error(self, logits: np.ndarray, labels: np.ndarray) -> float:
        """The error over all labels of all examples."""
        chances = 0.5 * (1 + np.tanh(logits.astype(np.float64).ravel() / 2))  # the sigmoid, without overflow
        return calibration_gap(chances, labels.ravel())

    def loss_slope(self, logits: np.ndarray, labels: np.ndarray) -> Callable[[float], float]:
        """The mean logit expected by the sigmoids, minus that of the labels."""
        z = logits.astype(np.float64)
        of_labels = (z * labels).mean()

        def slope(power: float) -> float:
            return float((0.5 * (1 + np.tanh(z / np.exp(power) / 2)) * z).mean() - of_labels)

        return slope

    def solutions(
        self, x: np.ndarray, y: np.ndarray, w: np.ndarray, path: Sequence[float], rows: Rows = ALL
    ) -> Iterator[Solution]:
        """A logistic regression for each label."""
        for solved in zip(*(one_label(x, column, w, path, rows) for column in y.T), strict=True):
            kernels, biases, converged = zip(*solved, strict=True)
            yield np.concatenate(kernels, axis=1), np.concatenate(biases), all(converged)

    def predicted(self, answers: np.ndarray) -> np.ndarray:
        """(N, K) 0 or 1 at p = 0.5."""
        return (answers >= 0.5).astype(np.float32)

    def same_decision(self, answers: np.ndarray, recorded: np.ndarray, tolerance: float) -> np.ndarray:
        """(N,) whether every label is set, or not, in both."""
        same = (self.predicted(answers) == self.predicted(recorded)) | (np.abs(recorded - 0.5) <= tolerance)
        every: np.ndarray = same.all(axis=1)
        return every

    def quality(self, labels: np.ndarray, answers: np.ndarray) -> tuple[str, float]:
        """The accuracy of labels."""
        return "accuracy", self.accuracy(labels, answers)

    def metrics(self, labels: np.ndarray, answers: np.ndarray) -> dict[str, Any]:
        """Accuracy of labels, exact_match of examples and its interval, and of the labels that occur macro_f1 and
        mean_average_precision. All but the last are at p = 0.5."""
        right = self.right(labels, answers)
        known = [value for value in average_precisions(labels, answers) if value is not None]
        return {
            "accuracy": self.accuracy(labels, answers),
            "exact_match": right,
            "exact_match_interval": list(interval(right, len(labels))),
            "macro_f1": macro_f1(labels, given_labels(answers)),
            "mean_average_precision": float(np.mean(known)) if known else None,
        }

    def line(self, labels: np.ndarray, answers: np.ndarray) -> str:
        """The metrics in one line."""
        values = self.metrics(labels, answers)
        low, high = values["exact_match_interval"]
        right = f"all right {values['exact_match']:.4f} (95 % {low:.4f}-{high:.4f})"
        score, precision = (values[name] for name in ("macro_f1", "mean_average_precision"))  # None without any label
        more = "" if precision is None else f", macro F1 {score:.4f}, mean average precision {precision:.4f}"
        return f"accuracy of labels {values['accuracy']:.4f}, {right}{more}"

    def details(self, labels: np.ndarray, answers: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
        """The average precision of each label."""
        return {"average_precision": dict(zip(names, average_precisions(labels, answers), strict=True))}

    def columns(self, names: Sequence[str]) -> list[str]:
        """The true labels, the labels predicted at p = 0.5, and the probability of each label."""
        return ["labels", "predicted", *names]

    def cells(self, label: Any, predicted: Any, answer: np.ndarray, names: Sequence[str]) -> list[str | float]:
        """As in `Task`."""
        return [join_labels(label, names), join_labels(predicted, names), *answer]

    def given(self, answer: np.ndarray, names: Sequence[str], thresholds: Sequence[float]) -> tuple[str, ...]:
        """As in `Task`."""
        return tuple(name for name, on in zip(names, given_labels(answer, thresholds), strict=True) if on)

    def labels_of_cells(self, rows: Sequence[Sequence[str]], names: Sequence[str]) -> np.ndarray:
        """0 and 1."""
        return split_labels([row[0] for row in rows], names)
