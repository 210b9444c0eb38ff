"""Inspect all images of a data set in several threads, with a cache of earlier inspections."""

import contextlib
import json
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import tensorflow as tf

from kerazoo.caches import cache_folder
from kerazoo.pipelines.checks.inspection import (
    DECODER,
    Inspection,
    inspect_array,
    inspect_decoded,
    inspect_file,
    read_known,
)
from kerazoo.pipelines.data.examples import Examples
from kerazoo.pipelines.input.images import DECODERS, graph_code, untuned
from kerazoo.preprocessing.decoding import decoded
from kerazoo.preprocessing.image_files import MAX_ENCODED
from kerazoo.preprocessing.preprocessing import Preprocessing

AT_ONCE = 256  # files between two writes of the cache
A_BLOCK = 64  # resized images in memory
COLORS = 3  # channels of the pixels that the check decodes; a network for gray decodes otherwise


def inspect_all(
    examples: Examples, *, progress: Callable[[int, int], None] = lambda done, of: None
) -> list[Inspection]:
    """The inspection of every example, in order. Files that have not changed since an earlier inspection are not read.

    `progress` is called with (done, total).
    """
    inspections: list[Inspection] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        if examples.paths is None:
            assert examples.pixels is not None
            images = zip(examples.pixels, examples.hashes, strict=True)
            for done, row in enumerate(pool.map(lambda row: inspect_array(*row), images), start=1):
                inspections.append(row)
                if done % AT_ONCE == 0:
                    progress(done, len(examples))
            return inspections
        with Inspections() as known:
            for start in range(0, len(examples), AT_ONCE):
                paths = examples.paths[start : start + AT_ONCE]
                cached = known.find(paths)
                rows = list(pool.map(lambda path, kept: kept or inspect_file(path), paths, cached))
                known.keep([(p, row) for p, row, kept in zip(paths, rows, cached, strict=True) if kept is None])
                inspections += rows
                progress(len(inspections), len(examples))
    return inspections


def inspect_and_resize(
    paths: Sequence[str], preprocessing: Preprocessing, found: list[Inspection]
) -> Iterator[np.ndarray]:
    """Blocks (n, h, w, 3) uint8 of all images, resized; `found` gets their inspections, which are kept for later.

    After an image that cannot be decoded, the others are inspected, and nothing more is given.
    """
    together = _decoded_together(paths, preprocessing)
    kept = first = len(found)
    sound = True
    with Inspections() as known:
        for start in range(0, len(paths), A_BLOCK):
            some = paths[start : start + A_BLOCK]
            block = np.empty((len(some), *preprocessing.shape), np.uint8)
            for path, row in zip(some, block, strict=True):
                found.append(_next_of(together, path, row) or _alone(path, preprocessing, row))
                sound &= not found[-1].bad
            if len(found) - kept >= AT_ONCE or start + A_BLOCK >= len(paths):  # each write waits for the disk
                known.keep(list(zip(paths[kept - first :], found[kept:], strict=False)))
                kept = len(found)
            if sound:
                yield block


Decoded = tuple[bytes, np.ndarray, np.ndarray, os.stat_result]


