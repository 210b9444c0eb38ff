"""What the layers of a model make of a few batches: computed beside training, without a change to the model.

Everything runs eagerly in a `StatelessScope`: moving statistics, seeds and metrics that a layer would set are caught
there and forgotten. It works on any model, nested, subclassed or flat, on every backend.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from kerazoo.insight.activations import RELUS, Activations
from kerazoo.insight.layer_outputs import activation_of, layers_by_path, look_at_outputs
from kerazoo.keras_private import all_layers

Batch = tuple[Any, Any]  # images and labels
Seen = Callable[[keras.Layer, Any, Any], None]  # layer, input, output

JUDGED = (*RELUS, "sigmoid", "tanh")  # a softmax is nearly always that of the last layer, which may be certain


@contextmanager
def watching_layers(model: keras.Model, seen: Seen, *, layers: Sequence[keras.Layer] | None = None) -> Iterator[None]:
    """Inside, `seen` gets the input and the output of each layer that is called, inner ones first."""
    hooked = []

    def hook(layer: keras.Layer) -> None:
        call = layer.call

        def watched(*args: Any, **kwargs: Any) -> Any:
            output = call(*args, **kwargs)
            seen(layer, args[0] if args else next(iter(kwargs.values()), None), output)
            return output

        object.__setattr__(layer, "call", watched)  # past Keras, which would track it
        hooked.append((layer, vars(layer).get("call")))

    chosen = [layer for layer in all_layers(model) if layer is not model] if layers is None else layers
    try:
        for layer in chosen:
            hook(layer)
        yield
    finally:
        for layer, _ in hooked:
            vars(layer).pop("call", None)


def unit_shares(model: keras.Model, batches: Iterable[Batch]) -> tuple[dict[str, float], dict[str, float]]:
    """Layer -> share of dead ReLU units, and layer -> share of saturated activations, in inference mode."""
    kinds = {path: activation_of(layer) for path, layer in layers_by_path(model).items()}
    layers = {path: layer for path, layer in layers_by_path(model).items() if kinds[path] in JUDGED}
    units = {path: Activations(kinds[path], histograms=False) for path in layers}
    called: set[str] = set()

    def look(name: str, values: np.ndarray) -> None:
        path = name.partition(":")[0]  # a later call of the same layer
        units[path].add(values)
        called.add(path)

    for images, _ in batches:
        look_at_outputs(model, images, layers, look, strict=False)
    numbers = {path: units[path].scalars() for path in layers if path in called}
    dead = {path: number["dead"] for path, number in numbers.items() if "dead" in number}
    return dead, {path: number["saturated"] for path, number in numbers.items() if "saturated" in number}


def batch_norm_lag(
    model: keras.Model, batches: Sequence[Batch]
) -> tuple[dict[str, float], dict[str, float], float | None]:
    """How far moving statistics are from those of the batches, in training mode.

    Layer -> median over channels of |moving mean - mean| / deviation, layer -> median of |ln(moving variance /
    variance)|, and accuracy with batch statistics minus accuracy with moving ones (None where labels are not classes).
    Frozen layers and such without moving statistics are left out.
    """
    norms = [layer for layer in all_layers(model) if isinstance(layer, keras.layers.BatchNormalization)]
    norms = [layer for layer in norms if layer.trainable]
    if not norms or not batches:
        return {}, {}, None
    means: dict[int, list[np.ndarray]] = {}
    variances: dict[int, list[np.ndarray]] = {}

    def seen(layer: keras.Layer, inputs: Any, _: Any) -> None:
        values = np.moveaxis(_numpy(inputs), layer.axis, -1)
        axes = tuple(range(values.ndim - 1))
        means.setdefault(id(layer), []).append(values.mean(axes))
        variances.setdefault(id(layer), []).append(values.var(axes))

    with watching_layers(model, seen, layers=norms):
        for images, _ in batches:
            with keras.StatelessScope():
                model(images, training=True)
    shifts, spreads = {}, {}
    for layer in norms:
        if id(layer) not in means:
            continue
        mean, variance = np.mean(means[id(layer)], 0), np.mean(variances[id(layer)], 0)
        known = variance > layer.epsilon  # a dead channel has no deviation to compare with
        if not known.any():
            continue
        moving_mean, moving_variance = _numpy(layer.moving_mean), _numpy(layer.moving_variance)
        shift = np.abs(moving_mean - mean)[known] / np.sqrt(variance[known])
        spread = np.abs(np.log((moving_variance[known] + layer.epsilon) / (variance[known] + layer.epsilon)))
        shifts[layer.name], spreads[layer.name] = float(np.median(shift)), float(np.median(spread))
    return shifts, spreads, _accuracy_gap(model, norms, batches)


def _accuracy_gap(model: keras.Model, norms: Sequence[keras.Layer], batches: Sequence[Batch]) -> float | None:
    moving = [_right(_infer(model, images), labels) for images, labels in batches]
    if None in moving:
        return None
    for layer in norms:
        call = layer.call

        def by_batch(inputs: Any, training: Any = None, mask: Any = None, call: Any = call) -> Any:
            return call(inputs, training=True, mask=mask)

        object.__setattr__(layer, "call", by_batch)
    try:
        own = [_right(_infer(model, images), labels) for images, labels in batches]
    finally:
        for layer in norms:
            vars(layer).pop("call", None)
    return float(np.mean(np.asarray(own, float)) - np.mean(np.asarray(moving, float)))


def _infer(model: keras.Model, images: Any) -> Any:
    with keras.StatelessScope():
        return model(images, training=False)


def _loss(model: keras.Model, images: Any, labels: Any, outputs: Any, *, training: bool) -> Any:
    """What the model's loss is, without a trace in its metrics; inside a StatelessScope."""
    if "training" in inspect.signature(model.compute_loss).parameters:
        return model.compute_loss(images, labels, outputs, None, training=training)
    return model.compute_loss(images, labels, outputs, None)


