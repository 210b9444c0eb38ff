"""Losses, metrics and the learning rate of each epoch, under `fit`."""

from typing import Any

import keras

from kerazoo.callbacks.steps import PeriodicLogger
from kerazoo.callbacks.writers.writer import GuardedWriter, Writer


class EpochMetrics(PeriodicLogger):
    """Writes at the end of every epoch what `fit` has measured; steps count finished epochs, from 1.

    - `epoch/train/loss`, `epoch/train/METRIC` and `epoch/train/learning_rate` (that of the next step);
    - `epoch/validation/loss` and `epoch/validation/METRIC`.

    A `TensorBoardWriter` writes them as `keras.callbacks.TensorBoard` does, so that its dashboards go on working.
    Stand last among the loggers: what they wrote is then on disk.

    Example:
    ```python
    model.fit(x, y, validation_split=0.1, callbacks=[EpochMetrics(FolderWriter("log"))])
    ```
    """

    def __init__(self, writer: "Writer | list[Writer] | GuardedWriter") -> None:
        super().__init__(writer)
        self._logs: dict[str, Any] = {}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write them."""
        self._logs = logs or {}
        super().on_epoch_end(epoch, logs)
        self.writer.flush()

    def record(self, step: int) -> None:
        """Write those of the epoch that ended."""
        values = {name: float(value) for name, value in self._logs.items()}
        rate = getattr(self.model.optimizer, "learning_rate", None)  # None where the optimizer has several
        if rate is not None:
            values["learning_rate"] = float(keras.ops.convert_to_numpy(rate))
        for name, value in values.items():
            part = "validation" if name.startswith("val_") else "train"
            self.writer.scalar(f"epoch/{part}/{name.removeprefix('val_')}", value, self.epoch)
