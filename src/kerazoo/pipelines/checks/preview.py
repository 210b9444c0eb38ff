"""Draw training images with and without augmentation."""

import io
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from kerazoo.errors import RecipeError
from kerazoo.files import write_whole
from kerazoo.pipelines.checks.check import CheckReport
from kerazoo.pipelines.data.load import read_examples
from kerazoo.pipelines.input.augmentation import Augmentation
from kerazoo.pipelines.input.images import decoded_from
from kerazoo.preprocessing.preprocessing import Preprocessing
from kerazoo.preprocessing.resizing import to_uint8
from kerazoo.recipes.parts import DataPart

DRAWN = 6  # images
SIDE = 160  # px of a drawn image


def draw_grid(path: Path, images: np.ndarray, augmentation: Augmentation, *, seed: int = 0, columns: int = 8) -> None:
    """Write a PNG grid: a row for each of (N, H, W, C) uint8 resized images, a column for each epoch of training.

    The first column is the original image. If `augmentation` mixes images, the last (columns - 1) // 2 columns show it
    mixed with the next row's. The random numbers are those of a run with this `seed` and image i at position i.
    """
    if columns < 2:
        raise RecipeError(f"columns must be at least 2, got {columns}")
    count, height, width, channels = images.shape
    grid = np.empty((count, height, columns, width, channels), np.uint8)
    grid[:, :, 0] = images
    mixed = (columns - 1) // 2 if augmentation.mixes else 0
    with tf.device("CPU:0"):  # where the input pipeline runs
        for epoch in range(columns - 1):
            order = tf.constant([seed, epoch], tf.int64)
            seeds = tf.stack(
                [tf.random.experimental.stateless_fold_in(order, tf.constant(i, tf.int64)) for i in range(count)]
            )
            drawn = tf.stack([augmentation(tf.constant(p), s) for p, s in zip(images, seeds, strict=True)])
            if epoch >= columns - 1 - mixed:
                drawn = to_uint8(augmentation.mix(drawn, tf.zeros((count, 1)), seeds)[0])
            grid[:, :, epoch + 1] = drawn.numpy()
    pixels = grid.reshape(count * height, columns * width, channels)
    png = io.BytesIO()
    # with more than three channels, the first three are drawn as RGB
    Image.fromarray(pixels[..., 0] if channels < 3 else pixels[..., :3]).save(png, format="PNG")
    write_whole(path, png.getvalue())


def show_augmented_images(
    data: DataPart, augmentation: Augmentation, report: CheckReport, path: Path, *, seed: int = 0
) -> None:
    """Draw some usable training images of `data`, with and without `augmentation`."""
    examples = read_examples(data).split("train")
    examples = examples.take(i for i, key in enumerate(examples.keys) if key not in report.excluded)
    step = max(1, len(examples) // DRAWN)
    chosen = examples.take(range(0, len(examples), step)[:DRAWN])
    side = data.size or SIDE
    channels = 3 if chosen.pixels is None else chosen.pixels.shape[-1]
    decode = decoded_from(chosen, Preprocessing(side, side, channels=channels))
    import tensorflow as tf

    images = np.stack([decode(tf.constant(index)).numpy() for index in range(len(chosen))])
    draw_grid(path, images, augmentation, seed=seed)
