"""Augmentation of fitted pixels, in training only: an export cannot hold it, because no network or graph contains it.

Stateless: what happens to a picture is a function of a seed, so it is the same whatever thread does it.
"""

from dataclasses import dataclass

import tensorflow as tf


@dataclass(frozen=True)
class Augmentation:
    """One random affine map a picture, uniform in each part; edges are reflected.

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
        """(H, W, C) uint8 and a seed (2,) -> (H, W, C) uint8."""
        height, width = pixels.shape[0], pixels.shape[1]
        draws = tf.random.stateless_uniform((5,), seed, -1.0, 1.0)
        angle = draws[0] * (self.rotate * 3.141592653589793 / 180)
        size = 1.0 + draws[1] * self.zoom
        cosine, sine = tf.cos(angle) / size, tf.sin(angle) / size
        mirror = tf.where(draws[4] < 0, -1.0, 1.0) if self.flip else 1.0
        # output pixel p comes from input pixel M (p - centre) + centre + shift
        x, y = (width - 1) / 2, (height - 1) / 2
        a, b, c, d = cosine * mirror, -sine, sine * mirror, cosine
        right, below = draws[2] * self.shift * width, draws[3] * self.shift * height
        if not (self.rotate or self.zoom):  # whole pixels, so that nothing is blurred
            right, below = tf.round(right), tf.round(below)
        transform = tf.stack([a, b, x - a * x - b * y + right, c, d, y - c * x - d * y + below, 0.0, 0.0])
        moved = tf.raw_ops.ImageProjectiveTransformV3(
            images=tf.cast(pixels, tf.float32)[None],
            transforms=transform[None],
            output_shape=(height, width),
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="REFLECT",
        )[0]
        return tf.cast(tf.round(moved), tf.uint8)
