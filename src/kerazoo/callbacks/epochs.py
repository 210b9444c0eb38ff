"""Losses, metrics and the learning rate of each epoch for TensorBoard, under `fit`."""

from typing import Any

import keras

from kerazoo.callbacks.writers.folder import RunWriter


class EpochMetrics(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes, at the end of every epoch, what `keras.callbacks.TensorBoard` does, so that its dashboards go on working:

    - `epoch_loss`, `epoch_METRIC` and `epoch_learning_rate` (that of the next step) into the run `train`;
    - `epoch_loss` and `epoch_METRIC` into the run `validation`.

    Steps count finished epochs, from 1. Stand last among the watchers: what they wrote is then on disk.
    """

    def __init__(self, writer: RunWriter) -> None:
        super().__init__()
        self.writer = writer

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write them."""
        values = {name: float(value) for name, value in (logs or {}).items()}
        rate = getattr(self.model.optimizer, "learning_rate", None)  # None where the optimizer has several
        if rate is not None:
            values["learning_rate"] = float(keras.ops.convert_to_numpy(rate))
        validation = {name.removeprefix("val_"): v for name, v in values.items() if name.startswith("val_")}
        train = {name: v for name, v in values.items() if not name.startswith("val_")}
        self.writer.measured("train", train, epoch + 1)
        if validation:
            self.writer.measured("validation", validation, epoch + 1)
        self.writer.flush()
