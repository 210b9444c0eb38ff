"""Multiclass: an image has exactly one of several classes."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerazoo.errors import DataError
from kerazoo.tasks.columns import in_order
from kerazoo.tasks.linear import ALL, Rows, Solution, logistic
from kerazoo.tasks.measures import calibration_gap, confusion, interval
from kerazoo.tasks.probabilities import LEAST, Probabilities, log_mean


@dataclass(frozen=True)
class Multiclass(Probabilities):
    """Labels are (N,) int64 class numbers, answers the softmax of the logits."""

    name: str = "multiclass"
    column: str = "label"
    units: str = "classes"
    loss: str = "cross_entropy"
    other_losses: tuple[str, ...] = ("focal", "perceptron", "quadratic")
    exclusive: bool = True

    def preferred_loss(self, of_network: str | None) -> str:
        """The network's own loss, if it has one."""
        return of_network or self.loss

    def make_metric(self, *, soft: bool = False) -> Any:
        """Accuracy."""
        import keras

        metric = keras.metrics.CategoricalAccuracy if soft else keras.metrics.SparseCategoricalAccuracy
        return metric(name="accuracy")

    def answers(self, logits: Any) -> Any:
        """The softmax."""
        from keras import ops

        return ops.softmax(logits, axis=-1)

    def pooled(self, logits: Sequence[Any]) -> Any:
        """The logarithms of the mean probabilities."""
        return log_mean([self.answers(one) for one in logits])

    def shares(self, labels: Any, units: int) -> Any:
        """One-hot."""
        import tensorflow as tf

        return tf.one_hot(labels, units)

    def read_columns(
        self, where: str, columns: Sequence[Sequence[Any]], names: Sequence[str]
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """One column of class names."""
        if len(columns) > 1:
            raise DataError(f"data.label={','.join(names)!r} must be one column for classes")
        (column,) = columns
        for row, value in enumerate(column, start=1):
            if str(value).strip() == "":
                raise DataError(f"{where}, row {row}: column {names[0]} is empty")
        words = [str(value).strip() for value in column]
        class_names = in_order(words)
        index = {name: number for number, name in enumerate(class_names)}
        return np.array([index[word] for word in words], np.int64), class_names

    def from_stored(self, values: Sequence[Any], units: int) -> np.ndarray:
        """Class numbers."""
        return np.array(values, np.int64)

    def labelled(self, labels: np.ndarray) -> np.ndarray:
        """(N,) whether the label is not -1."""
        has_label: np.ndarray = labels >= 0
        return has_label

    def unit_count(self, labels: np.ndarray) -> int:
        """The largest class number plus one."""
        return int(labels.max(initial=-1)) + 1

    def naming_problem(self, count: int, named: int) -> str:
        """Every class number must have a name."""
        return f"label {count - 1} has no name; class_names has {named}" if count > named else ""

    def counts(self, labels: np.ndarray, names: Sequence[str]) -> dict[str, int]:
        """The number of examples of each class."""
        counts = Counter(labels.tolist())
        return {name: counts.get(label, 0) for label, name in enumerate(names)}

    def text(self, label: Any, names: Sequence[str]) -> str:
        """The name of the class."""
        return names[int(label)]

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """The classes."""
        return labels

    def scores(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """1 if the answer is right, else 0."""
        right: np.ndarray = (logits.argmax(axis=1) == labels).astype(np.float64)
        return right

    def losses(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Cross-entropy of the softmax, nats."""
        z = logits.astype(np.float64)
        z = z - z.max(axis=1, keepdims=True)
        losses: np.ndarray = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), labels]
        return losses

    def losses_of_answers(self, answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """As in `Task`."""
        return self.losses(np.log(np.maximum(answers.astype(np.float64), LEAST)), labels)

    def doubts(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The losses of the most probable other classes."""
        z = logits.astype(np.float64)
        z[np.arange(len(z)), labels] = -np.inf
        return self.losses(logits, z.argmax(axis=1))

    def calibration_error(self, logits: np.ndarray, labels: np.ndarray) -> float:
        """The error of the answer's probability."""
        z = logits.astype(np.float64)
        chances = np.exp(-self.losses(z, z.argmax(axis=1)))
        return calibration_gap(chances, self.scores(z, labels))

    def loss_slope(self, logits: np.ndarray, labels: np.ndarray) -> Callable[[float], float]:
        """The mean logit expected by the softmax, minus that of the labels."""
        z = logits.astype(np.float64)
        z = z - z.max(axis=1, keepdims=True)
        of_labels = z[np.arange(len(z)), labels].mean()

        def slope(power: float) -> float:
            chances = np.exp(z / np.exp(power))
            chances /= chances.sum(axis=1, keepdims=True)
            return float((chances * z).sum(axis=1).mean() - of_labels)

        return slope

    def fold_count(self, labels: np.ndarray, names: Sequence[str], folds: int) -> int:
        """The number of folds for which every class is in every fold. Raises DataError, which names a small class."""
        counts = np.bincount(labels, minlength=len(names))
        least = int(counts.argmin())
        if counts[least] < 2:
            raise DataError(
                f"class {names[least]!r} has {counts[least]} image to train on, but cross-validation needs at least 2; "
                "add images, remove the class, or set only one penalty, such as transfer.penalties=[0.01]"
            )
        return min(folds, int(counts.min()))

    def splitter(self, folds: int, seed: int) -> Any:
        """Stratified by class."""
        from sklearn.model_selection import StratifiedKFold

        return StratifiedKFold(folds, shuffle=True, random_state=seed)

    def solutions(
        self, x: np.ndarray, y: np.ndarray, w: np.ndarray, path: Sequence[float], rows: Rows = ALL
    ) -> Iterator[Solution]:
        """Multinomial logistic regression."""
        yield from logistic(x, y, w, path, int(y[rows].max()) + 1, rows)

    def predicted(self, answers: np.ndarray) -> np.ndarray:
        """(N,) class numbers."""
        classes: np.ndarray = answers.argmax(axis=1)
        return classes

    def metrics(self, labels: np.ndarray, answers: np.ndarray) -> dict[str, Any]:
        """Accuracy and its interval."""
        accuracy = self.accuracy(labels, answers)
        return {"accuracy": accuracy, "accuracy_interval": list(interval(accuracy, len(labels)))}

    def line(self, labels: np.ndarray, answers: np.ndarray) -> str:
        """Accuracy and its interval."""
        accuracy = self.accuracy(labels, answers)
        low, high = interval(accuracy, len(labels))
        return f"accuracy {accuracy:.4f} (95 % {low:.4f}-{high:.4f})"

    def details(self, labels: np.ndarray, answers: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
        """The recall of each class, and the confusion matrix."""
        counts = confusion(labels, self.predicted(answers), len(names))
        recall = counts.diagonal() / np.maximum(counts.sum(axis=1), 1)
        return {"recall": dict(zip(names, recall.tolist(), strict=True)), "confusion": counts.tolist()}

    def columns(self, names: Sequence[str]) -> list[str]:
        """The true class, the predicted class, and its probability."""
        return ["label", "predicted", "probability"]

    def cells(self, label: Any, predicted: Any, answer: np.ndarray, names: Sequence[str]) -> list[str | float]:
        """As in `Task`."""
        return [names[label], names[predicted], answer[predicted]]

    def labels_of_cells(self, rows: Sequence[Sequence[str]], names: Sequence[str]) -> np.ndarray:
        """Class numbers."""
        number = {name: place for place, name in enumerate(names)}
        return np.array([number[row[0]] for row in rows], np.int64)

    def agree(self, answers: np.ndarray, recorded: np.ndarray) -> np.ndarray:
        """(N,) whether the answers are equal and predict the same class."""
        same: np.ndarray = super().agree(answers, recorded) & (answers.argmax(axis=1) == recorded.argmax(axis=1))
        return same

    def same_decision(self, answers: np.ndarray, recorded: np.ndarray, tolerance: float) -> np.ndarray:
        """(N,) whether the class is the same."""
        chosen = np.take_along_axis(recorded, answers.argmax(axis=1)[:, None], axis=1)[:, 0]
        same: np.ndarray = chosen >= recorded.max(axis=1) - tolerance
        return same

    def quality(self, labels: np.ndarray, answers: np.ndarray) -> tuple[str, float]:
        """The accuracy."""
        return "accuracy", self.accuracy(labels, answers)

    def is_first(self, top: np.ndarray, recorded: np.ndarray) -> np.ndarray:
        """(N,) whether `top` is the class of the recorded answer."""
        same: np.ndarray = top == recorded.argmax(axis=1)
        return same
