"""The interface of a task; `task.py` has the three tasks.

| task       | labels of N examples   | answers (N, K)    | score of an example           | loss of an example         |
|------------|------------------------|-------------------|-------------------------------|----------------------------|
| multiclass | (N,) int64 class       | softmax           | 1 if it is right, else 0      | cross-entropy, nats        |
| multilabel | (N, K) float32, 0 or 1 | sigmoids          | share of its labels right     | mean cross-entropy, nats   |
| regression | (N, K) float32 numbers | logits themselves | minus the mean absolute error | mean squared error         |
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerazoo.errors import DataError, ModelError, RecipeError
from kerazoo.tasks.linear import ALL, Rows, Solution
from kerazoo.tasks.measures import near

SMOOTHED = ("cross_entropy", "binary_cross_entropy", "focal")  # the losses that allow label smoothing


@dataclass(frozen=True)
class Task(ABC):
    """A task, and everything that depends on it. No other code compares the names of tasks.

    `column` is the label column of a table. `units` is the word for its classes, labels or numbers. `loss` is its
    default loss, and `other_losses` are also allowed. `exclusive` is whether an example has exactly one class.
    `probabilities` is whether its answers are probabilities, or else numbers. They are the `main_output` among the
    `outputs` of an export. `digits` is the format of an answer in a CSV file.
    """

    name: str
    column: str
    units: str
    loss: str
    other_losses: tuple[str, ...]
    exclusive: bool
    probabilities: bool
    main_output: str
    outputs: frozenset[str]
    digits: str

    @property
    def has_thresholds(self) -> bool:
        """Whether an example may have several labels, so that each label has a threshold (`thresholds.py`)."""
        return self.probabilities and not self.exclusive

    # -- training -----------------------------------------------------------------------------------------------------

    def make_loss(
        self, name: str | None = None, *, soft: bool = False, label_smoothing: float = 0.0,
        focal_gamma: float | None = None,
    ) -> Any:  # fmt: skip
        """The Keras loss called `name`, or the default loss of the task.

        `soft` is for labels that are (B, K) shares of the classes, as from mixup. `label_smoothing` in [0, 1) is for
        the cross-entropies and the focal loss, `focal_gamma` >= 0 (default: 2) for the focal loss. Raises ModelError
        for settings that cannot be combined.
        """
        import keras

        from kerazoo.tasks.losses import LOSSES, SOFT_LOSSES, FocalLoss, SmoothedCrossEntropy

        name = name or self.loss
        soft = soft and self.exclusive
        allowed = (self.loss, *self.other_losses)
        if name not in allowed:
            raise ModelError(f"loss={name!r} cannot be used for a {self.name} task; use {' or '.join(allowed)}")
        if soft and name not in SOFT_LOSSES:
            raise ModelError(f"loss={name!r} does not allow mixed labels; remove mixup and cutmix")
        if focal_gamma is not None and name != "focal":
            raise ModelError(f"focal_gamma={focal_gamma!r} applies only to loss='focal', not {name!r}; remove it")
        if label_smoothing and name not in SMOOTHED:
            raise ModelError(
                f"label_smoothing={label_smoothing!r} cannot be combined with loss={name!r}; it applies only to "
                f"{', '.join(SMOOTHED)}"
            )
        if name == "focal":
            gamma = 2.0 if focal_gamma is None else focal_gamma
            return FocalLoss(gamma, sigmoid=not self.exclusive, label_smoothing=label_smoothing)
        if label_smoothing and name == "cross_entropy":
            return SmoothedCrossEntropy(label_smoothing)
        if label_smoothing:
            return keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=label_smoothing)
        return (SOFT_LOSSES if soft else LOSSES)[name]()

    def preferred_loss(self, of_network: str | None) -> str:
        """The name of the loss if the recipe has none. A network's own loss applies only to one class per image."""
        return self.loss

    @abstractmethod
    def make_metric(self, *, soft: bool = False) -> Any:
        """The Keras metric that reads logits; `soft` is as in `make_loss`."""

    @abstractmethod
    def answers(self, logits: Any) -> Any:
        """(B, K) logits -> (B, K) answers, as tensors of the backend."""

    @abstractmethod
    def pooled(self, logits: Sequence[Any]) -> Any:
        """(B, K) logits of several models -> (B, K) logits whose answers are the means of the models' answers."""

    def shares(self, labels: Any, units: int) -> Any:
        """A tensor of labels -> (B, K) float32 that can be mixed."""
        return labels

    def check_balance(self, balance: str) -> None:
        """Raise RecipeError if `training.balance` is set but the task does not have one class per image."""
        if balance != "none" and not self.exclusive:
            raise RecipeError(
                f"training.balance={balance!r} applies only to one class per image, but this data is {self.name}; "
                "remove it"
            )

    # -- labels -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def read_columns(
        self, where: str, columns: Sequence[Sequence[Any]], names: Sequence[str]
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """The labels in columns of a table, and the names of classes, labels or numbers. Errors start with `where`.

        Raises DataError, which names the row and the column.
        """

    @abstractmethod
    def from_stored(self, values: Sequence[Any], units: int) -> np.ndarray:
        """The labels of examples from one value each: a class number, label numbers, or numbers to predict."""

    def labelled(self, labels: np.ndarray) -> np.ndarray:
        """(N,) whether an example has a label."""
        return np.ones(len(labels), bool)

    def unit_count(self, labels: np.ndarray) -> int:
        """K, the number of units that the labels imply."""
        return int(labels.shape[1])

    def naming_problem(self, count: int, named: int) -> str:
        """The problem in words if the labels have `count` units but there are `named` names; else ""."""
        return "" if count == named else f"class_names has {named} names for {count} columns of labels"

    def counts(self, labels: np.ndarray, names: Sequence[str]) -> dict[str, int]:
        """The number of examples of each class or label; for numbers, the total under one name."""
        return {"examples": len(labels)}

    @abstractmethod
    def text(self, label: Any, names: Sequence[str]) -> str:
        """The label of one example as text."""

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """(N,) int64 strata, whose shares a split preserves."""
        return np.zeros(len(labels), np.int64)

    # -- measures -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def scores(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(N, K) logits and labels -> (N,) scores; higher is better."""

    def scores_of_answers(self, answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(N, K) answers and labels -> (N,) scores, the same as from logits."""
        return self.scores(answers, labels)

    @abstractmethod
    def losses(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(N, K) logits and labels -> (N,) losses."""

    @abstractmethod
    def losses_of_answers(self, answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(N, K) float32 answers and labels -> (N,) losses, the same as from logits.

        A probability that float32 rounds to 0 or 1 counts as the next representable number.
        """

    def doubts(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
        """(N,) losses if each answer had been wrong; None for numbers, which are neither right nor wrong.

        For classes, the true class is replaced by the most probable other class. For labels, one label is inverted, and
        the loss is the mean over all choices of that label.
        """
        return None

    def calibration_error(self, logits: np.ndarray, labels: np.ndarray) -> float | None:
        """The expected calibration error (`calibration_gap`); None for numbers.

        For classes, the confidence is the probability of the answer. For labels, it compares the probability of each
        label of each example with whether the example has it.
        """
        return None

    def loss_slope(self, logits: np.ndarray, labels: np.ndarray) -> Callable[[float], float]:
        """A function of log T: the slope of the mean loss of logits / T in 1 / T. For probabilities only."""
        raise NotImplementedError(f"the answers of {self.name} have no temperature")

    @abstractmethod
    def chart_values(self, score: float) -> dict[str, float]:
        """A mean score under the name of the metric in the history."""

    # -- the linear probe ---------------------------------------------------------------------------------------------

    def fold_count(self, labels: np.ndarray, names: Sequence[str], folds: int) -> int:
        """The number of folds, at most `folds`, that the examples allow. Raises DataError if there are too few."""
        if len(labels) < 2:
            raise DataError("cross-validation needs at least 2 training examples; add some, or set only one penalty")
        return min(folds, len(labels))

    def splitter(self, folds: int, seed: int) -> Any:
        """The scikit-learn splitter for the folds."""
        from sklearn.model_selection import KFold

        return KFold(folds, shuffle=True, random_state=seed)

    @abstractmethod
    def solutions(
        self, x: np.ndarray, y: np.ndarray, w: np.ndarray, path: Sequence[float], rows: Rows = ALL
    ) -> Iterator[Solution]:
        """The linear model for each penalty in turn, starting from the previous one, on some `rows`.

        The rows are selected again for each penalty. Otherwise each fold would have its own copy of x.
        """

    # -- evaluation ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def predicted(self, answers: np.ndarray) -> np.ndarray:
        """(N, K) answers -> the predicted labels."""

    def accuracy(self, labels: np.ndarray, answers: np.ndarray) -> float:
        """The share of right answers: of examples, or of the labels of all examples."""
        return float((self.predicted(answers) == labels).mean())

    def right(self, labels: np.ndarray, answers: np.ndarray) -> float:
        """The share of examples for which the whole answer is right."""
        same = self.predicted(answers) == labels
        return float(same.all(axis=1).mean() if same.ndim == 2 else same.mean())

    @abstractmethod
    def metrics(self, labels: np.ndarray, answers: np.ndarray) -> dict[str, Any]:
        """The metrics by name."""

    @abstractmethod
    def line(self, labels: np.ndarray, answers: np.ndarray) -> str:
        """The metrics in one line."""

    def details(self, labels: np.ndarray, answers: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
        """The details for each class or label."""
        return {}

    @abstractmethod
    def columns(self, names: Sequence[str]) -> list[str]:
        """The columns of a CSV file of answers, after the keys of the examples."""

    @abstractmethod
    def cells(self, label: Any, predicted: Any, answer: np.ndarray, names: Sequence[str]) -> list[str | float]:
        """The cells of one example in these columns: names and numbers."""

    @abstractmethod
    def labels_of_cells(self, rows: Sequence[Sequence[str]], names: Sequence[str]) -> np.ndarray:
        """The labels of N examples from the texts of their `cells`. Raises ValueError, KeyError or IndexError."""

    def agree(self, answers: np.ndarray, recorded: np.ndarray) -> np.ndarray:
        """(N,) whether two (N, K) answers for an image are equal, within TOLERANCE."""
        return near(answers, recorded)

    def same_decision(self, answers: np.ndarray, recorded: np.ndarray, tolerance: float) -> np.ndarray:
        """(N,) whether (N, K) answers say the same as the recorded ones, of which equal ones may change places.

        Two recorded answers count as equal if they differ by at most `tolerance`.
        """
        return np.ones(len(answers), bool)

    @abstractmethod
    def quality(self, labels: np.ndarray, answers: np.ndarray) -> tuple[str, float]:
        """The name and the value of the metric by which two models for the same examples are compared, at most 1."""

    # -- exports and predictions --------------------------------------------------------------------------------------

    @abstractmethod
    def signature(self, answers: Any, every: Any, names: Any, count: int) -> Mapping[str, Any]:
        """The `outputs` of an export as TensorFlow tensors, from (B, K) `answers` and their (B, K) names, `every`.

        `names` are (K,) strings. For probabilities, the `count` highest are named.
        """

    def is_first(self, top: np.ndarray, recorded: np.ndarray) -> np.ndarray:
        """(N,) whether the classes `top` (N,) are the first ones by the (N, K) `recorded` answers."""
        return np.ones(len(top), bool)

    @abstractmethod
    def top(self, answer: np.ndarray, names: Sequence[str], count: int) -> tuple[tuple[str, float], ...]:
        """(name, value) of the answer for one image: the `count` most probable, or all numbers."""

    def given(self, answer: np.ndarray, names: Sequence[str], thresholds: Sequence[float]) -> tuple[str, ...] | None:
        """The labels of one image: those whose probability is at least their threshold; None without thresholds.

        `thresholds` are those of the model, empty for 0.5 each. The labels are in the order of `names`.
        """
        return None

    @abstractmethod
    def top_json(self, top: Sequence[tuple[str, float]], labels: Sequence[str] | None = None) -> dict[str, Any]:
        """The same as a JSON object, for `--json`, with the `labels` that are given if there are any to give."""
