"""Feature maps of one probe picture under `fit`: what each stage of the network makes of it."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kerazoo.callbacks.writers import Writer

CHANNELS = 16  # maps drawn of each tap, in four rows


class FeatureMaps(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes, at the end of every epoch and for each tap (a layer's name; (1, H, W, C) output):

    - `feature_maps/TAP`, a picture of the first 16 channels, each stretched to its own range;
    - `feature_maps/TAP/mean` and `/std` over the whole map, and `/dead`, the share of channels that are 0 throughout.

    `probe` is one prepared picture, (1, H, W, C). The network must be flat: a nested one has no inner outputs to tap.
    """

    def __init__(self, writer: Writer, probe: np.ndarray, taps: Sequence[str]) -> None:
        super().__init__()
        self.writer = writer
        self.probe = probe
        self.taps = tuple(taps)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Run the probe in inference mode, which changes no state, and write what comes out of each tap."""
        if not self.taps:
            return
        outputs = [self.model.get_layer(tap).output for tap in self.taps]
        maps = keras.Model(self.model.input, outputs)(self.probe, training=False)
        for tap, values in zip(self.taps, maps if len(outputs) > 1 else [maps], strict=True):
            array = keras.ops.convert_to_numpy(values).astype(np.float32)
            array = array[0] if array.ndim == 4 else array
            self.writer.image(f"feature_maps/{tap}", draw(array), epoch + 1)
            statistics = {"mean": array.mean(), "std": array.std(), "dead": (array == 0).all(axis=(0, 1)).mean()}
            for name, value in statistics.items():
                self.writer.scalar(f"feature_maps/{tap}/{name}", float(value), epoch + 1)


def default_taps(model: keras.Model) -> tuple[str, ...]:
    """The last layer at each size of the feature map, from the input's to the smallest."""
    taps: dict[tuple[int, int], str] = {}
    for layer in model.layers[1:]:
        output = layer.output
        if not isinstance(output, list) and len(output.shape) == 4 and None not in output.shape[1:]:
            taps[tuple(output.shape[1:3])] = layer.name
    return tuple(taps.values())


def draw(maps: np.ndarray) -> np.ndarray:
    """(H, W, C) -> a grey picture, uint8, of the first 16 channels in rows of four with a gap of one pixel."""
    maps = np.nan_to_num(maps[..., :CHANNELS].astype(np.float64))
    height, width, count = maps.shape
    rows = -(-count // 4)
    grid = np.zeros((rows * (height + 1) - 1, 4 * (width + 1) - 1), np.uint8)
    low, high = maps.min(axis=(0, 1)), maps.max(axis=(0, 1))
    stretched = (maps - low) / np.where(high > low, high - low, 1.0) * 255
    for channel in range(count):
        top, left = (channel // 4) * (height + 1), (channel % 4) * (width + 1)
        grid[top : top + height, left : left + width] = stretched[..., channel].round()
    return grid
