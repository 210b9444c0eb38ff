"""Grad-CAM, where a network looked: Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2; and its picture.

Grad-CAM++ (Chattopadhyay et al. 2018, arXiv:1710.11063) weights positions by higher derivatives, equation 19, so that
several objects of a class, and small ones, have as much heat as a single one.

Shape letters: B images, H W pixels, C channels, K outputs of the network; h w positions and F channels of a layer.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from PIL import Image

from kerazoo.errors import ModelError
from kerazoo.insight.layer_outputs import channels_last, find_layers, layers_by_path, run_recorded

# every 16th color of matplotlib's inferno, whose lightness grows evenly (Smith and van der Walt, CC0)
INFERNO = (
    "000004 0b0724 210c4a 3d0965 57106e 71196e 8a226a a32c61 bc3754 d04545 e35933 f1711f f98c0a fcaa0f f9c932 f2e865 "
    "fcffa4"
)
FAINT, STRONG = 0.3, 0.85  # the share of the colors where the heat is 0, and where it is 1


METHODS = ("grad-cam", "grad-cam++")
PROBABILITIES = ("softmax", "sigmoid")  # functions that make probabilities of logits


def grad_cam(
    model: keras.Model, images: Any, *, classes: int | Sequence[int] | None = None, layer: str | None = None,
    method: str = "grad-cam",
) -> np.ndarray:  # fmt: skip
    """(B, H, W, C) prepared images -> (B, h, w) float32 in [0, 1]: how much each position speaks for a class.

    relu(sum_f a_f A_f), divided by its maximum, where A are the maps of `layer` and a_f is the mean of dy/dA_f over
    the positions. It is 0 everywhere if no position speaks for the class. y is an output of the network before a last
    softmax or sigmoid, behind which gradients vanish for sure answers; in a subclassed model it is the output itself.
    `classes` are numbers of outputs, one or B of them; by default the largest output of each image. `layer` is a path
    of `layers_by_path`, or its last part; by default the last layer that gives feature maps of more than one position.

    With method "grad-cam++", a_f is the sum over the positions of alpha_f relu(dy/dA_f), where alpha_f = g^2 / (2 g^2 +
    g^3 sum(A_f)) and g = dy/dA_f. The model is not changed. Raises ModelError.
    """
    if method not in METHODS:
        raise ModelError(f"method must be {' or '.join(METHODS)}, got {method!r:.40}")
    with _logits(model):
        return _heat(model, images, classes, layer, method)


def _heat(
    model: keras.Model, images: Any, classes: int | Sequence[int] | None, layer: str | None, method: str
) -> np.ndarray:
    images = keras.ops.convert_to_tensor(images)
    maps, scores = _last_maps(model, images, layer)
    chosen = keras.ops.convert_to_tensor(_one_hot(scores, classes))

    def score(change: Any) -> Any:
        """The sum of the chosen outputs, one of each image, with `change` added to the maps."""
        calls = 0

        def add(name: str, outputs: Any) -> Any:
            nonlocal calls
            calls += 1
            return outputs + change if calls == maps.call else None

        outputs = run_recorded(model, images, {maps.name: maps.layer}, add)
        return keras.ops.sum(keras.ops.cast(outputs, "float32") * chosen)

    slopes = _gradient(score, keras.ops.zeros_like(maps.values))
    a, slopes = (channels_last(_numbers(each), maps.layer) for each in (maps.values, slopes))
    weights = slopes.mean(axis=(1, 2), keepdims=True)  # (B, 1, 1, F), equation 1
    if method == "grad-cam++":
        weights = _second_order(a, slopes)
    heat = np.nan_to_num(np.maximum((weights * a).sum(axis=-1), 0.0))  # equation 2
    highest = heat.max(axis=(1, 2), keepdims=True)
    shares: np.ndarray = heat / np.where(highest > 0, highest, 1.0).astype(np.float32)
    return shares


def mean_grad_cam(
    networks: Sequence[tuple[keras.Model, bool]], images: np.ndarray, *, classes: int | Sequence[int],
    layer: str | None = None, method: str = "grad-cam",
) -> np.ndarray:  # fmt: skip
    """(B, H, W, C) prepared images -> (B, h, w): the mean of the maps of several networks, for answers that are means.

    Each network comes with whether it also answers the mirror images, whose maps are mirrored back. `layer` and
    `method` are as in `grad_cam`.
    """
    maps = []
    for network, flip in networks:
        both = np.concatenate([images, images[:, :, ::-1]]) if flip else images
        chosen = np.broadcast_to(classes, len(images)).tolist()
        heat = grad_cam(network, both, classes=chosen * 2 if flip else chosen, layer=layer, method=method)
        maps += [heat[: len(images)], heat[len(images) :, :, ::-1]] if flip else [heat]
    mean: np.ndarray = np.mean(maps, axis=0)
    return mean


def _second_order(a: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """(B, h, w, F) maps and dy/dA -> (B, 1, 1, F) weights of Grad-CAM++.

    The paper differentiates exp(y), whose factor exp(y) is the same for all weights of an image, and is left out.
    """
    square = np.square(slopes)
    below = 2 * square + square * slopes * a.sum(axis=(1, 2), keepdims=True)
    alphas = np.divide(square, below, out=np.zeros_like(square), where=below != 0)
    weights: np.ndarray = (alphas * np.maximum(slopes, 0)).sum(axis=(1, 2), keepdims=True)
    return weights


@contextmanager
def _logits(model: keras.Model) -> Iterator[None]:
    """Inside, the last layer of a functional or Sequential model gives what it has before its softmax or sigmoid."""
    last = model
    while isinstance(last, keras.Model) and getattr(last, "outputs", None) and last.layers:
        last = last.layers[-1]
    if isinstance(last, keras.layers.Softmax):
        last.call = lambda inputs, mask=None: inputs
        try:
            yield
        finally:
            del last.call
        return
    function = getattr(last, "activation", None)
    if getattr(function, "__name__", "") not in PROBABILITIES or isinstance(last, keras.Model):
        yield
        return
    last.activation = keras.activations.linear
    try:
        yield
    finally:
        last.activation = function


def overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """(H, W, 1 or 3) uint8 and (h, w) in [0, 1] -> (H, W, 3) uint8: the colors of `heat` over the picture in gray."""
    height, width = pixels.shape[:2]
    image = Image.fromarray(heat.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    fine = np.asarray(image)
    share = (FAINT + (STRONG - FAINT) * fine)[..., np.newaxis]
    mixed = (1 - share) * pixels.mean(axis=-1, keepdims=True) + share * colors(fine)
    picture: np.ndarray = mixed.round().astype(np.uint8)
    return picture


def colors(values: np.ndarray) -> np.ndarray:
    """(...) in [0, 1] -> (..., 3) in [0, 255], from black over red to light yellow."""
    table = np.array([list(bytes.fromhex(each)) for each in INFERNO.split()], np.float64)
    places = np.linspace(0, 1, len(table))
    return np.stack([np.interp(values, places, channel) for channel in table.T], axis=-1)


@dataclass(frozen=True)
class _Maps:
    """What `layer` gives in its call of this number, from 1; the axes are in the layer's own order."""

    name: str
    layer: keras.Layer
    call: int
    values: Any


