"""The signatures of an export, and the SavedModel that has them.

The graph is bytes -> decode -> resize -> scale -> model(training=False) -> probabilities -> names. These are the same
functions that evaluated the run. Weights are stored once: the module tracks the variables, and the Keras model exists
only in a closure. Such a SavedModel also loads in TensorFlow Serving, which is in C++.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from kerazoo.exports.guard import finite, guarded, only_ok
from kerazoo.exports.layout import (
    CLASS_NAMES,
    CLASSES,
    CLASSIFY,
    DEFAULT,
    FEATURES,
    IMAGE_BYTES,
    PREPARE,
    PREPARED,
    SCORES,
    SERVE_PREPARED,
    STATUS,
    TOP_K,
)
from kerazoo.models.description import ModelSpec
from kerazoo.models.heads.classifier import has_features, logits_and_features
from kerazoo.tasks.task import find_task

METHOD = "tensorflow/serving/classify"  # by which TensorFlow Serving knows a signature for its classify requests
ENCODED = (1, 3)  # channels that encoded images are decoded to
Answers = Mapping[str, tf.Tensor]


def write_saved_model(folder: Path, spec: ModelSpec, model: keras.Model) -> dict[str, tf.TensorSpec]:
    """Write the SavedModel, and return its signatures, {name: input}. They are (B is any number of images):

    - `serving_default`: `image_bytes` (B,) string, encoded images;
    - `serve_images`: `images` (B, H, W, C) float32 pixels in [0, 255], of any size, with the network's channels C;
    - `serve_pixels`: `pixels` (B, H, W, C) uint8, of any size;
    - `serve_prepared`: `prepared` (B, height, width, C) float32, as `Preprocessing` prepares them;
    - `features`: `image_bytes`, for a network with a layer `features`;
    - `prepare`: `image_bytes`, to decode them apart from the network, without the guard, which costs as much again;
    - `classify`: `inputs` (B,) string, each a serialized `tf.train.Example` with a feature `image_bytes`, for a task
      with probabilities. It is what TensorFlow Serving's classify requests are answered by.

    The first four give, with k = min(5, K), `probabilities` (B, K) float32, `label` (B,) string, `top_labels` (B, k)
    string, `top_probabilities` (B, k) float32 and `class_names` (B, K) string, the names in the order of
    `probabilities`; a regression gives `values` (B, K) float32 and `class_names`. `features` gives `features` (B, F)
    float32. These give `status` (B,) string: "ok", or why the image has no answer; then its numbers are NaN and its
    labels are empty, and the other images of the batch keep their bits. `prepare` gives `prepared` (B, height, width,
    C) float32, and fails if one of the images cannot be decoded. `classify` gives `classes` (B, K) string and `scores`
    (B, K) float32, without a status.

    If the network's channels are not 1 or 3, which encoded images have, `serving_default` and `features` take `images`,
    and there is no `prepare` and no `classify`.
    """
    module = tf.Module()
    module.variables_ = [variable.value for variable in model.variables]
    signatures = _signatures(spec, model)
    tf.saved_model.save(module, str(folder), signatures)
    if CLASSIFY in signatures:
        updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(folder))
        updater.replace_method_name(CLASSIFY, METHOD)
        updater.save()
    return {name: function.input_signature[0] for name, function in signatures.items()}


def _signatures(spec: ModelSpec, model: keras.Model) -> dict[str, Any]:
    preprocessing = spec.preprocessing
    task = find_task(spec.task)
    names = tf.constant(spec.class_names)
    k = min(TOP_K, len(spec.class_names))
    prepared = tf.TensorSpec((None, *preprocessing.shape), tf.float32, PREPARED)
    encoded = tf.TensorSpec((None,), tf.string, IMAGE_BYTES)
    examples = tf.TensorSpec((None,), tf.string, "inputs")
    images, pixels = (
        tf.TensorSpec((None, None, None, preprocessing.channels), dtype, name)
        for dtype, name in ((tf.float32, "images"), (tf.uint8, "pixels"))
    )

    network = _function(lambda x: logits_and_features(model, x), prepared)  # all signatures share one graph of it

    def answer(x: tf.Tensor, status: tf.Tensor) -> Answers:
        every = tf.repeat(names[None], tf.shape(x)[0], axis=0)
        found = task.signature(spec.answers(network(x)["logits"]), every, names, k)
        masked = {name: value if name == CLASS_NAMES else only_ok(value, status) for name, value in found.items()}
        return {**masked, STATUS: status}

    def features(x: tf.Tensor, status: tf.Tensor) -> Answers:
        return {FEATURES: only_ok(network(x)[FEATURES], status), STATUS: status}

    def classes(x: tf.Tensor, status: tf.Tensor) -> Answers:
        found = answer(x, status)
        return {CLASSES: only_ok(found[CLASS_NAMES], status), SCORES: found[task.main_output]}

    def from_examples(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        feature = tf.io.FixedLenFeature((), tf.string)
        found: tuple[tf.Tensor, tf.Tensor] = read(tf.io.parse_example(values, {IMAGE_BYTES: feature})[IMAGE_BYTES])
        return found

    def from_pixels(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        values, status = finite(values)
        return tf.map_fn(preprocessing.prepare, values, fn_output_signature=tf.TensorSpec(prepared.shape[1:])), status

    def signature(spec: tf.TensorSpec, read: Any, give: Any) -> Any:
        return _function(lambda values: give(*read(values)), spec)

    takes_bytes = preprocessing.channels in ENCODED
    usual, read = images, from_pixels
    if takes_bytes:
        usual, read = encoded, _function(lambda contents: guarded(preprocessing, contents), encoded)
    found = {
        DEFAULT: signature(usual, read, answer),
        "serve_images": signature(images, from_pixels, answer),
        "serve_pixels": signature(pixels, from_pixels, answer),
        SERVE_PREPARED: signature(prepared, finite, answer),
    }
    if has_features(model):
        found[FEATURES] = signature(usual, read, features)
    if takes_bytes:
        one = tf.TensorSpec(prepared.shape[1:])
        found[PREPARE] = _function(
            lambda contents: {PREPARED: tf.map_fn(preprocessing, contents, fn_output_signature=one)}, encoded
        )
    if takes_bytes and task.probabilities:
        found[CLASSIFY] = signature(examples, from_examples, classes)
    return found


def _function(function: Callable[[tf.Tensor], Any], spec: tf.TensorSpec) -> Callable[..., Any]:
    return tf.function(function, input_signature=[spec], autograph=False)  # type: ignore[no-any-return]
