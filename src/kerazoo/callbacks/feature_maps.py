"""Feature maps of one probe image under `fit`: what each stage of the network makes of it."""

import difflib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kerazoo.callbacks.writers.writer import Writer
from kerazoo.errors import ModelError
from kerazoo.insight.grids import draw


class FeatureMapLogger(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes, at the end of every epoch and for each tap (a layer's name):

    - `feature_maps/TAP`, an image of the first 16 channels, each stretched to its own range, where its output is
      (1, H, W, C);
    - `feature_maps/TAP/mean` and `/std` over the whole output, and `/dead`, the share of channels that are always 0.

    `probe` is one prepared image, (1, H, W, C). Without `taps` it takes `default_taps`. The network must be functional
    or sequential (built or not), and flat: a nested network has no inner outputs to tap. Raises ModelError before the
    first step where a tap cannot be taken.
    """

    def __init__(self, writer: Writer, probe: np.ndarray, taps: Sequence[str] | None = None) -> None:
        super().__init__()
        self.writer = writer
        self.probe = probe
        self.taps = None if taps is None else tuple(taps)
        self._tapped: tuple[tuple[str, ...], keras.Model] | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Look for the taps, so that an error comes before any work."""
        self._tapped = None
        if not isinstance(self.model, keras.Sequential) or self.model.built:
            self._tapped = _tap(self.model, self.taps)
        else:
            _check_names(self.model, self.taps or ())

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Run the probe in inference mode, which changes no state, and write what comes out of each tap."""
        self._tapped = self._tapped or _tap(self.model, self.taps)
        taps, network = self._tapped
        outputs = network(self.probe, training=False) if taps else []
        for tap, values in zip(taps, outputs if isinstance(outputs, list) else [outputs], strict=True):
            array = keras.ops.convert_to_numpy(values).astype(np.float32)
            if array.ndim == 4:
                self.writer.image(f"feature_maps/{tap}", draw(array[0]), epoch + 1)
            dead = (array == 0).all(axis=tuple(range(array.ndim - 1)))
            statistics = {"mean": array.mean(), "std": array.std(), "dead": dead.mean()}
            for name, value in statistics.items():
                self.writer.scalar(f"feature_maps/{tap}/{name}", float(value), epoch + 1)


def _tap(model: keras.Model, taps: Sequence[str] | None) -> tuple[tuple[str, ...], keras.Model]:
    """The names of the taps, and the network that gives their outputs as a list."""
    if not hasattr(model, "inputs"):
        raise ModelError(
            f"feature maps of {model.name} cannot be had: {type(model).__name__} is a subclass of keras.Model with a "
            "`call` of its own; leave FeatureMapLogger out, or build it from keras.Input on, or as keras.Sequential"
        )
    names = default_taps(model) if taps is None else tuple(taps)
    _check_names(model, names)
    if not names:
        return names, model
    try:
        inputs = model.inputs if len(model.inputs) > 1 else model.inputs[0]
        return names, keras.Model(inputs, [model.get_layer(name).output for name in names])
    except (AttributeError, ValueError) as error:
        raise ModelError(
            f"feature maps of {', '.join(names)} cannot be had: {str(error).splitlines()[0]}; name layers that are "
            "called once"
        ) from error


def _check_names(model: keras.Model, names: Sequence[str]) -> None:
    known = [layer.name for layer in model.layers]
    nested = {layer.name for layer in model.layers if isinstance(layer, keras.Model)}
    for name in names:
        if name in nested:
            raise ModelError(
                f"feature maps of {name} cannot be had: it is a network within {model.name}; build it flat"
            )
        if name not in known:
            close = difflib.get_close_matches(name, known, 1) or known[-1:]
            raise ModelError(f"feature maps of {name} cannot be had: {model.name} has no such layer; one is {close[0]}")


def default_taps(model: keras.Model) -> tuple[str, ...]:
    """The last layer at each size of the feature map, from the input's to the smallest."""
    taps: dict[tuple[int, int], str] = {}
    for layer in model.layers:
        if isinstance(layer, (keras.layers.InputLayer, keras.Model)):
            continue  # a network of its own has no outputs in this one
        output = layer.output
        if not isinstance(output, list) and len(output.shape) == 4 and None not in output.shape[1:]:
            taps[tuple(output.shape[1:3])] = layer.name
    return tuple(taps.values())
