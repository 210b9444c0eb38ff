"""Decode a batch of images in a graph such that one that cannot be decoded says so in its own row."""

from typing import TYPE_CHECKING

import tensorflow as tf

from kerazoo.exports.layout import DAMAGED, NOT_FINITE, OK, REFUSED
from kerazoo.pipelines.input.images import graph_code
from kerazoo.preprocessing.headers import after, announced

if TYPE_CHECKING:
    from kerazoo.preprocessing.preprocessing import Preprocessing


def guarded(preprocessing: "Preprocessing", contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(B,) strings -> (B, H, W, C) float32 images, prepared, and (B,) strings, their status.

    The image of a row is black unless its status is OK. TensorFlow has no other way to catch an error in a graph than
    a dataset that leaves out its failures: the first of three that has an element is taken.
    """
    black = tf.zeros(preprocessing.shape)

    def one(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        given = tf.data.Dataset.from_tensors(encoded)
        whole = given.map(graph_code(lambda encoded: (preprocessing(encoded), OK)))
        allowed = given.map(graph_code(lambda encoded: (after(black, announced(encoded)), DAMAGED)))
        rest = tf.data.Dataset.from_tensors((black, REFUSED))
        found: tuple[tf.Tensor, tf.Tensor] = (
            whole.ignore_errors().concatenate(allowed.ignore_errors()).concatenate(rest).take(1).get_single_element()
        )
        return found

    spec = (tf.TensorSpec(preprocessing.shape, tf.float32), tf.TensorSpec((), tf.string))
    images, status = tf.map_fn(one, contents, fn_output_signature=spec)
    return images, status


def finite(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(B, H, W, C) numbers -> the same, and (B,) strings, their status; an image that is not finite becomes black."""
    if images.dtype.is_integer:
        return images, tf.fill(tf.shape(images)[:1], OK)
    shape = tf.shape(images)
    # rows of numbers are several times as fast as images here, and few batches need another copy
    rows = tf.reshape(images, (shape[0], tf.reduce_prod(shape[1:])))
    is_finite = tf.reduce_all(tf.math.is_finite(rows), axis=1)

    def cleared() -> tf.Tensor:
        return tf.where(is_finite[:, None, None, None], images, tf.zeros_like(images))

    images = tf.cond(tf.reduce_all(is_finite), lambda: images, cleared)
    return images, tf.where(is_finite, OK, NOT_FINITE)


def only_ok(values: tf.Tensor, status: tf.Tensor) -> tf.Tensor:
    """(B, ...) numbers or strings -> the same, with NaN or "" in the rows whose status is not OK."""
    shape = tf.concat([tf.shape(status), tf.ones(tf.rank(values) - 1, tf.int32)], axis=0)
    nothing = "" if values.dtype == tf.string else tf.constant(float("nan"), values.dtype)
    return tf.where(tf.reshape(status == OK, shape), values, nothing)
