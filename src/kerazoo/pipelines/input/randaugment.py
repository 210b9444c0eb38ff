"""RandAugment: a few operations drawn from fourteen (Cubuk et al. 2019, arXiv:1909.13719, section 3).

Every operation is (H, W, C) uint8 and a strength in [-1, 1] -> (H, W, C) uint8. Its range is that of torchvision
and timm, linear in the strength. The sign matters only for operations with two directions. Sums are integer sums, so
their bits do not depend on the order in which threads add.

Shape letters: H W space, C channels.
"""

import math
from collections.abc import Callable

import tensorflow as tf

from kerazoo.preprocessing import decoding
from kerazoo.preprocessing.resizing import to_uint8

Operation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def randaugment(pixels: tf.Tensor, seed: tf.Tensor, *, operations: int, magnitude: float) -> tf.Tensor:
    """(H, W, C) uint8 and a seed (2,) -> (H, W, C) uint8: apply `operations` of the fourteen, chosen at random.

    `magnitude` is in [0, 10], the scale of the paper; the sign is random. The same operation can be chosen twice.
    """
    draws = tf.random.stateless_uniform((operations, 2), seed)
    for which, sign in zip(tf.unstack(draws[:, 0]), tf.unstack(draws[:, 1]), strict=True):
        strength = tf.where(sign < 0.5, -magnitude / 10, magnitude / 10)
        chosen = tf.cast(which * len(OPERATIONS), tf.int32)
        # with a switch, only one branch runs
        pixels = tf.switch_case(chosen, [_branch(f, pixels, strength) for f in OPERATIONS.values()])
    return pixels


def _branch(operation: Operation, pixels: tf.Tensor, strength: tf.Tensor) -> Callable[[], tf.Tensor]:
    return lambda: operation(pixels, strength)


def moved(
    pixels: tf.Tensor, matrix: tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor], right: tf.Tensor, below: tf.Tensor
) -> tf.Tensor:
    """(H, W, C) uint8 whose pixel p = (column, row) is pixel M (p - center) + center + (right, below) of `pixels`.

    `matrix` is M, row by row. It uses the nearest neighbor and reflects edges.
    """
    height, width = pixels.shape[:2]
    x, y = (width - 1) / 2, (height - 1) / 2
    a, b, c, d = matrix
    transform = tf.stack([a, b, x - a * x - b * y + right, c, d, y - c * x - d * y + below, 0.0, 0.0])
    out = tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels[None],
        transforms=transform[None],
        output_shape=(height, width),
        fill_value=0.0,
        interpolation="NEAREST",  # bilinear would blur, and validation images are sharp
        fill_mode="REFLECT",
    )[0]
    return tf.ensure_shape(out, pixels.shape)


def luma(pixels: tf.Tensor) -> tf.Tensor:
    """(H, W, C) uint8 -> (H, W, 1) int32 in [0, 255]: the same as Pillow's mode "L", to the last bit.

    For numbers of channels other than 1 and 3, which are not colors, it is the mean.
    """
    channels = pixels.shape[-1]
    if channels not in (1, 3):
        return (2 * tf.reduce_sum(tf.cast(pixels, tf.int32), axis=-1, keepdims=True) + channels) // (2 * channels)
    return tf.cast(pixels if channels == 1 else decoding.luma(pixels), tf.int32)


