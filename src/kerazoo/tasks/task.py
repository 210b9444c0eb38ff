"""What is learned: how logits become answers, and which loss and metric belong to them."""

from dataclasses import dataclass
from typing import Any

import keras
from keras import KerasTensor, ops

from kerazoo.errors import ModelError
from kerazoo.tasks.losses import LOSSES, SOFT_LOSSES, FocalLoss, SmoothedCrossEntropy

SMOOTHED = ("cross_entropy", "binary_cross_entropy", "focal")  # the losses that label smoothing goes with


@dataclass(frozen=True)
class Task:
    """One task: the activation that turns logits into answers, its loss and its metric, by name."""

    name: str
    activation: str
    loss: str
    metric: str
    other_losses: tuple[str, ...] = ()

    def answers(self, logits: KerasTensor) -> KerasTensor:
        """(B, K) logits -> (B, K) answers: probabilities in [0, 1], or plain numbers for regression."""
        if self.activation == "softmax":
            return ops.softmax(logits, axis=-1)
        return ops.sigmoid(logits) if self.activation == "sigmoid" else logits

    def make_loss(
        self, name: str | None = None, *, soft: bool = False, label_smoothing: float = 0.0,
        focal_gamma: float | None = None,
    ) -> Any:  # fmt: skip
        """The Keras loss that belongs to the task, or another one called `name` that goes with it.

        `soft` is for classes whose labels are (B, K) shares of the classes, as mixup makes them.
        `label_smoothing` in [0, 1) is for the cross-entropies and the focal loss, `focal_gamma` >= 0 (2 where it is
        None) for the focal loss. Raises ModelError for what does not go together.
        """
        name = name or self.loss
        allowed = (self.loss, *self.other_losses)
        if name not in allowed:
            raise ModelError(f"loss={name!r} does not go with a {self.name} task; it takes {', '.join(allowed)}")
        if soft and self.name == "multiclass" and name not in SOFT_LOSSES:
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
            return FocalLoss(gamma, sigmoid=self.activation == "sigmoid", label_smoothing=label_smoothing)
        if label_smoothing and name == "cross_entropy":
            return SmoothedCrossEntropy(label_smoothing)
        if label_smoothing:
            return keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=label_smoothing)
        return (SOFT_LOSSES if soft and self.name == "multiclass" else LOSSES)[name]()

    def make_metric(self, *, soft: bool = False) -> Any:
        """The Keras metric that reads logits: accuracy at p = 0.5 for sigmoids, mean absolute error for regression."""
        if self.metric == "mae":
            return keras.metrics.MeanAbsoluteError(name="mae")
        if self.metric == "binary_accuracy":
            return keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)  # a logit of 0 is p = 0.5
        kind = keras.metrics.CategoricalAccuracy if soft else keras.metrics.SparseCategoricalAccuracy
        return kind(name="accuracy")


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("multiclass", "softmax", "cross_entropy", "accuracy", ("focal", "perceptron", "quadratic")),
        Task("multilabel", "sigmoid", "binary_cross_entropy", "binary_accuracy", ("focal", "quadratic")),
        Task("regression", "linear", "mse", "mae", ("mae",)),
    )
}


def find_task(name: str) -> Task:
    """The task called `name`. Raises ModelError where there is none."""
    if name not in TASKS:
        raise ModelError(f"task must be one of {', '.join(TASKS)}, got {name!r}")
    return TASKS[name]
