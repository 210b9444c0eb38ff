"""Augmentation of resized pixels, for training only. No network or graph contains it, so no export can.

It is stateless: the result depends only on the image and a seed, not on the thread. Each operation has random numbers
of its own, so switching one on or off does not change the others.

Shape letters: B batch, H W space, C channels, K classes.
"""

import math

import numpy as np
import tensorflow as tf

from kerazoo.pipelines.input.mixing import draw_beta, draw_box
from kerazoo.pipelines.input.randaugment import luma, mean, moved, randaugment
from kerazoo.preprocessing.resizing import to_uint8
from kerazoo.recipes.augmentation import AugmentationPart

# The number that each operation folds into the image's seed; shift, rotate, zoom and flip use the seed itself. Results
# for a seed depend on these numbers: give a new operation a new number, and do not change the others.
CROP, FLIP_VERTICAL, RANDAUGMENT, COLOUR, ERASE, NOISE, MIX, TURN = range(1, 9)


class Augmentation(AugmentationPart):
    """The augmentation that a recipe sets, as a function of pixels. By default it does nothing."""

    def __bool__(self) -> bool:
        """Whether a call changes anything; mixing does not count."""
        return bool(self.describe().keys() - {"magnitude", "mixup", "cutmix"})

    def __call__(self, pixels: tf.Tensor, seed: tf.Tensor, turn: tf.Tensor | None = None) -> tf.Tensor:
        """(H, W, C) uint8 and a seed (2,) -> (H, W, C) uint8; H, W and C are known when the graph is built.

        `turn` is that of `turn_of`, for images that are mirrored alternately; the seed decides if there is none.

        Crop comes first, so that it resamples the photograph, not reflected edges or repeated pixels. The operations
        that move pixels come next, then RandAugment, which may move pixels or change colors, then the operations that
        change colors. Erasing comes last, so that its rectangle stays upright and its noise uniform.
        """
        if self.crop:
            pixels = self._cropped(pixels, _fold(seed, CROP))
        pixels = self._moved(pixels, seed, turn)
        if self.randaugment:
            operations = int(self.randaugment)
            pixels = randaugment(pixels, _fold(seed, RANDAUGMENT), operations=operations, magnitude=self.magnitude)
        if self.brightness or self.contrast or self.saturation or self.hue:
            pixels = self._coloured(pixels, _fold(seed, COLOUR))
        return self._erased(pixels, seed) if self.erase else pixels

    def _cropped(self, pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """A random crop, resized: area uniform in [crop, 1], aspect log-uniform in [3/4, 4/3]."""
        height, width, channels = pixels.shape
        area, aspect, below, right = tf.unstack(tf.random.stateless_uniform((4,), seed, (self.crop, -1, 0, 0), 1.0))
        top, left, rows, columns = _rectangle(area, tf.exp(aspect * math.log(4 / 3)), below, right, height, width)
        part = tf.slice(pixels, [top, left, 0], [rows, columns, channels])
        whole = tf.image.resize(tf.cast(part, tf.float32), (height, width), antialias=True)
        return tf.ensure_shape(to_uint8(whole), pixels.shape)

    def turn_of(self, index: tf.Tensor, epoch: tf.Tensor, seed: int) -> tf.Tensor | None:
        """Whether to mirror image `index` in this `epoch`, if images are mirrored alternately; None if at random.

        It is drawn from `seed` and the index for the first epoch, and changes with each epoch.
        """
        if not self.flip_alternately:
            return None
        own = tf.random.experimental.stateless_fold_in(tf.constant([seed, TURN], tf.int64), index)
        mirrored_at_first = tf.random.stateless_uniform((), own) < 0.5
        return tf.equal(mirrored_at_first, epoch % 2 == 0)

    def _moved(self, pixels: tf.Tensor, seed: tf.Tensor, turn: tf.Tensor | None) -> tf.Tensor:
        draws = tf.random.stateless_uniform((5,), seed, -1.0, 1.0)
        if self.flip:
            mirrored = draws[4] < 0 if turn is None else turn
            pixels = tf.cond(mirrored, lambda: tf.reverse(pixels, [1]), lambda: pixels)
        if self.flip_vertical:
            draw = tf.random.stateless_uniform((), _fold(seed, FLIP_VERTICAL))
            upright = pixels
            pixels = tf.cond(draw < 0.5, lambda: tf.reverse(upright, [0]), lambda: upright)
        if self.rotate or self.zoom:
            return self._affine(pixels, draws)
        return self._shifted(pixels, draws) if self.shift else pixels

    def _shifted(self, pixels: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        height, width, channels = pixels.shape
        rows, columns = (min(round(self.shift * side), side - 1) for side in (height, width))
        padded = tf.pad(pixels, [[rows, rows], [columns, columns], [0, 0]], mode="REFLECT")
        # each shift from -n to n is equally likely: (-1, 1) -> [0, 2n]
        start = tf.cast(tf.floor((draws[2:4] + 1) / 2 * (2 * rows + 1, 2 * columns + 1)), tf.int32)
        start = tf.minimum(start, (2 * rows, 2 * columns))
        return tf.slice(padded, tf.concat([start, [0]], axis=0), (height, width, channels))

    def _affine(self, pixels: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        height, width = pixels.shape[:2]
        angle = draws[0] * (self.rotate * math.pi / 180)
        size = 1.0 + draws[1] * self.zoom
        cosine = tf.cos(angle) / size
        sine = tf.sin(angle) / size
        right = draws[2] * self.shift * width
        below = draws[3] * self.shift * height
        return moved(pixels, (cosine, -sine, sine, cosine), right, below)

    def _coloured(self, pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Change brightness, contrast, saturation and hue, in this order; round and clip once at the end.

        The first three are linear: with luma g of a pixel x and mean luma m, they are b (m + c (g - m + s (x - g))).
        """
        spread = np.array([self.brightness, self.contrast, self.saturation, self.hue], np.float32)
        middle = np.array([1, 1, 1, 0], np.float32)
        draws = tf.random.stateless_uniform((4,), seed, middle - spread, middle + spread)
        grey = luma(pixels)
        average = mean(grey)
        x = tf.cast(grey - average, tf.float32)
        if pixels.shape[-1] > 1:  # gray images have no saturation
            saturation = draws[2] if pixels.shape[-1] == 3 else 1.0
            x += saturation * tf.cast(tf.cast(pixels, tf.int32) - grey, tf.float32)
        x = draws[0] * (tf.cast(average, tf.float32) + draws[1] * x)
        if self.hue and pixels.shape[-1] == 3:
            x = tf.raw_ops.AdjustHue(images=x, delta=draws[3])
        return to_uint8(x)

    def _erased(self, pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Replace a rectangle by noise: 2 to 33 % of the area, aspect log-uniform in [0.3, 3.3], as in the paper."""
        height, width, channels = pixels.shape
        low = (0.0, 0.02, math.log(0.3), 0.0, 0.0)
        high = (1.0, 0.33, math.log(3.3), 1.0, 1.0)
        draws = tf.unstack(tf.random.stateless_uniform((5,), _fold(seed, ERASE), low, high))
        top, left, rows, columns = _rectangle(draws[1], tf.exp(draws[2]), draws[3], draws[4], height, width)

        def erased() -> tf.Tensor:
            noise = tf.random.stateless_uniform((rows, columns, channels), _fold(seed, NOISE), 0, 256, tf.int32)
            beside = pixels[top : top + rows]
            band = tf.concat([beside[:, :left], tf.cast(noise, tf.uint8), beside[:, left + columns :]], axis=1)
            return tf.ensure_shape(tf.concat([pixels[:top], band, pixels[top + rows :]], axis=0), pixels.shape)

        return tf.cond(draws[0] < self.erase, erased, lambda: pixels)

    def mix(self, pixels: tf.Tensor, targets: tf.Tensor, seeds: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(B, H, W, C) uint8, (B, K) float32, (B, 2) int64 -> (B, H, W, C) float32 in [0, 255], (B, K) float32.

        Each example is mixed with the next of the batch, and the last with the first; a batch of one is not changed.
        The amount depends on the example's own seed, which may be the seed of its augmentation. mixup: lambda x +
        (1 - lambda) x'; cutmix: a rectangle of x', and the target's share is the share of the pixels. H, W and C must
        be known when the graph is built, B need not be.
        """
        pixels = tf.cast(pixels, tf.float32)
        if not self.mixes:
            return pixels, targets
        height, width = pixels.shape[1:3]
        draws = _mixing_draws(seeds)
        cuts = draws[:, 0] < (0.5 if self.mixup and self.cutmix else float(self.cutmix > 0))
        alpha = tf.where(cuts, tf.constant(self.cutmix, tf.float64), tf.constant(self.mixup, tf.float64))
        taken = 1.0 - draw_beta(alpha, draws[:, 1], draws[:, 2])
        inside, area = draw_box(taken, draws[:, 3], draws[:, 4], height, width)
        # divide in float64: a graph may multiply by 1 / (H W) instead, which gives the same float32
        taken = tf.cast(tf.where(cuts, tf.cast(area, tf.float64) / (height * width), taken), tf.float32)
        weights = tf.where(cuts[:, None, None], tf.cast(inside, tf.float32), taken[:, None, None])[..., None]
        return _towards_next(pixels, weights), _towards_next(targets, taken[:, None])

    def mix_outputs(self, outputs: tf.Tensor, targets: tf.Tensor, seeds: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(B, ...) outputs of a layer, (B, K) float32, (B, 2) int64 -> float32, mixed in the shares of `mix`'s mixup.

        Source: Verma et al. 2019, "Manifold Mixup", arXiv:1806.05236, section 2.
        """
        outputs = tf.cast(outputs, tf.float32)
        draws = _mixing_draws(seeds)
        taken = tf.cast(1.0 - draw_beta(tf.constant(self.mixup, tf.float64), draws[:, 1], draws[:, 2]), tf.float32)
        weights = tf.reshape(taken, [-1] + [1] * (outputs.shape.rank - 1))
        return _towards_next(outputs, weights), _towards_next(targets, taken[:, None])


def _mixing_draws(seeds: tf.Tensor) -> tf.Tensor:
    """(B, 5) float64: uniform numbers for each seed."""
    return tf.map_fn(
        lambda seed: tf.random.stateless_uniform((5,), _fold(seed, MIX), dtype=tf.float64),
        seeds,
        fn_output_signature=tf.TensorSpec((5,), tf.float64),
    )


def _towards_next(rows: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """Each of `rows` mixed with the next, of which it takes `share`."""
    return rows + share * (tf.roll(rows, -1, axis=0) - rows)  # l x + (1 - l) x' would round even if x = x'


def _fold(seed: tf.Tensor, part: int) -> tf.Tensor:
    return tf.random.experimental.stateless_fold_in(seed, tf.constant(part, tf.int64))


def _rectangle(
    area: tf.Tensor, aspect: tf.Tensor, below: tf.Tensor, right: tf.Tensor, height: int, width: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """(top, left, rows, columns) int32 of a rectangle in (height, width), with share `area` and aspect width / height.

    `below` and `right` in [0, 1) set its position. If it does not fit, the aspect changes, never the area.
    """
    aspect = tf.clip_by_value(aspect, area * (width / height), (width / height) / area)
    rows = tf.clip_by_value(tf.cast(tf.round(tf.sqrt(area * (height * width) / aspect)), tf.int32), 1, height)
    columns = tf.clip_by_value(tf.cast(tf.round(tf.sqrt(area * (height * width) * aspect)), tf.int32), 1, width)
    top = tf.cast(tf.floor(below * tf.cast(height - rows + 1, tf.float32)), tf.int32)
    left = tf.cast(tf.floor(right * tf.cast(width - columns + 1, tf.float32)), tf.int32)
    return tf.minimum(top, height - rows), tf.minimum(left, width - columns), rows, columns


def augmentation_of(part: AugmentationPart) -> Augmentation:
    """The augmentation that the settings of a recipe describe."""
    return Augmentation(**part.model_dump())
