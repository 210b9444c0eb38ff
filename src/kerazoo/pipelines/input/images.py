"""Resized images, uint8, by index: decoded from files on demand, or read from a cache on disk.

The cache is one `.npy` file, mapped into memory. Its name is a digest of the contents and of the resize settings, so a
changed image or setting gives another cache. Scaling and augmentation come after the cache and do not affect it. The
CRC-32 of each image follows the array. A run compares them once, when it opens the cache, and writes a damaged cache
again before training. Batches are then read at the speed of memory.
"""

import hashlib
import io
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from kerazoo.caches import cache_folder, room_for, sweep
from kerazoo.errors import DataError, KerazooError
from kerazoo.files import write_whole
from kerazoo.pipelines.data.examples import Examples, check_contents
from kerazoo.pipelines.input.causes import true_causes
from kerazoo.preprocessing.preprocessing import Preprocessing
from kerazoo.terminal import format_bytes

log = logging.getLogger("kerazoo")

AT_ONCE = 64  # images prepared before they are written
SMALL = 0.1  # share of the free disk that an automatic cache may use
# TensorFlow's tuner divides the processors among all parallel steps, and would give decoding only half of them
DECODERS = os.cpu_count() or 1
VERSION = 1  # change this when the results of decoding or resizing change, so that new caches are made

F = TypeVar("F", bound=Callable[..., Any])


def graph_code(function: F) -> F:
    """`function`, for tf.data, as it is: AutoGraph would look for Python statements to translate, for seconds."""
    return tf.autograph.experimental.do_not_convert(function)  # type: ignore[no-any-return]


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


def rows_from(stored: np.ndarray) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function indices (B,) -> (B, h, w, C) uint8, the rows of an array in memory or mapped from disk."""

    def rows(indices: tf.Tensor) -> tf.Tensor:
        # a graph would copy the array, so it stays outside
        images = tf.numpy_function(lambda index: np.take(stored, index, axis=0), [indices], tf.uint8, stateful=False)
        return tf.ensure_shape(images, (None, *stored.shape[1:]))

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
    images = _opened(path, (len(examples), *preprocessing.shape))
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
    return _write(path, examples, preprocessing, fitted or _fitted)


def cache_path(examples: Examples, preprocessing: Preprocessing) -> Path:
    """The path of the cache of `examples`, which may not exist."""
    values = preprocessing.to_json()
    resizing = {key: value for key, value in values.items() if key not in ("scaling", "factor", "offset")}
    digest = hashlib.sha256(json.dumps([VERSION, tf.__version__, resizing], sort_keys=True).encode())
    for content in examples.hashes:
        digest.update(content.encode())
    return cache_folder("images") / f"{digest.hexdigest()[:32]}.npy"


def _opened(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The array at `path`; None if it is missing, is damaged, or has another shape."""
    try:
        images: np.memmap = np.lib.format.open_memmap(path, mode="r")
        if images.shape != shape or images.dtype != np.uint8:
            return None
        checksums = np.fromfile(path, "<u4", offset=images.offset + images.nbytes)
    except (OSError, ValueError, EOFError):
        return None
    return images if np.array_equal(checksums, _checksums(images)) else None


def _checksums(images: np.ndarray) -> np.ndarray:
    """(N,) uint32: the CRC-32 of each image. It uses threads because `zlib` releases the interpreter lock."""
    with ThreadPoolExecutor(DECODERS) as pool:
        parts = [images[first : first + AT_ONCE] for first in range(0, len(images), AT_ONCE)]
        sums = pool.map(lambda part: [zlib.crc32(np.ascontiguousarray(image).data) for image in part], parts)
        return np.array([one for part in sums for one in part], "<u4")


def _write(path: Path, examples: Examples, preprocessing: Preprocessing, fitted: Blocks) -> np.ndarray:
    """Write the cache under a temporary name, rename it, and return it. Two processes may do so at the same time."""
    sweep(path.parent)
    header = io.BytesIO()
    shape = (len(examples), *preprocessing.shape)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    try:
        # do not write through a memory map: a full disk would kill the process
        with true_causes(None, examples, preprocessing):
            # the checksums show what a power cut damaged, so it need not wait for the disk
            write_whole(path, chain([header.getvalue()], _blocks(fitted(examples, preprocessing))), sync=False)
    except OSError as error:
        raise KerazooError(
            f"{path} cannot be written: {error.strerror}; free some disk space, set KERAZOO_CACHE to another folder, "
            "or train without a cache with data.cache=never"
        ) from error
    written: np.ndarray = np.load(path, mmap_mode="r")
    return written


def _blocks(fitted: Iterator[np.ndarray]) -> Iterator[bytes]:
    """The bytes of the images, then of their checksums."""
    sums = []
    for images in fitted:
        sums += [zlib.crc32(image) for image in images]
        yield images.tobytes()
    yield np.array(sums, "<u4").tobytes()


def _fitted(examples: Examples, preprocessing: Preprocessing) -> Iterator[np.ndarray]:
    """Blocks of resized images. Raises DataError at the end if one does not have its known hash."""
    pixels = tf.data.Dataset.range(len(examples)).map(
        graph_code(decoded_from(examples, preprocessing)), num_parallel_calls=DECODERS, deterministic=True
    )
    yield from pixels.batch(AT_ONCE).prefetch(2).as_numpy_iterator()
    check_contents(examples, examples.hashes)
