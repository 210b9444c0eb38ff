"""Resized images, uint8, by index: decoded from files on demand, or read from a cache on disk.

The cache is one `.npy` file, mapped into memory. Its name is a digest of the contents and of the resize settings, so a
changed image or setting gives another cache. Scaling and augmentation come after the cache and do not affect it. A
damaged cache is written again before training.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from kerazoo.caches import cache_folder, room_for
from kerazoo.errors import DataError
from kerazoo.pipelines.data.examples import Examples, check_contents
from kerazoo.pipelines.input.causes import true_causes
from kerazoo.pipelines.input.kept import open_rows, write_rows
from kerazoo.preprocessing.preprocessing import Preprocessing
from kerazoo.terminal import format_bytes

log = logging.getLogger("kerazoo")

AT_ONCE = 64  # images prepared before they are written
SMALL = 0.1  # share of the free disk that an automatic cache may use
DECODERS = os.cpu_count() or 1  # images read at the same time, see `untuned`
BATCHES = min(DECODERS, 4)  # batches made at the same time, each of which takes memory
VERSION = 1  # change this when the results of decoding or resizing change, so that new caches are made

F = TypeVar("F", bound=Callable[..., Any])


def graph_code(function: F) -> F:
    """`function`, for tf.data, as it is: AutoGraph would look for Python statements to translate, for seconds."""
    return tf.autograph.experimental.do_not_convert(function)  # type: ignore[no-any-return]


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """`dataset` without tf.data's tuner, so each parallel step must have a number.

    The tuner divides the processors among the steps, so that decoding gets half of them. Its thread sleeps for periods
    that double from 10 ms on, and the end of an epoch may wait until it wakes: after 5.1 s, 10.2 s, and so on, so that
    an epoch of 5.5 s takes 10.3 s (TensorFlow 2.21; `benchmarks/tuner.py`).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def decoded_from(
    examples: Examples, preprocessing: Preprocessing, stored: np.ndarray | None = None
) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function index -> (h, w, C) uint8, which reads, decodes and resizes the image of that index.

    If `stored` has the resized images, it takes them from there. Raises DataError if the images do not have the
    network's number of channels. Only gray and RGB can be converted.
    """
    channels = 3 if examples.pixels is None else examples.pixels.shape[-1]
    if channels != preprocessing.channels and {channels, preprocessing.channels} != {1, 3}:
        what = "encoded images with 1 or 3" if examples.pixels is None else f"arrays with {channels}"
        raise DataError(
            f"{examples.source} has {what} channels, but the network needs {preprocessing.channels}; build the network "
            "for these images, or use other images"
        )
    if stored is not None:
        stored_rows = rows_from(stored)
        return lambda index: stored_rows(index[None])[0]
    if examples.paths is not None:
        paths = tf.constant([os.fsencode(path) for path in examples.paths])
        return lambda index: preprocessing.read(tf.io.read_file(paths[index]))
    assert examples.pixels is not None
    rows = rows_from(examples.pixels)
    return lambda index: preprocessing.resize_pixels(rows(index[None])[0])


def rows_from(*views: np.ndarray) -> Callable[..., tf.Tensor]:
    """A function indices (B,) -> (B, ...), the rows of an array in memory or mapped from disk.

    Of several arrays, a second argument, the epoch, chooses one in turn.
    """
    kind = np.result_type(*views)

    def rows(indices: tf.Tensor, epoch: Any = 0) -> tf.Tensor:
        # a graph would copy the array, so it stays outside
        found = tf.numpy_function(
            lambda index, number: np.take(views[number % len(views)], index, axis=0).astype(kind, copy=False),
            [indices, epoch], tf.as_dtype(kind), stateful=False,
        )  # fmt: skip
        return tf.ensure_shape(found, (None, *views[0].shape[1:]))

    return rows


Blocks = Callable[[Examples, Preprocessing], Iterator[np.ndarray]]


def prepared(
    examples: Examples, preprocessing: Preprocessing, *, cache: str, passes: int, fitted: Blocks | None = None
) -> np.ndarray | None:
    """(N, h, w, C) uint8 resized images, in memory or in a cache on disk; None if they are not cached.

    `cache` is "always", "never", or "auto": use a cache if there are at least two `passes` over image files, and if it
    needs at most a tenth of the free disk. The log says what is written and its size. `fitted` gives blocks (n, h, w,
    C) uint8 of the images if they are to be written, without a line in the log; by default they are decoded here.
    """
    if examples.pixels is not None and examples.pixels.shape[1:] == preprocessing.shape:
        return examples.pixels
    if cache == "never" or (cache == "auto" and (passes < 2 or examples.paths is None)):
        return None
    path = cache_path(examples, preprocessing)
    size = len(examples) * int(np.prod(preprocessing.shape))
    shape = (len(examples), *preprocessing.shape)
    images = open_rows(path, shape)
    if images is not None:
        return images
    if path.exists():
        log.info(f"{path} is damaged or has an older format; writing it again")
    try:
        room_for(path, size, "the prepared images", share=SMALL if cache == "auto" else None)
    except DataError:
        if cache == "auto":
            return None
        raise
    if fitted is None:
        log.info(f"writing {len(examples):,} prepared images to {path} ({format_bytes(size)})")
    with true_causes(None, examples, preprocessing):
        return write_rows(path, shape, (fitted or _fitted)(examples, preprocessing))


def cache_path(examples: Examples, preprocessing: Preprocessing) -> Path:
    """The path of the cache of `examples`, which may not exist."""
    values = preprocessing.to_json()
    resizing = {key: value for key, value in values.items() if key not in ("scaling", "factor", "offset")}
    digest = hashlib.sha256(json.dumps([VERSION, tf.__version__, resizing], sort_keys=True).encode())
    for content in examples.hashes:
        digest.update(content.encode())
    return cache_folder("images") / f"{digest.hexdigest()[:32]}.npy"


def _fitted(examples: Examples, preprocessing: Preprocessing) -> Iterator[np.ndarray]:
    """Blocks of resized images. Raises DataError at the end if one does not have its known hash."""
    pixels = tf.data.Dataset.range(len(examples)).map(
        graph_code(decoded_from(examples, preprocessing)), num_parallel_calls=DECODERS, deterministic=True
    )
    yield from untuned(pixels.batch(AT_ONCE).prefetch(2)).as_numpy_iterator()
    check_contents(examples, examples.hashes)