def mean(grey: tf.Tensor) -> tf.Tensor:
    """(H, W, 1) int32 -> () int32: the mean, rounded, as in Pillow's `ImageEnhance.Contrast`."""
    height, width = grey.shape[:2]
    total = tf.reduce_sum(tf.cast(grey, tf.int64))
    return tf.cast((2 * total + height * width) // (2 * height * width), tf.int32)


def _enhanced(pixels: tf.Tensor, away_from: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """x + 0.9 s (x - d) for the degenerate image d (int32), as Pillow's `ImageEnhance` with the factor 1 + 0.9 s."""
    difference = tf.cast(tf.cast(pixels, tf.int32) - away_from, tf.float32)
    return to_uint8(tf.cast(pixels, tf.float32) + (strength * 0.9) * difference)


def _sharpness(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    if min(pixels.shape[:2]) < 3:
        return pixels  # all pixels are edge pixels, which do not change
    x = tf.cast(pixels, tf.float32)
    rows = x[:-2] + x[1:-1] + x[2:]
    inner = x[1:-1, 1:-1]
    # Pillow's ImageFilter.SMOOTH; a multiple of 1/13 is never so near to 1/2 that rounding could differ
    smooth = tf.round((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * inner) * (1 / 13))
    return to_uint8(x + (strength * 0.9) * tf.pad(inner - smooth, [[1, 1], [1, 1], [0, 0]]))


def _autocontrast(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Stretch each channel to [0, 255]; a channel with a single value does not change."""
    x = tf.cast(pixels, tf.int32)
    low, high = tf.reduce_min(x, axis=(0, 1)), tf.reduce_max(x, axis=(0, 1))
    levels, low, high = tf.range(256), low[:, None], high[:, None]
    table = (levels - low) * 255 // tf.maximum(high - low, 1)  # (C, 256)
    return _looked_up(tf.where(high > low, table, levels), x)


def _equalize(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Equalize the histogram of each channel, with the integer steps of Pillow's `ImageOps`."""
    channels = pixels.shape[-1]
    x = tf.cast(pixels, tf.int32)
    apart = tf.reshape(x + 256 * tf.range(channels), [-1])
    histogram = tf.raw_ops.DenseBincount(input=apart, size=256 * channels, weights=tf.zeros([0], tf.int32))
    histogram = tf.reshape(histogram, (channels, 256))
    highest = tf.reduce_max(tf.where(histogram > 0, tf.range(256), 0), axis=1)
    step = (tf.reduce_sum(histogram, axis=1) - tf.gather(histogram, highest, batch_dims=1)) // 255
    step = step[:, None]  # (C, 1)
    table = (step // 2 + tf.cumsum(histogram, axis=1, exclusive=True)) // tf.maximum(step, 1)
    return _looked_up(tf.where(step > 0, tf.minimum(table, 255), tf.range(256)), x)


def _looked_up(table: tf.Tensor, pixels: tf.Tensor) -> tf.Tensor:
    """(C, 256) and (H, W, C) int32 -> (H, W, C) uint8: look up each channel in its row."""
    table = tf.cast(tf.reshape(table, [-1]), tf.uint8)
    return tf.gather(table, pixels + 256 * tf.range(pixels.shape[-1]))


def _posterize(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Keep 8 to 4 bits of each channel."""
    dropped = tf.cast(tf.round(tf.abs(strength) * 4), tf.int32)
    return tf.bitwise.bitwise_and(pixels, tf.cast(256 - tf.bitwise.left_shift(1, dropped), tf.uint8))


def _solarize(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Invert the pixels from a threshold on, which falls from 255 to 0."""
    threshold = 255 - tf.cast(tf.round(tf.abs(strength) * 255), tf.uint8)
    return tf.bitwise.bitwise_xor(pixels, tf.cast(pixels >= threshold, tf.uint8) * 255)


def _rotate(pixels: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Rotate by up to 30 degrees."""
    cosine, sine = tf.cos(strength * (math.pi / 6)), tf.sin(strength * (math.pi / 6))
    return moved(pixels, (cosine, -sine, sine, cosine), tf.constant(0.0), tf.constant(0.0))


def _sheared(pixels: tf.Tensor, x: float | tf.Tensor, y: float | tf.Tensor) -> tf.Tensor:
    return moved(pixels, (tf.constant(1.0), x, y, tf.constant(1.0)), tf.constant(0.0), tf.constant(0.0))


def _translated(pixels: tf.Tensor, right: float | tf.Tensor, below: float | tf.Tensor) -> tf.Tensor:
    """Translate by whole pixels."""
    one, zero = tf.constant(1.0), tf.constant(0.0)
    return moved(pixels, (one, zero, zero, one), tf.round(right), tf.round(below))


FURTHEST = 150 / 331  # share of the side: the paper has 150 px on 331 px images

OPERATIONS: dict[str, Operation] = {
    "identity": lambda pixels, strength: tf.identity(pixels),
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "rotate": _rotate,
    "solarize": _solarize,
    "color": lambda pixels, strength: _enhanced(pixels, luma(pixels), strength),
    "posterize": _posterize,
    "contrast": lambda pixels, strength: _enhanced(pixels, mean(luma(pixels)), strength),
    "brightness": lambda pixels, strength: _enhanced(pixels, tf.constant(0), strength),
    "sharpness": _sharpness,
    "shear_x": lambda pixels, strength: _sheared(pixels, strength * 0.3, 0.0),
    "shear_y": lambda pixels, strength: _sheared(pixels, 0.0, strength * 0.3),
    "translate_x": lambda pixels, strength: _translated(pixels, strength * (FURTHEST * pixels.shape[1]), 0.0),
    "translate_y": lambda pixels, strength: _translated(pixels, 0.0, strength * (FURTHEST * pixels.shape[0])),
}
"""The operations by name, in the paper's order. Do not change the order: the results for a seed depend on it."""
