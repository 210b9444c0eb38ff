"""The random parts of mixup and CutMix."""

import math

import tensorflow as tf


def draw_beta(alpha: tf.Tensor, u: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
    """(B,) float64: Beta(alpha, alpha) of two uniforms, by Bailey's t distribution (Devroye 1996, "Random variate
    generation in one line of code"): 1/2 + 1/2 cos / sqrt(1 / (u^(-1/alpha) - 1) + cos^2), cos of 2 pi v.

    No rejection, so one draw for one example. Rounded to 65536ths: the last bit of a power or a cosine can depend on
    where in a vector it stands.
    """
    power, cosine = tf.pow(1.0 - u, 1.0 / alpha), tf.cos(v * (2 * math.pi))
    far = (1.0 - power) * cosine**2
    value = 0.5 + 0.5 * tf.sign(cosine) * tf.sqrt(far / (power + far))
    return tf.round(value * 65536) / 65536


def draw_box(
    taken: tf.Tensor, below: tf.Tensor, right: tf.Tensor, height: int, width: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """((B, H, W) bool, (B,) int32): the rectangle of a share `taken`, and its pixels once cut off at the edges.

    Its centre is anywhere in the image, as in the authors' code.
    """
    rows, columns = (tf.cast(tf.sqrt(taken) * side, tf.int32) // 2 for side in (height, width))
    y, x = tf.cast(below * height, tf.int32), tf.cast(right * width, tf.int32)
    top, bottom = tf.maximum(y - rows, 0), tf.minimum(y + rows, height)
    left, end = tf.maximum(x - columns, 0), tf.minimum(x + columns, width)
    down, across = tf.range(height), tf.range(width)
    in_rows = (down >= top[:, None]) & (down < bottom[:, None])
    in_columns = (across >= left[:, None]) & (across < end[:, None])
    return in_rows[:, :, None] & in_columns[:, None], (bottom - top) * (end - left)
