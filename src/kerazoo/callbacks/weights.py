"""Weight norms under `fit`."""

from typing import Any

import keras
import numpy as np

from kerazoo.callbacks.writers.writer import Writer


class WeightLogger(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes `weights/PATH/norm`, the L2 norm of each trainable variable, at the end of every epoch."""

    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self.writer = writer

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Read the variables and write their norms."""
        for variable in self.model.trainable_variables:
            values = keras.ops.convert_to_numpy(variable).ravel()
            norm = float(np.linalg.norm(values.astype(np.promote_types(values.dtype, np.float32))))
            self.writer.scalar(f"weights/{variable.path}/norm", norm, epoch + 1)