def _last_maps(model: keras.Model, images: Any, name: str | None) -> tuple[_Maps, np.ndarray]:
    """The maps of the layer `name`, or the last ones, and the (B, K) outputs of the network. Raises ModelError."""
    layers = layers_by_path(model) if name is None else find_layers(model, [name])
    calls = dict.fromkeys(layers, 0)
    last: _Maps | None = None
    weighted = False  # before the first layer with weights, it is still the image

    def keep(path: str, outputs: Any) -> None:
        nonlocal last, weighted
        layer = layers[path]
        calls[path] += 1
        weighted |= bool(layer.weights)
        shape = getattr(outputs, "shape", ())
        if len(shape) != 4:
            return
        _, height, width, _ = channels_last(np.broadcast_to(0, shape), layer).shape
        if name is not None or (weighted and height * width > 1):
            last = _Maps(path, layer, calls[path], outputs)

    outputs = run_recorded(model, images, layers, keep)
    if last is None:
        subject = f"no layer of {model.name} gives" if name is None else f"layer {name} of {model.name} does not give"
        raise ModelError(f"{subject} feature maps, (B, h, w, F), so Grad-CAM cannot show where it looked")
    if len(getattr(outputs, "shape", ())) != 2:
        shapes = keras.tree.map_structure(lambda value: tuple(value.shape), outputs)
        raise ModelError(f"Grad-CAM needs a model with one output, (B, K), got {shapes} of {model.name}")
    return last, _numbers(outputs)


def _one_hot(scores: np.ndarray, classes: int | Sequence[int] | None) -> np.ndarray:
    """(B, K) outputs -> (B, K) float32, 1 at the class of each image. Raises ModelError."""
    count, units = scores.shape
    numbers = scores.argmax(axis=1) if classes is None else np.asarray(classes)
    fits = numbers.dtype.kind in "iu" and numbers.shape in ((), (count,))
    if not fits or numbers.min() < 0 or numbers.max() >= units:
        raise ModelError(f"classes must be one number or {count}, from 0 to {units - 1}, got {classes!r:.80}")
    rows: np.ndarray = np.eye(units, dtype=np.float32)[np.broadcast_to(numbers, count)]
    return rows


def _gradient(function: Callable[[Any], Any], at: Any) -> Any:
    """The gradient of a scalar function. Raises ModelError if the backend is neither TensorFlow nor JAX."""
    backend = keras.config.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(at)
            value = function(at)
        return tape.gradient(value, at, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    if backend == "jax":
        import jax

        return jax.grad(function)(at)
    raise ModelError(f"Grad-CAM needs the TensorFlow or JAX backend, got {backend!r}; set KERAS_BACKEND")


def _numbers(values: Any) -> np.ndarray:
    numbers: np.ndarray = np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(values, "float32")))
    return numbers
