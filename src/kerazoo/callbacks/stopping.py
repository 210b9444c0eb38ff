"""Callbacks that stop a training."""

import math

import keras
import numpy as np
from keras import ops

from kerazoo.keras_private import averages_of


class EarlyStopping(keras.callbacks.EarlyStopping):  # type: ignore[misc]
    """Stops after `patience` epochs without a lower val_loss; at the end the best epoch's weights come back.

    With `ema`, what is kept of that epoch is what `fit` would have ended with: the averages. Keras's own keeps the
    weights, and puts them over the averages that `fit` has just set.
    """

    def __init__(self, patience: int) -> None:
        super().__init__("val_loss", patience=patience, restore_best_weights=True)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Compare, and keep the weights or their averages where they are the best so far."""
        before, loss = self.best_weights, (logs or {}).get("val_loss")
        if loss is not None and not math.isfinite(loss):
            logs = {**(logs or {}), "val_loss": math.inf}  # nothing is ever lower than NaN
        super().on_epoch_end(epoch, logs)
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        if self.best_weights is before or not optimizer.use_ema:
            return
        average_of = {id(variable): average for variable, average in averages_of(optimizer)}
        for index, variable in enumerate(self.model.weights):
            if id(variable) in average_of:
                self.best_weights[index] = ops.convert_to_numpy(average_of[id(variable)])


class StopOnNaN(keras.callbacks.Callback):  # type: ignore[misc]
    """Stops after an epoch whose loss is not finite. Keras's TerminateOnNaN makes every step wait for Python."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Look at the epoch's mean loss."""
        self.model.stop_training |= not np.isfinite((logs or {}).get("loss", 0.0))
