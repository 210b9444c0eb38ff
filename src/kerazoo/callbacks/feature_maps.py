"""Feature maps of probe images under `fit`: what each layer makes of the same images while it learns."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kerazoo.callbacks.steps import PeriodicLogger
from kerazoo.callbacks.writers.writer import Writer
from kerazoo.errors import InputError, ModelError
from kerazoo.insight.activations import Activations
from kerazoo.insight.grids import draw
from kerazoo.insight.layer_outputs import activation_of, find_layers, layers_by_path, look_at_outputs
from kerazoo.period import Period

BATCH = 32  # probe images run at once


class FeatureMapLogger(PeriodicLogger):
    """Logs what layers give for probe images, in inference mode. It works on any model, built or not, flat or nested.

    - `feature_maps/LAYER`: an image of the first probe image's maps, where the output is (N, H, W, C);
    - `feature_maps/LAYER/mean` and `/std`: over all images, positions and channels;
    - `feature_maps/LAYER/dead` and `/zero`, of a ReLU, or of a layer without a function of its own that gives no
      negative value, as pooling: the share of channels never above 0 on any image and position, and the share of values
      that are 0;
    - `feature_maps/LAYER/saturated`, of sigmoid, tanh and softmax: the share at the flat ends (see `Activations`);
    - with `histograms`: `feature_maps/LAYER/values`, and over the channels `/channel_mean` and `/channel_std`. Their
      bins are the same for all layers and steps: those of a signed logarithm.

    A layer that is called more than once is `LAYER`, `LAYER:1`, ... in the order of its calls. Of several outputs it is
    the first. Under mirrored replicas the values are those of one replica.

    It observes only: weights, optimizer state and losses are equal, bit for bit, to those of a training without it.

    Args:
        writer: One writer, or a list.
        probe: Images as the model takes them, (N, H, W, C); a dict or tuple of arrays for several inputs. `dead` and
            `saturated` say more of many images.
        layers: Names of layers; within nested models and layers also paths, "backbone/conv". Without them the last
            layer at each size of the feature map is taken.
        every: "epoch", "3 epochs", or a number of steps.
        histograms: Whether to log histograms, too.
        grids: Whether to log images.

    Raises:
        InputError: The probe is no array of finite numbers.
        ModelError: A layer does not exist, or the probe does not fit. This comes before the first step, or after it
            where that builds the model.

    Example:
    ```python
    maps = FeatureMapLogger(FolderWriter("logs"), x_val[:64], ["conv_1", "conv_2"])
    model.fit(x, y, callbacks=[maps])
    ```
    """

    def __init__(
        self,
        writer: "Writer | Sequence[Writer]",
        probe: Any,
        layers: Sequence[str] | None = None,
        *,
        every: "int | str | Period" = "epoch",
        histograms: bool = False,
        grids: bool = True,
    ) -> None:
        super().__init__(writer, every)
        if isinstance(layers, str):
            raise InputError(f"layers must be a list of names, got {layers!r:.80}; use [{layers!r:.80}]")
        self.probe = _checked(probe)
        self.names = None if layers is None else tuple(dict.fromkeys(layers))
        self.histograms = histograms
        self.grids = grids
        self._layers: dict[str, keras.Layer] | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Look for the layers of a model that is not built, as far as they are known."""
        super().on_train_begin(logs)
        self._layers = None
        if not self.model.built and self.names is not None and isinstance(self.model, keras.Sequential):
            find_layers(self.model, self.names)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Look for the layers, so that an error comes before the first step, or after the one that builds the model."""
        if self._layers is None and self.model.built:
            self._choose()
        super().on_train_batch_begin(batch, logs)

    def record(self, step: int) -> None:
        """Run the probe, and write what comes out of each layer."""
        layers = self._choose()
        outputs: dict[str, Activations] = {}
        drawn: set[str] = set()

        def look(name: str, values: np.ndarray) -> None:
            if name not in outputs:
                outputs[name] = Activations(activation_of(layers[name.partition(":")[0]]), histograms=self.histograms)
            outputs[name].add(values)
            if self.grids and values.ndim == 4 and name not in drawn:
                self.writer.image(f"feature_maps/{name}", draw(values[0]), step)
                drawn.add(name)

        for start in range(0, _rows(self.probe), BATCH):
            look_at_outputs(self.model, _cut(self.probe, start, start + BATCH), layers, look)
        for name, output in outputs.items():
            for kind, number in output.scalars().items():
                self.writer.scalar(f"feature_maps/{name}/{kind}", number, step)
            if self.histograms:
                for kind, (counts, edges) in output.histograms().items():
                    self.writer.histogram(f"feature_maps/{name}/{kind}", counts, edges, step)

    def _choose(self) -> dict[str, keras.Layer]:
        """The layers by name; at the first time the probe is run through them."""
        if self._layers is None:
            _check_shape(self.model, self.probe)
            first = _cut(self.probe, 0, 1)
            if self.names is None:
                layers = last_of_each_size(self.model, first)
            else:
                layers = find_layers(self.model, self.names)
                look_at_outputs(self.model, first, layers, lambda name, values: None)
            self._layers = layers
        return self._layers


def last_of_each_size(model: keras.Model, image: Any) -> dict[str, keras.Layer]:
    """The last layer at each size of the feature map, in the order of the forward pass. `image` is (1, H, W, C)."""
    last: dict[tuple[int, ...], str] = {}

    def look(name: str, values: np.ndarray) -> None:
        if values.ndim == 4:
            last[values.shape[1:3]] = name.partition(":")[0]

    layers = layers_by_path(model)
    parts = {path: layer for path, layer in layers.items() if not isinstance(layer, keras.Model)}
    look_at_outputs(model, image, parts, look, strict=False)
    return {path: layers[path] for path in last.values()}


def _checked(probe: Any) -> Any:
    """The probe as arrays of float32 or whole numbers. Raises InputError."""
    if isinstance(probe, dict | tuple):
        arrays = keras.tree.map_structure(_checked_array, probe)
        rows = {len(array) for array in keras.tree.flatten(arrays)}
        if len(rows) > 1:
            raise InputError(f"the parts of probe must have as many rows, got {sorted(rows)}")
        return arrays
    return _checked_array(probe)


def _checked_array(probe: Any) -> np.ndarray:
    expected = "probe must be an array of finite numbers, (N, H, W, C), as the model takes them"
    try:
        array = np.asarray(keras.ops.convert_to_numpy(probe) if keras.ops.is_tensor(probe) else probe)
    except ValueError as error:
        raise InputError(f"{expected}, got rows of different shapes") from error
    kind = "f" if array.dtype.name == "bfloat16" else array.dtype.kind
    if kind not in "fiub":
        raise InputError(f"{expected}, got {array.dtype}")
    if array.ndim == 0 or array.size == 0:
        raise InputError(f"{expected}, got shape {array.shape}")
    if kind == "f":
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            bad = int(np.sum(~np.isfinite(array)))
            raise InputError(f"{expected}, got {bad} values that are NaN or infinite")
    return array


def _check_shape(model: keras.Model, probe: Any) -> None:
    """Raise ModelError where the probe of a model with one input has another shape."""
    inputs = getattr(model, "inputs", None) or []
    if len(inputs) != 1 or not isinstance(probe, np.ndarray):
        return
    wanted, shape = inputs[0].shape, probe.shape
    if len(wanted) == len(shape) and all(w in (None, n) for w, n in zip(wanted[1:], shape[1:], strict=True)):
        return
    sizes = ", ".join(["N", *(str(size or "any") for size in wanted[1:])])
    hint = "; add an axis: probe[None]" if len(shape) == len(wanted) - 1 else ""
    raise ModelError(f"probe must be ({sizes}) for {model.name}, got {shape}{hint}")


def _rows(probe: Any) -> int:
    return len(keras.tree.flatten(probe)[0])


def _cut(probe: Any, start: int, stop: int) -> Any:
    return keras.tree.map_structure(lambda array: array[start:stop], probe)