def _decoded_together(paths: Sequence[str], preprocessing: Preprocessing) -> Iterator[Decoded]:
    """(contents, decoded pixels, resized pixels, status before) of each path in order, by TensorFlow's threads.

    Nothing more is given after the first that fails. An image that is decoded alone, since it is large, has no pixels.
    """
    known = [_plain_status(path) for path in paths]
    statuses = [status for status in known if status is not None]
    if len(statuses) < len(paths):
        return

    @graph_code
    def one(path: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        contents = tf.io.read_file(path)
        pixels = decoded(contents, COLORS, resize_large=lambda image: tf.zeros((0, 0, COLORS), tf.uint8))
        resized = tf.cond(
            tf.size(pixels) > 0,
            lambda: preprocessing.resize_decoded(pixels),
            lambda: tf.zeros(preprocessing.shape, tf.uint8),
        )
        return contents, pixels, resized

    names = tf.data.Dataset.from_tensor_slices([os.fsencode(path) for path in paths])
    images = untuned(names.map(one, num_parallel_calls=DECODERS, deterministic=True).prefetch(DECODERS))
    with contextlib.suppress(tf.errors.OpError):  # what is bad is found and named alone
        for image, status in zip(images.as_numpy_iterator(), statuses, strict=True):
            yield *image, status


def _plain_status(path: str) -> os.stat_result | None:
    """The status of a regular file that may be read at once; None for others, of which `inspect_file` says what."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None
    return status if stat.S_ISREG(status.st_mode) and 0 < status.st_size <= MAX_ENCODED else None


def _next_of(together: Iterator[Decoded], path: str, row: np.ndarray) -> Inspection | None:
    """The inspection of the next image of `together`, that at `path`; `row` gets it resized. None if it has none."""
    found = next(together, None)
    if found is None:
        return None
    contents, pixels, resized, status = found
    if not pixels.size or status.st_size != len(contents):  # it is large, or being written
        return None
    row[:] = resized
    return inspect_decoded(contents, Path(path).suffix, pixels, size=status.st_size, mtime_ns=status.st_mtime_ns)


def _alone(path: str, preprocessing: Preprocessing, row: np.ndarray) -> Inspection:
    """The inspection of one image, or why it is bad; `row` gets it resized."""

    def resize(pixels: np.ndarray) -> None:
        row[:] = preprocessing.resize_decoded(pixels).numpy()

    return inspect_file(path, resize)


class Inspections:
    """The cache of inspections: a SQLite file, which several processes may use at once."""

    def __init__(self) -> None:
        self._path = cache_folder("checks") / f"{DECODER}.sqlite"

    def __enter__(self) -> "Inspections":
        try:
            self._base: sqlite3.Connection | None = self._open()
        except sqlite3.OperationalError:  # locked, or a disk that cannot be written: continue without a cache
            self._base = None
        except sqlite3.DatabaseError:  # damaged: make a new one
            self._path.unlink(missing_ok=True)
            self._base = self._open()
        return self

    def _open(self) -> sqlite3.Connection:
        base = sqlite3.connect(self._path, timeout=10)
        base.execute("CREATE TABLE IF NOT EXISTS seen (path BLOB PRIMARY KEY, found TEXT, thumb BLOB)")
        return base

    def __exit__(self, *error: object) -> None:
        if self._base is not None:
            self._base.close()

    def find(self, paths: Sequence[str]) -> list[Inspection | None]:
        """The cached inspection of each path; None if there is none, or if the file's size or time has changed."""
        return [self._find(path) for path in paths]

    def _find(self, path: str) -> Inspection | None:
        if self._base is None:
            return None
        try:
            row = self._base.execute("SELECT found, thumb FROM seen WHERE path = ?", (os.fsencode(path),)).fetchone()
        except sqlite3.Error:
            return None
        if row is None:
            return None
        try:
            known = read_known(*row)
            status = Path(path).stat()
        except (OSError, ValueError, KeyError, TypeError):  # the file is gone, or the cached inspection is damaged
            return None
        return known if (status.st_size, status.st_mtime_ns) == (known.size, known.mtime_ns) else None

    def keep(self, rows: Sequence[tuple[str, Inspection]]) -> None:
        """Store inspections, except of files that could not be read, which may be readable next time."""
        if self._base is None:
            return
        with contextlib.suppress(sqlite3.Error), self._base:
            self._base.executemany(
                "INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", (_row(path, row) for path, row in rows if row.sha256)
            )


def _row(path: str, inspection: Inspection) -> tuple[bytes, str, bytes]:
    values = asdict(inspection)
    thumb = values.pop("thumb")
    return os.fsencode(path), json.dumps(values), thumb
