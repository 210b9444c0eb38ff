"""Fitted images, uint8, by index: decoded from files as they are asked for, or kept prepared on disk.

The cache is one `.npy` file, mapped into memory: its name is a digest of the contents and of how they are fitted, so a
changed image or setting makes another. Scaling and augmentation come after it and cost nothing to change. Behind the
array stands the CRC-32 of each image. All are compared when a cache is opened, once a run: batches are then read at
the speed of memory, and a damaged cache is written anew before a step is trained on it.
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
SMALL = 0.1  # share of the free disk that a cache nobody asked for may take
# TensorFlow's tuner shares the processors among all parallel steps, and leaves a decoding one for two of them
DECODERS = os.cpu_count() or 1
VERSION = 1  # of what decoding and fitting give; a change of them makes another cache


def decoded_from(examples: Examples, preprocessing: Preprocessing) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function of an index -> (h, w, C) uint8, which reads, decodes and fits the image of that index.

    Raises DataError where the images cannot become what the network takes: only grey and colours turn into another.
    """
    found = 3 if examples.pixels is None else examples.pixels.shape[-1]
    if found != preprocessing.channels and {found, preprocessing.channels} != {1, 3}:
        kind = "encoded images, of 1 or 3" if examples.pixels is None else f"arrays of {found}"
        raise DataError(
            f"{examples.source} holds {kind} channels, and the network takes {preprocessing.channels}; build it for "
            "these images, or give it others"
        )
    if examples.paths is not None:
        paths = tf.constant([os.fsencode(path) for path in examples.paths])
        return lambda index: preprocessing.read(tf.io.read_file(paths[index]))
    assert examples.pixels is not None
    rows = rows_from(examples.pixels)
    return lambda index: preprocessing.resize_pixels(rows(index[None])[0])


def rows_from(stored: np.ndarray) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function of indices (B,) -> (B, h, w, C) uint8, the rows of an array in memory or mapped from disk."""

    def rows(indices: tf.Tensor) -> tf.Tensor:
        # the array stays outside of the graph, which would copy it
        found = tf.numpy_function(lambda index: np.take(stored, index, axis=0), [indices], tf.uint8, stateful=False)
        return tf.ensure_shape(found, (None, *stored.shape[1:]))

    return rows


def prepared(examples: Examples, preprocessing: Preprocessing, *, cache: str, passes: int) -> np.ndarray | None:
    """(N, h, w, C) uint8 where the fitted images are at hand or worth writing to disk, else None.

    `cache` is "always", "never", or "auto": where there are at least two `passes` over image files, and the cache
    takes at most a tenth of the free disk. What is written is announced in the log with its size.
    """
    if examples.pixels is not None and examples.pixels.shape[1:] == preprocessing.shape:
        return examples.pixels
    if cache == "never" or (cache == "auto" and (passes < 2 or examples.paths is None)):
        return None
    path, size = cache_path(examples, preprocessing), len(examples) * int(np.prod(preprocessing.shape))
    found = _opened(path, (len(examples), *preprocessing.shape))
    if found is not None:
        return found
    if path.exists():
        log.info(f"{path} is damaged, or of an older version; it is written anew")
    try:
        room_for(path, size, "the prepared images", share=SMALL if cache == "auto" else None)
    except DataError:
        if cache == "auto":
            return None
        raise
    log.info(f"writing {len(examples):,} prepared images to {path} ({format_bytes(size)})")
    return _write(path, examples, preprocessing)


def cache_path(examples: Examples, preprocessing: Preprocessing) -> Path:
    """Where the fitted images of `examples` lie, or would lie."""
    resolve_batch_size = {key: value for key, value in preprocessing.to_json().items() if key != "scaling"}
    digest = hashlib.sha256(json.dumps([VERSION, tf.__version__, resolve_batch_size], sort_keys=True).encode())
    for content in examples.hashes:
        digest.update(content.encode())
    return cache_folder("images") / f"{digest.hexdigest()[:32]}.npy"


def _opened(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The array at `path`; None where it is missing, damaged, or of another shape."""
    try:
        found: np.memmap = np.lib.format.open_memmap(path, mode="r")
        if found.shape != shape or found.dtype != np.uint8:
            return None
        kept = np.fromfile(path, "<u4", offset=found.offset + found.nbytes)
    except (OSError, ValueError, EOFError):
        return None
    return found if np.array_equal(kept, _checksums(found)) else None


def _checksums(images: np.ndarray) -> np.ndarray:
    """(N,) uint32: the CRC-32 of each image. Threads help: `zlib` lets go of the interpreter."""
    with ThreadPoolExecutor(DECODERS) as pool:
        parts = [images[first : first + AT_ONCE] for first in range(0, len(images), AT_ONCE)]
        sums = pool.map(lambda part: [zlib.crc32(np.ascontiguousarray(image).data) for image in part], parts)
        return np.array([one for part in sums for one in part], "<u4")


def _write(path: Path, examples: Examples, preprocessing: Preprocessing) -> np.ndarray:
    """Write the cache, whole or not at all. Two processes may: each under a name of its own, renamed at the end."""
    sweep(path.parent)
    header = io.BytesIO()
    shape = (len(examples), *preprocessing.shape)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    try:
        # not through a memory map: a full disk would kill the process
        with true_causes(None, examples, preprocessing):
            write_whole(path, chain([header.getvalue()], _blocks(examples, preprocessing)))
    except OSError as error:
        raise KerazooError(
            f"{path} cannot be written: {error.strerror}; make room, name another folder by KERAZOO_CACHE, "
            "or train without a cache by data.cache=never"
        ) from error
    written: np.ndarray = np.load(path, mmap_mode="r")
    return written


def _blocks(examples: Examples, preprocessing: Preprocessing) -> Iterator[bytes]:
    """The images, then their checksums. Raises DataError where an image is not the one whose hash is known."""
    sums = []
    for images in _fitted(examples, preprocessing):
        sums += [zlib.crc32(image) for image in images]
        yield images.tobytes()
    check_contents(examples, examples.hashes)
    yield np.array(sums, "<u4").tobytes()


def _fitted(examples: Examples, preprocessing: Preprocessing) -> Iterator[np.ndarray]:
    pixels = tf.data.Dataset.range(len(examples)).map(
        decoded_from(examples, preprocessing), num_parallel_calls=DECODERS, deterministic=True
    )
    yield from pixels.batch(AT_ONCE).prefetch(2).as_numpy_iterator()
