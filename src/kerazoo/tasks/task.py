"""What is learned: how logits become answers, and which loss and metric belong to them."""

from dataclasses import dataclass
from typing import Any

import keras
from keras import KerasTensor, ops

from kerazoo.errors import ModelError
from kerazoo.tasks.losses import LOSSES, SOFT_LOSSES, FocalLoss, SmoothedCrossEntropy

SMOOTHED = ("cross_entropy", "binary_cross_entropy", "focal")  # the losses that label smoothing goes with


@dataclass(frozen=True)
class Head:
    """One kind of head: the activation that turns logits into answers, its loss and its metric, by name."""

    kind: str
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
        """The Keras loss that belongs to the head, or another one called `name` that goes with it.

        `soft` is for a multiclass head whose labels are (B, K) shares of the classes, as mixup makes them.
        `label_smoothing` in [0, 1) is for the cross-entropies and the focal loss, `focal_gamma` >= 0 (2 where it is
        None) for the focal loss. Raises ModelError for what does not go together.
        """
        name = name or self.loss
        allowed = (self.loss, *self.other_losses)
        if name not in allowed:
            raise ModelError(f"loss={name!r} does not go with a {self.kind} head; it takes {', '.join(allowed)}")
        if soft and self.kind == "multiclass" and name not in SOFT_LOSSES:
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
        return (SOFT_LOSSES if soft and self.kind == "multiclass" else LOSSES)[name]()

    def make_metric(self, *, soft: bool = False) -> Any:
        """The Keras metric that reads logits: accuracy at p = 0.5 for sigmoids, mean absolute error for regression."""
        if self.metric == "mae":
            return keras.metrics.MeanAbsoluteError(name="mae")
        if self.metric == "binary_accuracy":
            return keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)  # a logit of 0 is p = 0.5
        kind = keras.metrics.CategoricalAccuracy if soft else keras.metrics.SparseCategoricalAccuracy
        return kind(name="accuracy")


HEADS: dict[str, Head] = {
    head.kind: head
    for head in (
        Head("multiclass", "softmax", "cross_entropy", "accuracy", ("focal", "perceptron", "quadratic")),
        Head("binary", "sigmoid", "binary_cross_entropy", "binary_accuracy", ("focal", "perceptron", "quadratic")),
        Head("multilabel", "sigmoid", "binary_cross_entropy", "binary_accuracy", ("focal", "quadratic")),
        Head("regression", "linear", "mse", "mae", ("mae",)),
    )
}


def find_head(kind: str) -> Head:
    """The head called `kind`. Raises ModelError where there is none."""
    if kind not in HEADS:
        raise ModelError(f"head={kind!r} is not one of {', '.join(HEADS)}")
    return HEADS[kind]
