"""Losses on logits that Keras does not have, and the table of losses by name.

Shape letters: B batch, K units. Labels are whole class numbers (B,) or (B, 1), or 0/1 targets of shape (B, K).
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, ops

register = keras.saving.register_keras_serializable(package="kerazoo")


def targets(y_true: KerasTensor, y_pred: KerasTensor) -> KerasTensor:
    """Labels -> (B, K) targets of 0 and 1: one-hot if labels are class numbers and K > 1."""
    units = y_pred.shape[-1]
    if len(y_true.shape) == 2 and y_true.shape[-1] == units:
        return ops.cast(y_true, y_pred.dtype)
    y_true = ops.reshape(y_true, (-1,))
    if units == 1:
        return ops.cast(y_true[:, None], y_pred.dtype)
    return ops.one_hot(ops.cast(y_true, "int32"), units, dtype=y_pred.dtype)


@register
class PerceptronCriterion(keras.losses.Loss):  # type: ignore[misc]
    """(B,) sum over units of max(0, -t z), with t = +1 or -1; its gradient is -t x if t z <= 0, else 0.

    The weights of a unit with the right answer do not change: Rosenblatt's rule. A unit with z = 0, as with the zero
    weights at the start, counts as wrong. Source: Bishop 2006, section 4.1.7, equation 4.54.
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


@register
class SmoothedCrossEntropy(keras.losses.Loss):  # type: ignore[misc]
    """(B,) -sum_k s_k log softmax(z)_k with s = (1 - e) t + e / K, e = `label_smoothing` in (0, 1).

    Labels are class numbers or shares of the classes. Source: Szegedy et al. 2015, arXiv:1512.00567, section 7.
    """

    def __init__(self, label_smoothing: float, **more: Any) -> None:
        super().__init__(**more)
        self.label_smoothing = label_smoothing

    def call(self, y_true: KerasTensor, y_pred: KerasTensor) -> KerasTensor:
        """Labels, (B, K) logits -> (B,)."""
        smooth = smoothed(targets(y_true, y_pred), self.label_smoothing, y_pred.shape[-1])
        return -ops.sum(smooth * ops.log_softmax(y_pred, axis=-1), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


@register
class FocalLoss(keras.losses.Loss):  # type: ignore[misc]
    """(B,) -(1 - p)^g log p of the true class; g = 0 is cross-entropy. For class weights, see `training.balance`.

    With a softmax (`sigmoid` false), it is the sum over classes, weighted with t_k if labels t are shares of the
    classes. With sigmoids, it is the mean over units of t (1 - p)^g (-log p) + (1 - t) p^g (-log(1 - p)).
    `label_smoothing` e replaces t by (1 - e) t + e / K, with K = 2 for sigmoids. It is computed from logits and is
    finite for all of them. Source: Lin et al. 2017, arXiv:1708.02002, eq. 4.
    """

    def __init__(self, gamma: float = 2.0, *, sigmoid: bool = False, label_smoothing: float = 0.0, **more: Any) -> None:
        super().__init__(**more)
        self.gamma = gamma
        self.sigmoid = sigmoid
        self.label_smoothing = label_smoothing

    def call(self, y_true: KerasTensor, y_pred: KerasTensor) -> KerasTensor:
        """Labels, (B, K) logits -> (B,)."""
        classes = 2 if self.sigmoid else y_pred.shape[-1]
        t = smoothed(targets(y_true, y_pred), self.label_smoothing, classes)
        if self.sigmoid:
            yes, no = ops.softplus(-y_pred), ops.softplus(y_pred)  # -log p and -log(1 - p)
            return ops.mean(t * ops.exp(-self.gamma * no) * yes + (1 - t) * ops.exp(-self.gamma * yes) * no, axis=-1)
        log_p = ops.log_softmax(y_pred, axis=-1)
        # 1 - p, but not 0, where the slope of x^g is infinite for g < 1
        rest = -ops.expm1(ops.minimum(log_p, -1e-7))
        return -ops.sum(t * ops.power(rest, self.gamma) * log_p, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        own = {"gamma": self.gamma, "sigmoid": self.sigmoid, "label_smoothing": self.label_smoothing}
        return {**super().get_config(), **own}


def smoothed(t: KerasTensor, label_smoothing: float, classes: int) -> KerasTensor:
    """(1 - e) t + e / K, the smoothed targets."""
    return (1 - label_smoothing) * t + label_smoothing / classes if label_smoothing else t


LOSSES: dict[str, Callable[[], Any]] = {
    "cross_entropy": lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    "binary_cross_entropy": lambda: keras.losses.BinaryCrossentropy(from_logits=True),
    "focal": FocalLoss,
    "perceptron": PerceptronCriterion,
    "quadratic": QuadraticCost,
    "mse": keras.losses.MeanSquaredError,
    "mae": keras.losses.MeanAbsoluteError,
}
# losses for labels that are (B, K) shares of the classes
SOFT_LOSSES: dict[str, Callable[[], Any]] = {
    "cross_entropy": lambda: keras.losses.CategoricalCrossentropy(from_logits=True),
    "focal": FocalLoss,
    "quadratic": QuadraticCost,
}


def perfect_loss(loss: Any, y_true: np.ndarray, units: int) -> float:
    """The mean loss of answers that equal the targets, smoothed if `loss` smooths them: the minimum of training.

    It is the entropy of labels that are mixed or smoothed, and 0 for plain classes and for numbers.
    """
    smoothing = getattr(loss, "label_smoothing", 0.0)
    logits = np.zeros((len(y_true), units), np.float32)
    t = np.asarray(targets(ops.convert_to_tensor(y_true), ops.convert_to_tensor(logits)), np.float64)
    softmax = isinstance(
        loss,
        keras.losses.SparseCategoricalCrossentropy | keras.losses.CategoricalCrossentropy | SmoothedCrossEntropy,
    ) or (isinstance(loss, FocalLoss) and not loss.sigmoid)
    if softmax:
        t = smoothed(t, smoothing, units)
        logits = np.log(np.maximum(t, 1e-30))
    elif isinstance(loss, keras.losses.BinaryCrossentropy | FocalLoss):
        t = smoothed(t, smoothing, 2)
        logits = np.log(np.maximum(t, 1e-30)) - np.log(np.maximum(1 - t, 1e-30))
    else:
        return 0.0
    return float(loss(y_true, logits.astype(np.float32)))
