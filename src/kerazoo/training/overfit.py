"""Test whether a network can overfit one batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import keras
import numpy as np

from kerazoo.keras_private import all_layers
from kerazoo.tasks.losses import perfect_loss
from kerazoo.training.rate_finder import Batch, training_step, untouched

ENOUGH = 0.01  # a loss this close to that of perfect answers counts as learned by heart


@dataclass(frozen=True)
class BatchTrial:
    """The result: the loss before each step, the loss of perfect answers, and the loss that counts as learned."""

    losses: np.ndarray
    perfect: float
    enough: float
    passed: bool

    def line(self) -> str:
        """The result in one line."""
        last = self.losses[-1]
        steps = len(self.losses)
        course = f"the loss of one batch went from {self.losses[0]:.4f} to {last:.4f} in {steps} steps"
        goal = f"{self.enough:.4f}" + (f" (its labels allow no less than {self.perfect:.4f})" * (self.perfect > 0))
        if self.passed:
            return f"learned by heart: {course}, below {goal}"
        return f"NOT learned by heart: {course}, not below {goal}; check labels, scaling, loss and learning rate"


def overfit_one_batch(model: keras.Model, batch: Batch, *, learning_rate: float, steps: int = 200) -> BatchTrial:
    """Train `model` on one `batch` at a constant rate until it has learned it by heart, for at most `steps`.

    A batch counts as learned if its loss is within 0.01 of that of perfect answers. With mixed or smoothed labels the
    latter is their entropy. For regression, the loss must be below 1 % of the loss of the mean (squared error), or 10 %
    (absolute error). Dropout, penalties and weight decay are off, because they prevent overfitting.

    Source: Karpathy, "A Recipe for Training Neural Networks" (2019), "overfit one batch".
    """
    labels = np.asarray(batch[1])
    units = int(model.output_shape[-1])
    weight = batch[2] if len(batch) > 2 else None
    if isinstance(model.loss, keras.losses.MeanSquaredError | keras.losses.MeanAbsoluteError):
        share = 0.01 if isinstance(model.loss, keras.losses.MeanSquaredError) else 0.1
        mean = np.broadcast_to(labels.mean(axis=0), labels.shape)
        perfect, enough = 0.0, share * float(model.loss(labels, mean, sample_weight=weight))
    else:
        perfect = perfect_loss(model.loss, labels, units)
        enough = perfect + ENOUGH
    losses: list[float] = []
    with untouched(model), _without_dropout(model):
        step = training_step(model, penalties=False)
        for _ in range(steps):
            losses.append(step(batch, learning_rate))
            if losses[-1] < enough or not np.isfinite(losses[-1]):
                break
    return BatchTrial(np.array(losses), perfect, enough, bool(losses[-1] < enough))


@contextmanager
def _without_dropout(model: keras.Model) -> Iterator[None]:
    kept = [
        (layer, name, vars(layer)[name])
        for layer in all_layers(model)
        for name in ("rate", "dropout", "recurrent_dropout")
        if isinstance(vars(layer).get(name), int | float)
        and (name != "rate" or any(part in type(layer).__name__ for part in ("Dropout", "Stochastic")))
    ]
    try:
        for layer, name, _ in kept:
            setattr(layer, name, 0.0)
        yield
    finally:
        for layer, name, value in kept:
            setattr(layer, name, value)
