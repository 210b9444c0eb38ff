"""What a task must say; `task.py` has the three of them.

| task       | labels of N examples   | answers (N, K)    | score of an example           | loss of an example         |
|------------|------------------------|-------------------|-------------------------------|----------------------------|
| multiclass | (N,) int64 class       | softmax           | 1 where it is right, else 0   | cross-entropy, nats        |
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

SMOOTHED = ("cross_entropy", "binary_cross_entropy", "focal")  # the losses that label smoothing goes with


@dataclass(frozen=True)
class Task(ABC):
    """What is learned, by `name`, and all that depends on it. Nothing else compares the names of tasks.

    `column` of a table holds its labels. It learns several of `units`. `loss` is the name of its own loss,
    `other_losses` go with it, too. Where it is `exclusive`, an example has exactly one class. Its answers are
    `probabilities`, or else numbers; they are the `main_output` among the `outputs` of an export. `digits` is the
    format of an answer in a CSV file.
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

    # -- training -----------------------------------------------------------------------------------------------------

    def make_loss(
        self, name: str | None = None, *, soft: bool = False, label_smoothing: float = 0.0,
        focal_gamma: float | None = None,
    ) -> Any:  # fmt: skip
        """The Keras loss that belongs to the task, or another one called `name` that goes with it.

        `soft` is for classes whose labels are (B, K) shares of the classes, as mixup makes them. `label_smoothing` in
        [0, 1) is for the cross-entropies and the focal loss, `focal_gamma` >= 0 (2 where it is None) for the focal
        loss. Raises ModelError for what does not go together.
        """
        import keras

        from kerazoo.tasks.losses import LOSSES, SOFT_LOSSES, FocalLoss, SmoothedCrossEntropy

        name = name or self.loss
        soft = soft and self.exclusive
        allowed = (self.loss, *self.other_losses)
        if name not in allowed:
            raise ModelError(f"loss={name!r} does not go with a {self.name} task; it takes {', '.join(allowed)}")
        if soft and name not in SOFT_LOSSES:
            raise ModelError(f"loss={name!r} takes no mixed labels; it goes without mixup and cutmix")
        if focal_gamma is not None and name != "focal":
            raise ModelError(f"focal_gamma={focal_gamma!r} is of loss='focal', not of {name!r}; leave it out")
        if label_smoothing and name not in SMOOTHED:
            smoothed = ", ".join(SMOOTHED)
            raise ModelError(
                f"label_smoothing={label_smoothing!r} does not go with loss={name!r}; it goes with {smoothed}"
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
        """The name of the loss where a recipe names none. Networks prefer a loss for one class an image."""
        return self.loss

    @abstractmethod
    def make_metric(self, *, soft: bool = False) -> Any:
        """The Keras metric that reads logits; `soft` is as in `make_loss`."""

    @abstractmethod
    def answers(self, logits: Any) -> Any:
        """(B, K) logits -> (B, K) answers, as tensors of the backend."""

    def shares(self, labels: Any, units: int) -> Any:
        """A tensor of labels -> (B, K) float32, which can be mixed."""
        return labels

    def check_balance(self, balance: str) -> None:
        """Raise RecipeError where classes are to be balanced by `training.balance` and there are none."""
        if balance != "none" and not self.exclusive:
            raise RecipeError(f"training.balance={balance!r} is for one class an image; this data is {self.name}")

    # -- labels -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def read_columns(
        self, where: str, columns: Sequence[Sequence[Any]], names: Sequence[str]
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """The labels in columns of a table and the names of classes, labels or numbers. `where` begins its errors.

        Raises DataError, which names the row and the column.
        """

    @abstractmethod
    def from_stored(self, values: Sequence[Any], units: int) -> np.ndarray:
        """The labels of examples from one value each: a class number, the numbers of the labels, or what to predict."""

    def labelled(self, labels: np.ndarray) -> np.ndarray:
        """(N,) whether an example has a label."""
        return np.ones(len(labels), bool)

    def unit_count(self, labels: np.ndarray) -> int:
        """K, as far as the labels show it."""
        return int(labels.shape[1])

    def naming_problem(self, count: int, named: int) -> str:
        """What is wrong where labels show `count` units and `named` have names, or ""."""
        return "" if count == named else f"class_names has {named} names for {count} columns of labels"

    def counts(self, labels: np.ndarray, names: Sequence[str]) -> dict[str, int]:
        """How many examples there are of each class, or with each label; of numbers, all under one name."""
        return {"examples": len(labels)}

    @abstractmethod
    def text(self, label: Any, names: Sequence[str]) -> str:
        """The label of one example for a person."""

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """(N,) int64, what a split keeps the shares of."""
        return np.zeros(len(labels), np.int64)

    # -- measures -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def scores(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(N, K) logits and labels -> (N,) scores; higher is better."""

    @abstractmethod
    def losses(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(N, K) logits and labels -> (N,) losses."""

    @abstractmethod
    def losses_of_answers(self, answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(N, K) float32 answers and labels -> (N,) losses as of their logits.

        A probability that float32 rounds to 0 or 1 counts as the one next to it.
        """

    def doubts(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
        """(N,) losses had each example been answered wrong: its label the likeliest other class, or one of its labels
        (the mean over which) turned round. None for numbers, where no answer is wrong or right."""
        return None

    def calibration_error(self, logits: np.ndarray, labels: np.ndarray) -> float | None:
        """The expected calibration error (`calibration_gap`); None for numbers.

        Of classes, the confidence is the probability of the answer; of several labels, each label of each example
        counts, its probability beside whether it is there.
        """
        return None

    def loss_slope(self, logits: np.ndarray, labels: np.ndarray) -> Callable[[float], float]:
        """Of log T: the slope of the mean loss of logits / T in 1 / T, which rises. Of probabilities alone."""
        raise NotImplementedError(f"the answers of {self.name} have no temperature")

    @abstractmethod
    def chart_values(self, score: float) -> dict[str, float]:
        """A mean score under the name that the metric has in the history."""

    # -- the linear probe ---------------------------------------------------------------------------------------------

    def fold_count(self, labels: np.ndarray, names: Sequence[str], folds: int) -> int:
        """As many folds as the examples (every class of them) can be in. Raises DataError where there are too few."""
        if len(labels) < 2:
            raise DataError("cross-validation takes at least 2 training examples; add some, or name one penalty")
        return min(folds, len(labels))

    def splitter(self, folds: int, seed: int) -> Any:
        """The scikit-learn splitter that makes the folds."""
        from sklearn.model_selection import KFold

        return KFold(folds, shuffle=True, random_state=seed)

    @abstractmethod
    def solutions(
        self, x: np.ndarray, y: np.ndarray, w: np.ndarray, path: Sequence[float], rows: Rows = ALL
    ) -> Iterator[Solution]:
        """The linear model of each penalty in turn, begun from the one before, on some `rows`.

        These are taken out anew for each: folds that go down the path side by side would be so many copies of x.
        """

    # -- evaluation ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def predicted(self, answers: np.ndarray) -> np.ndarray:
        """(N, K) answers -> what they say, as labels."""

    def accuracy(self, labels: np.ndarray, answers: np.ndarray) -> float:
        """The share answered right: of examples, or of the labels of all examples."""
        return float((self.predicted(answers) == labels).mean())

    def right(self, labels: np.ndarray, answers: np.ndarray) -> float:
        """The share of examples answered wholly right."""
        same = self.predicted(answers) == labels
        return float(same.all(axis=1).mean() if same.ndim == 2 else same.mean())

    @abstractmethod
    def metrics(self, labels: np.ndarray, answers: np.ndarray) -> dict[str, Any]:
        """The metrics by name."""

    @abstractmethod
    def line(self, labels: np.ndarray, answers: np.ndarray) -> str:
        """The metrics for a person."""

    def details(self, labels: np.ndarray, answers: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
        """What is known of each class or label."""
        return {}

    @abstractmethod
    def columns(self, names: Sequence[str]) -> list[str]:
        """The columns of a CSV file of answers, behind the keys of the examples."""

    @abstractmethod
    def cells(self, label: Any, predicted: Any, answer: np.ndarray, names: Sequence[str]) -> list[str | float]:
        """The cells of one example in these columns: names as text, and numbers."""

    def agree(self, answers: np.ndarray, recorded: np.ndarray) -> np.ndarray:
        """(N,) whether two (N, K) answers for an image are the same, within TOLERANCE."""
        return near(answers, recorded)

    # -- exports and predictions --------------------------------------------------------------------------------------

    @abstractmethod
    def signature(self, answers: Any, every: Any, names: Any, count: int) -> Mapping[str, Any]:
        """The `outputs` of an export as TensorFlow tensors: of (B, K) `answers` and `every` name for each of them.

        `names` are (K,) strings; of probabilities the `count` highest are named.
        """

    def is_first(self, top: np.ndarray, recorded: np.ndarray) -> np.ndarray:
        """(N,) whether the classes `top` (N,) may come first where `recorded` are the (N, K) right answers."""
        return np.ones(len(top), bool)

    @abstractmethod
    def top(self, answer: np.ndarray, names: Sequence[str], count: int) -> tuple[tuple[str, float], ...]:
        """(name, value) of the answer for one image: the `count` likeliest, or all numbers."""

    @abstractmethod
    def top_json(self, top: Sequence[tuple[str, float]]) -> dict[str, Any]:
        """The same as `--json` says it."""
