"""Heads: how features become logits, how logits become answers, and which loss belongs to each kind.

| kind       | logits | labels                     | answer                       | loss                 |
|------------|--------|----------------------------|------------------------------|----------------------|
| multiclass | (B, K) | class numbers (B,)         | softmax, (B, K), sums to 1   | cross_entropy        |
| binary     | (B, 1) | 0 or 1, (B,)               | sigmoid, (B, 1), of class 1  | binary_cross_entropy |
| multilabel | (B, K) | 0/1 targets (B, K)         | sigmoid, (B, K), independent | binary_cross_entropy |
| regression | (B, K) | numbers (B, K)             | the logits themselves        | mse                  |
"""

from dataclasses import dataclass
from typing import Any

import keras
from keras import KerasTensor, layers, ops

from kerazoo.errors import ModelError
from kerazoo.models.losses import LOSSES, SOFT_LOSSES
from kerazoo.models.validation import check_count, check_fraction


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

    def make_loss(self, name: str | None = None, *, soft: bool = False) -> Any:
        """The Keras loss that belongs to the head, or another one called `name` that goes with it.

        `soft` is for a multiclass head whose labels are (B, K) shares of the classes, as mixup makes them.
        """
        name = name or self.loss
        allowed = (self.loss, *self.other_losses)
        if name not in allowed:
            raise ModelError(f"loss={name!r} does not go with a {self.kind} head; it takes {', '.join(allowed)}")
        if soft and self.kind == "multiclass":
            if name not in SOFT_LOSSES:
                raise ModelError(f"loss={name!r} takes no mixed labels; it goes without mixup and cutmix")
            return SOFT_LOSSES[name]()
        return LOSSES[name]()

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
        Head("multiclass", "softmax", "cross_entropy", "accuracy", ("perceptron", "quadratic")),
        Head("binary", "sigmoid", "binary_cross_entropy", "binary_accuracy", ("perceptron", "quadratic")),
        Head("multilabel", "sigmoid", "binary_cross_entropy", "binary_accuracy"),
        Head("regression", "linear", "mse", "mae", ("mae",)),
    )
}


def find_head(kind: str) -> Head:
    """The head called `kind`. Raises ModelError where there is none."""
    if kind not in HEADS:
        raise ModelError(f"head={kind!r} is not one of {', '.join(HEADS)}")
    return HEADS[kind]


def attach(x: KerasTensor, num_classes: int, *, dropout: float = 0.0, model: str, **dense: Any) -> KerasTensor:
    """(B, F) -> (B, num_classes) logits, by the layers `features`, `features_dropout` (where > 0) and `logits`."""
    check_count(num_classes, name="num_classes", model=model)
    rate = check_fraction(dropout, name="dropout", model=model)
    x = layers.Identity(name="features")(x)
    if rate:
        x = layers.Dropout(rate, name="features_dropout")(x)
    return layers.Dense(num_classes, name="logits", **dense)(x)


def feature_extractor(model: keras.Model) -> keras.Model:
    """The part of `model` below its head: (B, H, W, C) -> (B, F). It shares the model's layers."""
    return keras.Model(model.input, model.get_layer("features").output, name=f"{model.name}_features")
