"""Losses on logits that Keras does not have, and the table of losses by name.

Shape letters: B batch, K units. Labels are whole class numbers (B,) or (B, 1), or 0/1 targets of shape (B, K).
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import KerasTensor, ops

register = keras.saving.register_keras_serializable(package="kerazoo")


def targets(y_true: KerasTensor, y_pred: KerasTensor) -> KerasTensor:
    """Labels -> (B, K) targets of 0 and 1: one-hot where labels are class numbers and K > 1."""
    units = y_pred.shape[-1]
    if len(y_true.shape) == 2 and y_true.shape[-1] == units:
        return ops.cast(y_true, y_pred.dtype)
    y_true = ops.reshape(y_true, (-1,))
    if units == 1:
        return ops.cast(y_true[:, None], y_pred.dtype)
    return ops.one_hot(ops.cast(y_true, "int32"), units, dtype=y_pred.dtype)


@register
class PerceptronCriterion(keras.losses.Loss):  # type: ignore[misc]
    """(B,) sum over units of max(0, -t z), with t = +1 or -1; its gradient is -t x where t z <= 0, else 0.

    The weights of a unit that answers right do not move: Rosenblatt's rule. A unit that has not decided (z = 0, as
    at the zero weights where the rule starts) counts as wrong. Source: Bishop 2006, section 4.1.7, equation 4.54.
    """

    def call(self, y_true: KerasTensor, y_pred: KerasTensor) -> KerasTensor:
        """Labels, (B, K) logits -> (B,)."""
        signs = 2 * targets(y_true, y_pred) - 1
        wrong = ops.cast(ops.stop_gradient(signs * y_pred) <= 0, y_pred.dtype)
        return ops.sum(-signs * y_pred * wrong, axis=-1)


@register
class QuadraticCost(keras.losses.Loss):  # type: ignore[misc]
    """(B,) half the squared distance |t - sigmoid(z)|^2 / 2. Source: Nielsen 2015, chapter 1, equation 6."""

    def call(self, y_true: KerasTensor, y_pred: KerasTensor) -> KerasTensor:
        """Labels, (B, K) logits -> (B,)."""
        return 0.5 * ops.sum(ops.square(targets(y_true, y_pred) - ops.sigmoid(y_pred)), axis=-1)


LOSSES: dict[str, Callable[[], Any]] = {
    "cross_entropy": lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    "binary_cross_entropy": lambda: keras.losses.BinaryCrossentropy(from_logits=True),
    "perceptron": PerceptronCriterion,
    "quadratic": QuadraticCost,
    "mse": keras.losses.MeanSquaredError,
    "mae": keras.losses.MeanAbsoluteError,
}
# of labels that are (B, K) shares of the classes
SOFT_LOSSES: dict[str, Callable[[], Any]] = {
    "cross_entropy": lambda: keras.losses.CategoricalCrossentropy(from_logits=True),
    "quadratic": QuadraticCost,
}