def _right(outputs: Any, labels: Any) -> float | None:
    """The share of right answers; None where labels are not classes."""
    labels = np.asarray(labels)
    if not hasattr(outputs, "shape") or len(outputs.shape) != 2 or outputs.shape[-1] < 2:
        return None
    if labels.shape == tuple(outputs.shape):
        labels = labels.argmax(-1)
    labels = labels.reshape(-1)
    if labels.shape[0] != outputs.shape[0]:
        return None
    return float((_numpy(outputs).argmax(-1) == labels).mean())


def first_bad_layer(model: keras.Model, images: Any, weights: Sequence[np.ndarray]) -> str:
    """The first layer whose output is not finite while its input is, with these values of `model.variables`."""
    found: list[str] = []

    def seen(layer: keras.Layer, inputs: Any, output: Any) -> None:
        if not found and _finite(inputs) and not _finite(output):
            found.append(layer.name)

    mapping = list(zip(model.variables, map(ops.convert_to_tensor, weights), strict=True))
    with watching_layers(model, seen), keras.StatelessScope(state_mapping=mapping):
        model(images, training=True)
    return found[0] if found else ""


def inference_loss(model: keras.Model, batches: Iterable[Batch]) -> float | None:
    """The compiled loss of the batches in inference mode, as `evaluate` gives it."""
    losses, counts = [], []
    for images, labels in batches:
        with keras.StatelessScope():
            outputs = model(images, training=False)
            losses.append(float(_loss(model, images, labels, outputs, training=False)))
        counts.append(len(labels))
    return float(np.average(losses, weights=counts)) if losses else None


def gradient_norms(model: keras.Model, batches: Iterable[Batch]) -> tuple[list[float], float]:
    """The norm of the gradient of each batch, and of their mean. TensorFlow backend."""
    import tensorflow as tf

    norms: list[float] = []
    total: list[Any] = []
    for images, labels in batches:
        with keras.StatelessScope(), tf.GradientTape() as tape:
            outputs = model(images, training=True)
            loss = _loss(model, images, labels, outputs, training=True)
        variables = [variable.value for variable in model.trainable_variables]
        gradients = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        dense = [tf.cast(tf.convert_to_tensor(gradient), tf.float32) for gradient in gradients]
        norms.append(float(tf.linalg.global_norm(dense)))
        total = [one + more for one, more in zip(total, dense, strict=True)] if total else dense
    mean = float(tf.linalg.global_norm(total)) / len(norms) if norms else math.nan
    return norms, mean


def _numpy(values: Any) -> np.ndarray:
    array: np.ndarray = ops.convert_to_numpy(values).astype(np.float32)
    return array


def _finite(values: Any) -> bool:
    return all(bool(np.isfinite(_numpy(part)).all()) for part in keras.tree.flatten(values) if hasattr(part, "shape"))
