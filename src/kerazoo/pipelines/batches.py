"""Batches: order(seed, epoch) -> position -> example -> pixels -> augmentation(seed, epoch, position) -> batch.

The order and the augmentation are functions of whole numbers, never of thread timing: the same run gives the same
batches whatever the parallelism, and any epoch can be reached without going through the ones before it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import tensorflow as tf

from kerazoo.models.preprocessing import Preprocessing
from kerazoo.pipelines.augmentation import Augmentation
from kerazoo.pipelines.examples import Examples

SHUFFLED_AT_ONCE = 256  # positions; one call for many is cheap, and changes nothing in the order


@dataclass(frozen=True)
class TrainingBatches:
    """A dataset of one epoch, (B, h, w, C) float32 and (B,) int64, whose order follows the variable `epoch`.

    Each example comes once an epoch; the last batch is dropped where it is partial and not the only one.
    """

    dataset: tf.data.Dataset
    epoch: tf.Variable
    steps: int

    def clock(self) -> keras.callbacks.Callback:
        """The callback that sets `epoch` as `fit` goes on."""
        return keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: self.epoch.assign(epoch))


def training_batches(
    examples: Examples, preprocessing: Preprocessing, *, batch_size: int, seed: int, augmentation: Augmentation
) -> TrainingBatches:
    """Shuffled, augmented batches for `fit`."""
    count = len(examples)
    epoch = tf.Variable(0, dtype=tf.int64, trainable=False, name="epoch")
    pixels_at, labels = _pixels(examples, preprocessing), tf.constant(examples.labels)

    def order() -> tf.Tensor:
        return tf.stack([tf.constant(seed, tf.int64), epoch.read_value()])

    def shuffle(positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        last = tf.constant(count - 1, tf.int64)
        return positions, tf.random.experimental.index_shuffle(positions, order(), last)

    def example(position: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = pixels_at(index)
        if augmentation:
            pixels = augmentation(pixels, tf.random.experimental.stateless_fold_in(order(), position))
        return pixels, labels[index]

    partial = count < batch_size
    positions = tf.data.Dataset.range(count).batch(SHUFFLED_AT_ONCE).map(shuffle).unbatch()
    dataset = positions.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(batch_size, drop_remainder=not partial).map(_scaled(preprocessing))
    dataset = dataset.prefetch(tf.data.AUTOTUNE)
    steps = 1 if partial else count // batch_size
    return TrainingBatches(dataset.apply(tf.data.experimental.assert_cardinality(steps)), epoch, steps)


def evaluation_batches(examples: Examples, preprocessing: Preprocessing, *, batch_size: int = 64) -> tf.data.Dataset:
    """(B, h, w, C) float32 and (B,) int64 in the order of the table, every example once, the last batch partial."""
    pixels_at, labels = _pixels(examples, preprocessing), tf.constant(examples.labels)

    def example(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return pixels_at(index), labels[index]

    dataset = tf.data.Dataset.range(len(examples))
    dataset = dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(batch_size).map(_scaled(preprocessing)).prefetch(tf.data.AUTOTUNE)
    return dataset.apply(tf.data.experimental.assert_cardinality(-(-len(examples) // batch_size)))


def _scaled(preprocessing: Preprocessing) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Scaling, which is per pixel, done for a whole batch at once."""
    return lambda pixels, labels: (preprocessing.scale(pixels), labels)


def _pixels(examples: Examples, preprocessing: Preprocessing) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function of a scalar index -> (h, w, C) uint8 fitted pixels."""
    if examples.paths is not None:
        paths = tf.constant(examples.paths)
        return lambda index: preprocessing.fit_pixels(preprocessing.decode(tf.io.read_file(paths[index])))
    pixels = tf.constant(examples.pixels)
    return lambda index: preprocessing.fit_pixels(pixels[index])
