"""Duplicates: images whose pixels are the same, and images that look the same, also turned or mirrored.

Every pair is looked at, in 8 orientations: 64-bit perceptual hashes are compared by their Hamming distance, and what is
near is compared by thumbnails, in colors and in grey. The cost is that of 4 N^2 operations on whole numbers, whatever
the images look like (`benchmarks/near_duplicates.py`).

The hash is the sign, against their median, of the 63 lowest frequencies of the cosine transform of the thumbnail's luma
(pHash: Zauner 2010, section 3.2.1). Turning an image exchanges its rows' and columns' frequencies, or changes their
signs, so that the hashes of all orientations come from one transform.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Lock

import numpy as np

from kerazoo.pipelines.inspection import THUMB, Inspection, chunks

DISTANCE = 10  # bits of 63
LIKENESS = 0.945  # correlation of thumbnails: of what may be cropped and recolored
TURNED = 0.98  # the same, of what is turned or mirrored besides: chance has seven tries at each pair
# An image whose hash is near to those of more than CROWD others that do not look like it is one of many that are alike
# by nature, such as the digit 1: what looks like it is named only where it is not turned and as like as SAME.
CROWD = 3
SAME = 0.99
FLAT = 2  # standard deviation of a thumbnail that is too flat to be told from others
ROWS, COLUMNS = 64, 4096  # hashes compared at once: 2 MB of whole numbers, which stay in a processor's cache
MAX_PAIRS = 200_000  # pairs with near hashes that are compared by thumbnails
AT_ONCE = 4096  # thumbnails

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# rows of the discrete cosine transform (II) of 16 samples, frequencies 0 to 7
_COSINES = np.cos(np.pi / THUMB * (np.arange(THUMB) + 0.5) * np.arange(8)[:, None]).astype(np.float32)
_FLIP = (-1.0) ** np.arange(8, dtype=np.float32)  # what a mirror does to frequencies
# (rows and columns exchanged, rows reversed, columns reversed): what it makes of an image
TURNS = {
    (False, False, False): "",
    (False, False, True): "mirrored",
    (False, True, True): "turned by 180 degrees",
    (True, False, True): "turned by 90 degrees",
    (True, True, False): "turned by 270 degrees",
    (False, True, False): "mirrored and turned by 180 degrees",
    (True, False, False): "mirrored and turned by 270 degrees",
    (True, True, True): "mirrored and turned by 90 degrees",
}


@dataclass(frozen=True)
class Pair:
    """Two images, by index, a < b, that look the same: as they are, or when b is `turned` (see TURNS)."""

    a: int
    b: int
    likeness: float
    turned: str


@dataclass(frozen=True)
class LookAlikes:
    """Pairs that look the same, and what is known of those that are not named.

    `crowded` counts the images that are one of many which are alike. Where over MAX_PAIRS have near hashes (the frames
    of a film, say), only those that differ in at most `reach` bits were compared; -1: over MAX_PAIRS have one hash, and
    each image was compared with the next that has its hash.
    """

    pairs: tuple[Pair, ...] = ()
    crowded: int = 0
    reach: int = DISTANCE


def same_pixels(found: Sequence[Inspection]) -> list[list[int]]:
    """Groups of two or more images with the same decoded pixels."""
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(found):
        if row.pixels:
            groups.setdefault(row.pixels, []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def look_alikes(found: Sequence[Inspection]) -> LookAlikes:
    """Pairs that look the same but do not have the same pixels."""
    index = np.array([i for i, row in enumerate(found) if row.thumb], np.int64)
    thumbs = np.frombuffer(b"".join(found[i].thumb for i in index), np.uint8).reshape(-1, THUMB, THUMB, 3)
    uneven = np.flatnonzero([bool(thumb.std((0, 1)).max() >= FLAT) for thumb in thumbs])
    index, thumbs = index[uneven], thumbs[uneven]
    if len(index) < 2:
        return LookAlikes()
    search = _Search(_hashes(thumbs))
    crowded = np.zeros(len(index), bool)
    best: dict[tuple[int, int], Pair] = {}
    for turn, words in enumerate(TURNS.values()):
        rows, columns = search.pairs(turn)
        likeness = _likeness(thumbs, rows, columns, turn)
        if not words:
            alike = np.concatenate([rows[likeness >= LIKENESS], columns[likeness >= LIKENESS]])
            crowded = search.degrees - np.bincount(alike, minlength=len(index)) > CROWD
        bar = np.where(crowded[rows] | crowded[columns], np.inf if words else SAME, TURNED if words else LIKENESS)
        for n in np.flatnonzero(likeness >= bar):
            a, b = int(index[rows[n]]), int(index[columns[n]])
            if (a, b) not in best and found[a].pixels != found[b].pixels:
                best[a, b] = Pair(a, b, float(likeness[n]), words)
    pairs = sorted(best.values(), key=lambda pair: (pair.turned != "", pair.a, pair.b))
    return LookAlikes(tuple(pairs), int(np.sum(crowded)), search.reach)


def _hashes(thumbs: np.ndarray) -> np.ndarray:
    """(8, N) uint64: for each of TURNS the hashes of the thumbnails turned so."""
    hashes = np.empty((len(TURNS), len(thumbs)), np.uint64)
    for part in chunks(len(thumbs), AT_ONCE):
        waves = _COSINES @ (thumbs[part] @ LUMA) @ _COSINES.T
        for turn, (exchanged, rows, columns) in enumerate(TURNS):
            turned = waves.transpose(0, 2, 1) if exchanged else waves
            turned = turned * (_FLIP[:, None] if rows else 1) * (_FLIP if columns else 1)
            values = turned.reshape(len(turned), 64)[:, 1:]  # without the mean
            bits = np.zeros((len(turned), 64), bool)
            bits[:, :63] = values > np.median(values, axis=1, keepdims=True)
            hashes[turn, part] = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    return hashes


class _Search:
    """All pairs (i, j), i < j, of which i as it is and j turned have hashes that differ in at most `reach` bits.

    `reach` is DISTANCE, or less where that is over MAX_PAIRS. degrees[i] counts what is near to i, neither turned.
    """

    def __init__(self, hashes: np.ndarray) -> None:
        self.reach = DISTANCE
        self.degrees = np.zeros(hashes.shape[1], np.int64)
        self._found: list[np.ndarray] = []  # (4, P): turns, rows, columns, distances
        self._count = 0
        self._lock = Lock()
        with ThreadPoolExecutor() as pool:
            for turn, others in enumerate(hashes):
                list(pool.map(partial(self._compare, turn, hashes[0], others), chunks(len(others), ROWS)))
        if self.reach < 0:
            order = np.argsort(hashes[0], kind="stable")
            same = np.flatnonzero(hashes[0][order[1:]] == hashes[0][order[:-1]])
            none = np.zeros(len(same), np.int64)
            self._found = [np.stack([none, order[same], order[same + 1], none])]

    def pairs(self, turn: int) -> tuple[np.ndarray, np.ndarray]:
        """(P,) rows and (P,) columns of the pairs that are near by that turn, in order."""
        found = np.concatenate([np.empty((4, 0), np.int64), *self._found], axis=1)
        found = found[:, found[0] == turn]
        order = np.lexsort((found[2], found[1]))
        return found[1, order], found[2, order]

    def _compare(self, turn: int, hashes: np.ndarray, others: np.ndarray, part: slice) -> None:
        for start in range(part.start, len(others), COLUMNS):
            if self.reach < 0:
                return
            distances = np.bitwise_count(hashes[part, None] ^ others[None, start : start + COLUMNS])
            if distances.min() <= DISTANCE:
                rows, columns = np.nonzero(distances <= DISTANCE)
                later = columns + start > rows + part.start
                rows, columns = rows[later], columns[later]
                found = np.stack(
                    [np.full(len(rows), turn), rows + part.start, columns + start, distances[rows, columns]]
                )
                self._keep(found, slice(part.start, part.start + ROWS), slice(start, start + COLUMNS))

    def _keep(self, found: np.ndarray, rows: slice, columns: slice) -> None:
        """Count and store pairs (4, P) that were found in these rows and columns."""
        with self._lock:
            if len(found[0]) and found[0, 0] == 0:
                for axis, part in ((1, rows), (2, columns)):
                    counted = self.degrees[part]
                    counted += np.bincount(found[axis] - part.start, minlength=len(counted))
            within = found[3] <= self.reach
            self._found.append(found[:, within])
            self._count += int(within.sum())
            while self._count > MAX_PAIRS and self.reach >= 0:
                self.reach -= 1
                stored = np.concatenate(self._found, axis=1)
                self._found = [stored[:, stored[3] <= self.reach]]
                self._count = self._found[0].shape[1]


def _likeness(thumbs: np.ndarray, rows: np.ndarray, columns: np.ndarray, turn: int) -> np.ndarray:
    """(P,) the larger correlation of the pairs' thumbnails, the second turned: in colors and in grey; in [-1, 1]."""
    exchanged, reversed_rows, reversed_columns = list(TURNS)[turn]
    values = np.empty(len(rows), np.float32)
    for part in chunks(len(rows), AT_ONCE):
        a = thumbs[rows[part]].astype(np.float32)
        b = thumbs[columns[part]].astype(np.float32)
        b = b.transpose(0, 2, 1, 3) if exchanged else b
        b = b[:, :: -1 if reversed_rows else 1, :: -1 if reversed_columns else 1]
        values[part] = np.maximum(_correlation(a, b), _correlation(a @ LUMA, b @ LUMA))
    return values


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(P,) of two arrays (P, ...)."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    correlation: np.ndarray = (a * b).sum(axis=1) / np.maximum(scale, 1e-6)
    return correlation
