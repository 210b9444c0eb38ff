"""What the layers of a Keras model of any kind (functional, Sequential, subclassed, nested) give; changes no state.

The model runs eagerly, with each wanted layer's `call` replaced by one that also hands out what it gives. A second
model of inner outputs, the usual way, cannot be had of subclassed and of nested models.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from kerazoo.errors import ModelError
from kerazoo.keras_private import sublayers

MOST_CALLS = 8  # of one layer, each of which has its own output; more come of loops over time

Look = Callable[[str, np.ndarray], None]
Keep = Callable[[str, Any], Any]


def layers_by_path(model: keras.Model) -> dict[str, keras.Layer]:
    """Every layer below `model` by its path: "conv", or "backbone/conv" within the layer or model `backbone`."""
    found: dict[str, keras.Layer] = {}
    seen: set[int] = {id(model)}

    def walk(parent: keras.Layer, prefix: str) -> None:
        for layer in sublayers(parent):
            if id(layer) not in seen and not isinstance(layer, keras.layers.InputLayer):
                seen.add(id(layer))
                found.setdefault(prefix + layer.name, layer)
                walk(layer, f"{prefix}{layer.name}/")

    walk(model, "")
    return found


def find_layers(model: keras.Model, names: Sequence[str]) -> dict[str, keras.Layer]:
    """The layers called `names`: paths of `layers_by_path`, or their last parts. Raises ModelError."""
    known = layers_by_path(model)
    places: dict[str, list[str]] = {}
    for path in known:
        places.setdefault(path.rpartition("/")[2], []).append(path)
    layers = {}
    for name in names:
        paths = [name] if name in known else places.get(name, [])
        if not paths:
            close = difflib.get_close_matches(str(name), [*known, *places], 3) or list(known)[-1:]
            nearest = f"; the nearest names are {', '.join(dict.fromkeys(close))}" if close else ""
            raise ModelError(f"{model.name} has no layer {name!r:.80}{nearest}")
        if len(paths) > 1:
            raise ModelError(f"{model.name} has {len(paths)} layers {name!r}; use a path: {', '.join(paths[:3])}")
        layers[name] = known[paths[0]]
    return layers


def activation_of(layer: keras.Layer) -> str:
    """The name of the function that the output of `layer` comes of: "relu", "linear", ...; "" where it has none."""
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    if isinstance(layer, keras.layers.ReLU):
        return "leaky_relu" if layer.negative_slope else "relu"
    if hasattr(layer, "recurrent_activation") or type(layer).__name__.endswith("Normalization"):
        return "linear"  # a product of two functions saturates as none of them; normalized is any number
    return str(getattr(getattr(layer, "activation", None), "__name__", ""))


def look_at_outputs(
    model: keras.Model, inputs: Any, layers: Mapping[str, keras.Layer], look: Look, *, strict: bool = True
) -> None:
    """Run `model` on `inputs` in inference mode; call `look(name, values)` for what each of `layers` gives.

    `values` is a float32 array, channels last. Of several outputs it is the first. A layer that is called again is
    `NAME:1` the second time, `NAME:2` the third. No variable changes, no loss is added, no random number is drawn: what
    layers would assign is dropped. Raises ModelError where the inputs do not fit and, if `strict`, where a layer is not
    called, or its outputs cannot be read: in a loop, or in a compiled function.
    """
    calls = dict.fromkeys(layers, 0)
    errors: list[ModelError] = []

    def keep(name: str, outputs: Any) -> None:
        call = calls[name]
        calls[name] += 1
        if call >= MOST_CALLS:
            errors.append(ModelError(f"layer {name} is called over {MOST_CALLS} times; name the layer around it"))
            return
        try:
            first = next(value for value in keras.tree.flatten(outputs) if value is not None)
            values = np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(first, "float32")))
        except Exception:  # each backend has its own error for a value that is being traced
            errors.append(ModelError(f"layer {name} is called within a compiled function; name the layer around it"))
            return
        look(f"{name}:{call}" if call else name, channels_last(values, layers[name]))

    run_recorded(model, inputs, layers, keep)
    if errors and strict:
        raise errors[0]
    if (absent := [name for name, count in calls.items() if not count]) and strict:
        raise ModelError(f"layer {absent[0]} has no output: {model.name} does not call it in inference mode")


def run_recorded(model: keras.Model, inputs: Any, layers: Mapping[str, keras.Layer], keep: Keep) -> Any:
    """What `model` gives for `inputs` in inference mode; `keep(name, outputs)` is called after each of `layers`.

    What `keep` gives, if it is not None, takes the place of the outputs. No variable changes. Raises ModelError where
    the inputs do not fit.
    """
    with keras.StatelessScope(), _recorded(layers, keep):
        try:
            return model(inputs, training=False)
        except Exception as error:
            shapes = keras.tree.map_structure(lambda value: f"{tuple(value.shape)} {value.dtype}", inputs)
            raise ModelError(f"{model.name} cannot be run on inputs {shapes}: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """What `error` says, without the lines that Keras puts around it."""
    plain = re.sub(r"\x1b\[\d*m", "", str(error))
    lines = [
        line.strip() for line in plain.splitlines() if line.strip() and not line.startswith("Exception encountered")
    ]
    return (lines[0] if lines else type(error).__name__)[:200]


@contextmanager
def _recorded(layers: Mapping[str, keras.Layer], keep: Keep) -> Iterator[None]:
    """Inside, `keep(name, outputs)` is called after each call of one of `layers`."""
    replaced = []
    try:
        for name, layer in layers.items():
            for method in ("call", "quantized_call"):
                own = vars(layer).get(method)
                object.__setattr__(layer, method, _recording(name, getattr(layer, method), keep))
                replaced.append((layer, method, own))  # `object`: Keras would track the attribute
        yield
    finally:
        for layer, method, own in reversed(replaced):
            object.__delattr__(layer, method)
            if own is not None:
                object.__setattr__(layer, method, own)


def _recording(name: str, call: Callable[..., Any], keep: Keep) -> Callable[..., Any]:
    def recording(*args: Any, **kwargs: Any) -> Any:
        outputs = call(*args, **kwargs)
        other = keep(name, outputs)
        return outputs if other is None else other

    return recording


def channels_last(values: np.ndarray, layer: keras.Layer) -> np.ndarray:
    """What `layer` gives, with the channels as the last axis."""
    order = getattr(layer, "data_format", None) or (keras.config.image_data_format() if values.ndim > 3 else "")
    return np.moveaxis(values, 1, -1) if order == "channels_first" and values.ndim > 2 else values
