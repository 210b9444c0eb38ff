"""Batches: order(seed, epoch) -> position -> example -> pixels -> augmentation(seed, epoch, position) -> batch.

The order and the augmentation depend only on integers, never on the timing of threads. A run therefore gives the same
batches with any parallelism, with or without a cache, and any step of any epoch can be read without the steps before.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from kerazoo.pipelines.data.examples import Examples
from kerazoo.pipelines.input.augmentation import Augmentation
from kerazoo.pipelines.input.images import BATCHES, DECODERS, decoded_from, graph_code, rows_from, untuned
from kerazoo.preprocessing.preprocessing import Preprocessing
from kerazoo.tasks.task import find_task


@dataclass(frozen=True)
class TrainingBatches:
    """Batches of one epoch, (B, h, w, C) float32 with their labels; the variable `epoch` sets their order.

    Labels are (B,) int64 class numbers, or (B, K) float32: one-hot and mixed if the augmentation mixes. If classes are
    weighted, a third part, (B,) float32, has the weights of the examples. `start` is the first step of the epoch, for
    `fit`, which must then read `steps - start` batches; more would break the asserted cardinality. Use `at` for other
    readers. `order` gives the rows of the table (n,) in the order of an epoch, without those that are left out. Each
    example occurs once per epoch, unless sampling is balanced. The other fields describe the data.
    """

    dataset: tf.data.Dataset
    epoch: tf.Variable
    start: tf.Variable
    steps: int
    class_names: tuple[str, ...]
    counts: Mapping[str, int]
    manifest: str | None
    at: Callable[[int, int], tf.data.Dataset]  # (epoch, step) -> the batches of that epoch from that step on
    order: Callable[[int], np.ndarray]

    def clock(self) -> keras.callbacks.Callback:
        """The callback that sets `epoch` at the start of each epoch of `fit`."""
        return keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: self.epoch.assign(epoch))


def training_batches(
    examples: Examples,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    seed: int,
    augmentation: Augmentation,
    balance: str = "none",
    drop_last: bool = True,
    stored: np.ndarray | None = None,
    views: Sequence[np.ndarray] = (),
) -> TrainingBatches:
    """Shuffled, augmented batches for `fit`; `stored` has the resized images, if they are cached.

    `views`, if there are any, are given in place of images, in float32: epoch e gives the rows of view e mod V. Of
    augmentation they get only mixup, after they were read.

    `balance` is "none"; "sampling": every class is drawn equally often, its examples in turn; or "weights": each
    example has the weight N / (K n), where n of N examples are in its class and there are K classes. `drop_last` skips
    the last batch if it is not full, unless it is the only one. Raises RecipeError if the task cannot be balanced.
    """
    count = len(examples)
    drop = drop_last and count >= batch_size
    steps = count // batch_size if drop else math.ceil(count / batch_size)
    task = find_task(examples.task)
    task.check_balance(balance)
    index_of = _balanced(examples, seed) if balance == "sampling" else _shuffled(count, seed)
    labels = tf.constant(examples.labels)
    weights = tf.constant(class_weights(examples)) if balance == "weights" else None
    classes = len(examples.class_names)

    @graph_code
    def finish(pixels: tf.Tensor, index: tf.Tensor, seeds: tf.Tensor) -> tuple[tf.Tensor, ...]:
        targets = tf.gather(labels, index)
        if augmentation.mixes:
            mix = augmentation.mix_outputs if views else augmentation.mix
            pixels, targets = mix(pixels, task.shares(targets, classes), seeds)
        batch = (tf.cast(pixels, tf.float32) if views else preprocessing.scale(pixels), targets)
        return batch if weights is None else (*batch, tf.gather(weights, tf.gather(labels, index)))

    def dataset(epoch: Callable[[], tf.Tensor], start: Callable[[], tf.Tensor]) -> tf.data.Dataset:
        @graph_code
        def positions(_: tf.Tensor) -> tf.data.Dataset:
            return tf.data.Dataset.range(start() * batch_size, count).batch(batch_size, drop_remainder=drop)

        @graph_code
        def draw(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return index_of(position, epoch()), position

        def seed_of(position: tf.Tensor) -> tf.Tensor:
            order = tf.stack([tf.constant(seed, tf.int64), epoch()])
            return tf.random.experimental.stateless_fold_in(order, position)

        rows = tf.data.Dataset.range(1).flat_map(positions).map(draw)

        def turn_of(index: tf.Tensor) -> tf.Tensor | None:
            return augmentation.turn_of(index, epoch(), seed)

        if views:
            read = rows_from(*views)

            @graph_code
            def outputs(index: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
                own = tf.fill(tf.shape(position), seed * 1_000_003 + epoch())
                return read(index, epoch()), index, tf.stack([own, position], axis=1)

            images = rows.map(outputs, BATCHES)
        else:
            images = _images(rows, examples, preprocessing, stored, batch_size, drop, augmentation, seed_of, turn_of)
        return untuned(images.map(finish, num_parallel_calls=BATCHES, deterministic=True).prefetch(2))

    def at(epoch: int, step: int) -> tf.data.Dataset:
        tail = dataset(lambda: tf.constant(epoch, tf.int64), lambda: tf.constant(step, tf.int64))
        return tail.apply(tf.data.experimental.assert_cardinality(steps - step))

    def order(epoch: int) -> np.ndarray:
        positions = tf.range(steps * batch_size if drop else count, dtype=tf.int64)
        rows: np.ndarray = index_of(positions, tf.constant(epoch, tf.int64)).numpy()
        return rows

    epoch = tf.Variable(0, dtype=tf.int64, trainable=False, name="epoch")
    start = tf.Variable(0, dtype=tf.int64, trainable=False, name="start")
    whole = dataset(epoch.read_value, start.read_value).apply(tf.data.experimental.assert_cardinality(steps))
    counts = {} if not count else examples.counts(str(examples.splits[0]))
    return TrainingBatches(whole, epoch, start, steps, examples.class_names, counts, examples.manifest, at, order)


def evaluation_batches(
    examples: Examples,
    preprocessing: Preprocessing,
    *,
    batch_size: int = 64,
    stored: np.ndarray | None = None,
    view: np.ndarray | None = None,
    one_hot: bool = False,
) -> tf.data.Dataset:
    """Batches (B, h, w, C) float32 with labels: every example once, in the order of the table.

    The last batch may be smaller. The rows of `view`, if there is one, are given in place of images. Labels are as in
    the table, or with `one_hot` (B, K) float32 of 0 and 1.
    """
    labels = tf.constant(examples.labels)
    task = find_task(examples.task)

    @graph_code
    def finish(pixels: tf.Tensor, index: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        targets = tf.gather(labels, index)
        targets = task.shares(targets, len(examples.class_names)) if one_hot else targets
        return preprocessing.scale(pixels) if view is None else tf.cast(pixels, tf.float32), targets

    rows = tf.data.Dataset.range(len(examples)).batch(batch_size).map(graph_code(lambda index: (index, index)))
    dataset = _images(rows, examples, preprocessing, stored if view is None else view, batch_size, drop=False)
    dataset = untuned(dataset.map(finish, num_parallel_calls=BATCHES, deterministic=True).prefetch(2))
    return dataset.apply(tf.data.experimental.assert_cardinality(math.ceil(len(examples) / batch_size)))


def _images(
    rows: tf.data.Dataset, examples: Examples, preprocessing: Preprocessing, stored: np.ndarray | None,
    batch_size: int, drop: bool, augmentation: Augmentation | None = None,
    seed_of: Callable[[tf.Tensor], tf.Tensor] | None = None,
    turn_of: Callable[[tf.Tensor], tf.Tensor | None] = lambda index: None,
) -> tf.data.Dataset:  # fmt: skip
    """Batches of (indices, positions) -> batches of (pixels uint8, indices, seeds), each image augmented with its seed.

    Without augmentation, the positions are returned in place of the seeds.
    """
    if stored is None and examples.pixels is not None and examples.pixels.shape[1:] == preprocessing.shape:
        stored = examples.pixels
    seeded = augmentation is not None and (bool(augmentation) or augmentation.mixes)

    @graph_code
    def augmented(pixels: tf.Tensor, index: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        if not seeded or augmentation is None or seed_of is None:
            return pixels, index, position
        seed = seed_of(position)
        return augmentation(pixels, seed, turn_of(index)), index, seed

    if stored is not None:
        read_rows = rows_from(stored)
        batches = rows.map(
            graph_code(lambda index, position: (read_rows(index), index, position)),
            num_parallel_calls=BATCHES, deterministic=True,
        )  # fmt: skip
        if not seeded:
            return batches
        each = batches.unbatch().map(augmented, num_parallel_calls=DECODERS, deterministic=True)
    else:
        decode = decoded_from(examples, preprocessing)
        each = rows.unbatch().map(
            graph_code(lambda index, position: augmented(decode(index), index, position)),
            num_parallel_calls=DECODERS, deterministic=True,
        )  # fmt: skip
    return each.batch(batch_size, drop_remainder=drop)


IndexOf = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def _shuffled(count: int, seed: int) -> IndexOf:
    """(positions (B,), epoch) -> indices (B,): a permutation of all examples, different in each epoch."""

    def index_of(positions: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
        order = tf.stack([tf.constant(seed, tf.int64), epoch])
        return tf.random.experimental.index_shuffle(positions, order, tf.constant(count - 1, tf.int64))

    return index_of


def _balanced(examples: Examples, seed: int) -> IndexOf:
    """(positions (B,), epoch) -> indices (B,): N draws per epoch, equally many of each class (to within one).

    Each class uses its examples in turn, across epochs, and starts again in a new order.
    """
    count = len(examples)
    classes = len(examples.class_names)
    members = np.argsort(examples.labels, kind="stable")
    sizes = np.bincount(examples.labels, minlength=classes)
    draws = (count - np.arange(classes) + classes - 1) // classes  # draws of each class in an epoch
    table = [tf.constant(values, tf.int64) for values in (members, sizes, np.cumsum(sizes) - sizes, draws)]
    shuffled = _shuffled(count, seed)

    def index_of(positions: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
        all_members, size_of, first_of, draws_of = table
        drawn = shuffled(positions, epoch)
        label, number = drawn % classes, drawn // classes
        size = tf.gather(size_of, label)
        number += epoch * tf.gather(draws_of, label)
        # a seed for each class and round; the public index_shuffle does not accept a seed per index
        seeds = tf.stack([tf.fill(tf.shape(label), tf.constant(seed, tf.int64)), label + 1, number // size], axis=1)
        within = tf.raw_ops.RandomIndexShuffle(index=number % size, seed=seeds, max_index=size - 1, rounds=4)
        return tf.gather(all_members, tf.gather(first_of, label) + within)

    return index_of


def class_weights(examples: Examples) -> np.ndarray:
    """(K,) float32 weights N / (K n) (King and Zeng 2001). Every class must have an example."""
    from sklearn.utils.class_weight import compute_class_weight

    classes = np.arange(len(examples.class_names))
    weights: np.ndarray = compute_class_weight("balanced", classes=classes, y=examples.labels)
    return weights.astype(np.float32)
