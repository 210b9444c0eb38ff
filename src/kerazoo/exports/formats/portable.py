"""The network from pixels to answers, in operations that every format has: no strings, no branches, no image kernels.

Resizing is a product with two matrices, whose entries come from the size of the image. It equals `resizing.py` but
for the rounding of single pixels (one in some ten thousand, by one of 255).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from kerazoo.exports.formats.reference import shares
from kerazoo.preprocessing.preprocessing import Preprocessing
from kerazoo.tasks.task import find_task

if TYPE_CHECKING:
    import keras

    from kerazoo.models.description import ModelSpec

Takes = tuple[str, tuple[int | None, ...], tf.DType]  # name, shape and type of an input


def inputs_of(preprocessing: Preprocessing) -> dict[str, Takes]:
    """What a model of a format can take: {kind: input}. B is any number of images.

    - "pixels": (B, H, W, C) uint8, of any size; "images": the same in float32, from 0 to 255;
    - "fitted": (B, height, width, C) uint8 `pixels`, already resized; "prepared": resized and scaled, float32.
    """
    height, width, channels = preprocessing.shape
    return {
        "pixels": ("pixels", (None, None, None, channels), tf.uint8),
        "images": ("images", (None, None, None, channels), tf.float32),
        "fitted": ("pixels", (None, height, width, channels), tf.uint8),
        "prepared": ("prepared", (None, height, width, channels), tf.float32),
    }


def portable(spec: "ModelSpec", model: "keras.Model", kind: str, *, quantized: bool = False) -> tuple[Any, Any]:
    """(a function of TensorFlow with one input and one output, the answers by the name of the task's; its input).

    With `quantized`, pixels are float32, whose type a converter changes.
    """
    name, shape, dtype = inputs_of(spec.preprocessing)[kind]
    output = find_task(spec.task).main_output
    prepare: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
        "pixels": lambda x: spec.preprocessing.scale(fitted(x, spec.preprocessing)),
        "images": lambda x: spec.preprocessing.scale(fitted(x, spec.preprocessing)),
        "fitted": spec.preprocessing.scale,
        "prepared": lambda x: x,
    }
    given = tf.TensorSpec(shape, tf.float32 if quantized else dtype, name)

    def answer(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {output: spec.answers(model(prepare[kind](x), training=False))}

    return tf.function(answer, input_signature=[given], autograph=False), given


def settings_of(preprocessing: Preprocessing) -> dict[str, Any]:
    """The preprocessing in numbers, as `reference.py` reads it."""
    factor, offset = preprocessing.affine
    return {
        **preprocessing.to_json(),
        "reversed": preprocessing.reverses,
        "factor": np.asarray(factor).tolist(),
        "offset": np.asarray(offset).tolist(),
    }


def fitted(pixels: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """(B, H, W, C) pixels of one size -> (B, height, width, C) float32, whole numbers from 0 to 255."""
    x = tf.clip_by_value(tf.round(tf.cast(pixels, tf.float32)), 0.0, 255.0)
    height, width, channels = preprocessing.shape
    if preprocessing.resize == "crop":
        x = _largest_part(x, height, width)
    count, rows, columns = tf.unstack(tf.shape(x)[:3])
    by_row = _matrix(rows, columns, height, width, preprocessing)
    by_column = _matrix(columns, rows, width, height, preprocessing)
    x = tf.matmul(by_row, tf.reshape(x, (count, rows, columns * channels)))
    x = tf.transpose(tf.reshape(x, (count, height, columns, channels)), (0, 1, 3, 2))
    x = tf.transpose(tf.matmul(x, by_column, transpose_b=True), (0, 1, 3, 2))
    return tf.ensure_shape(tf.clip_by_value(tf.round(x), 0.0, 255.0), (None, height, width, channels))


def _largest_part(x: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """As in `resizing.py`, for a batch."""
    rows, columns = tf.unstack(tf.shape(x)[1:3])
    part_rows = tf.minimum(tf.maximum(columns * height // width, 1), rows)
    part_columns = tf.minimum(tf.maximum(rows * width // height, 1), columns)
    top, left = (rows - part_rows) // 2, (columns - part_columns) // 2
    return x[:, top : top + part_rows, left : left + part_columns]


def _matrix(length: tf.Tensor, other: tf.Tensor, size: int, other_size: int, preprocessing: Preprocessing) -> tf.Tensor:
    """(size, length) float32: the matrix that resizes one side; with padding, its first and last rows are zero."""
    old, other_old = tf.cast(length, tf.float32), tf.cast(other, tf.float32)
    inner, before = tf.constant(float(size)), tf.constant(0.0)
    if preprocessing.resize == "pad":
        inside = old / tf.maximum(old / size, other_old / other_size)
        inner = tf.maximum(tf.floor(inside), 1.0)
        before = tf.maximum(tf.floor((size - inside) / 2), 0.0)
    new = (tf.range(size, dtype=tf.float32) - before)[:, None]
    weights = shares(new, tf.range(0.0, old, 1.0)[None], old / inner, preprocessing.interpolation, tf)
    weights = tf.where((new >= 0.0) & (new < inner), weights, 0.0 * weights)
    return weights / tf.maximum(tf.reduce_sum(weights, axis=1, keepdims=True), 1e-6)
