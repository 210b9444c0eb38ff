"""Augmentation of fitted pixels, in training only: an export cannot hold it, because no network or graph contains it.

Stateless: what happens to a picture is a function of a seed, so it is the same whatever thread does it.
"""

import math
from dataclasses import dataclass

import tensorflow as tf


@dataclass(frozen=True)
class Augmentation:
    """What happens to a picture, each part uniformly at random; edges are reflected.

    `shift`: share of the side, in [0, 1), both ways; `rotate`: degrees, both ways; `zoom`: share by which the picture
    grows or shrinks, in [0, 1); `flip`: left-right, half of the time.
    """

    shift: float = 0.0
    rotate: float = 0.0
    zoom: float = 0.0
    flip: bool = False

    def __bool__(self) -> bool:
        return bool(self.shift or self.rotate or self.zoom or self.flip)

    def __call__(self, pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """(H, W, C) uint8 and a seed (2,) -> (H, W, C) uint8. Pixels move; none is blended with another."""
        draws = tf.random.stateless_uniform((5,), seed, -1.0, 1.0)
        if self.flip:
            pixels = tf.cond(draws[4] < 0, lambda: pixels[:, ::-1], lambda: pixels)
        if self.rotate or self.zoom:
            return self._affine(pixels, draws)
        return self._shift(pixels, draws) if self.shift else pixels

    def _shift(self, pixels: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        height, width, channels = pixels.shape
        rows, columns = (min(round(self.shift * side), side - 1) for side in (height, width))
        padded = tf.pad(pixels, [[rows, rows], [columns, columns], [0, 0]], mode="REFLECT")
        # each whole shift from -n to n as often as another: (-1, 1) -> [0, 2n]
        start = tf.cast(tf.floor((draws[2:4] + 1) / 2 * (2 * rows + 1, 2 * columns + 1)), tf.int32)
        start = tf.minimum(start, (2 * rows, 2 * columns))
        return tf.slice(padded, tf.concat([start, [0]], axis=0), (height, width, channels))

    def _affine(self, pixels: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        height, width = pixels.shape[:2]
        angle = draws[0] * (self.rotate * math.pi / 180)
        size = 1.0 + draws[1] * self.zoom
        cosine, sine = tf.cos(angle) / size, tf.sin(angle) / size
        # output pixel p comes from input pixel M (p - centre) + centre + shift
        x, y = (width - 1) / 2, (height - 1) / 2
        right, below = draws[2] * self.shift * width, draws[3] * self.shift * height
        transform = tf.stack(
            [
                cosine,
                -sine,
                x - cosine * x + sine * y + right,
                sine,
                cosine,
                y - sine * x - cosine * y + below,
                0.0,
                0.0,
            ]
        )
        moved = tf.raw_ops.ImageProjectiveTransformV3(
            images=pixels[None],
            transforms=transform[None],
            output_shape=(height, width),
            fill_value=0.0,
            interpolation="NEAREST",  # bilinear would blur what validation pictures show sharp
            fill_mode="REFLECT",
        )[0]
        return tf.ensure_shape(moved, pixels.shape)
