"""The random parts of mixup and CutMix."""

import math

import tensorflow as tf


def draw_beta(alpha: tf.Tensor, u: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
    """(B,) float64: Beta(alpha, alpha) from two uniform numbers, by Bailey's t distribution (Devroye 1996, "Random
    variate generation in one line of code"): 1/2 + 1/2 cos / sqrt(1 / (u^(-1/alpha) - 1) + cos^2), cos of 2 pi v.

    There is no rejection, so each example needs one draw. The result is rounded to multiples of 1/65536, because the
    last bit of a power or a cosine can depend on the position in a vector.
    """
    power = tf.pow(1.0 - u, 1.0 / alpha)
    cosine = tf.cos(v * (2 * math.pi))
    far = (1.0 - power) * cosine**2
    value = 0.5 + 0.5 * tf.sign(cosine) * tf.sqrt(far / (power + far))
    return tf.round(value * 65536) / 65536


def draw_box(
    taken: tf.Tensor, below: tf.Tensor, right: tf.Tensor, height: int, width: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """((B, H, W) bool, (B,) int32): a rectangle with the share `taken`, and its number of pixels inside the image.

    Its center is anywhere in the image, as in the authors' code.
    """
    rows, columns = (tf.cast(tf.sqrt(taken) * side, tf.int32) // 2 for side in (height, width))
    y = tf.cast(below * height, tf.int32)
    x = tf.cast(right * width, tf.int32)
    top, bottom = tf.maximum(y - rows, 0), tf.minimum(y + rows, height)
    left, end = tf.maximum(x - columns, 0), tf.minimum(x + columns, width)
    down = tf.range(height)
    across = tf.range(width)
    in_rows = (down >= top[:, None]) & (down < bottom[:, None])
    in_columns = (across >= left[:, None]) & (across < end[:, None])
    return in_rows[:, :, None] & in_columns[:, None], (bottom - top) * (end - left)
