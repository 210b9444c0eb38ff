"""Duplicates: images whose pixels are the same, and images that look the same, also turned, mirrored or cropped.

Every pair is looked at, in 8 orientations, and each image beside 4 crops of every other: 64-bit perceptual hashes are
compared by their Hamming distance, and what is near is compared by thumbnails, in colors and in grey. The cost is that
of 8 N^2 operations on whole numbers, whatever the images look like (`benchmarks/near_duplicates.py`).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Lock

import numpy as np

from kerazoo.pipelines.checks.frequencies import (
    AT_ONCE,
    LUMA,
    TURNS,
    hashes_of_corners,
    hashes_of_turns,
    likeness_of_crops,
    ranks_of_crops,
)
from kerazoo.pipelines.checks.inspection import THUMB, Inspection, chunks

DISTANCE = 10  # bits of 63
LIKENESS = 0.945  # correlation of thumbnails: of what may be cropped and recolored
TURNED = 0.98  # the same, of what is turned or mirrored besides: chance has seven tries at each pair
CROPPED = 0.983  # correlation of the lowest frequencies of a crop: chance has 18 tries
# the same of ranks: crops of photos have 0.977 and more, equal shapes that lie elsewhere on noise up to 0.945
RANKED = 0.95
# An image whose hash is near to those of more than CROWD others that do not look like it is one of many that are alike
# by nature, such as the digit 1: what looks like it is named only where it is not turned and as like as SAME.
CROWD = 3
SAME = 0.99
FLAT = 2  # standard deviation of a thumbnail that is too flat to be told from others
ROWS, COLUMNS = 64, 4096  # hashes compared at once: 2 MB of whole numbers, which stay in a processor's cache
MAX_PAIRS = 200_000  # pairs with near hashes that are compared by thumbnails


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
    of a film), only those that differ in at most `reach` bits were compared; -1: over MAX_PAIRS have one hash, and
    each image was compared with the next that has its hash. `crops_reach` is the same of crops; -1: none was compared.
    """

    pairs: tuple[Pair, ...] = ()
    crowded: int = 0
    reach: int = DISTANCE
    crops_reach: int = DISTANCE


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
    hashes = hashes_of_turns(thumbs)
    search = _Search(hashes[0], hashes)
    crowded = np.zeros(len(index), bool)
    best: dict[tuple[int, int], Pair] = {}

    def keep(rows: np.ndarray, columns: np.ndarray, likeness: np.ndarray, words: str = "") -> None:
        for n in range(len(rows)):
            a, b = sorted((int(index[rows[n]]), int(index[columns[n]])))
            if (a, b) not in best and found[a].pixels != found[b].pixels:
                best[a, b] = Pair(a, b, float(likeness[n]), words)

    for turn, words in enumerate(TURNS.values()):
        rows, columns = search.pairs(turn)
        likeness = _likeness(thumbs, rows, columns, turn)
        if not words:
            alike = np.concatenate([rows[likeness >= LIKENESS], columns[likeness >= LIKENESS]])
            crowded = search.degrees - np.bincount(alike, minlength=len(index)) > CROWD
        bar = np.where(crowded[rows] | crowded[columns], np.inf if words else SAME, TURNED if words else LIKENESS)
        named = likeness >= bar
        keep(rows[named], columns[named], likeness[named], words)
    calm = np.flatnonzero(~crowded)
    crops = _Search(hashes[0, calm], hashes_of_corners(thumbs[calm]), both_ways=True)
    parts, wholes = np.concatenate([calm[np.stack(crops.pairs(corner))] for corner in range(crops.turns)], axis=1)
    rows, columns = search.pairs(0)
    between = ~(crowded[rows] | crowded[columns])
    parts = np.concatenate([parts, rows[between], columns[between]])
    wholes = np.concatenate([wholes, columns[between], rows[between]])
    likeness = likeness_of_crops(thumbs, wholes, parts)
    named = likeness >= CROPPED
    named[named] = ranks_of_crops(thumbs, wholes[named], parts[named]) >= RANKED
    keep(parts[named], wholes[named], likeness[named])
    pairs = sorted(best.values(), key=lambda pair: (pair.turned != "", pair.a, pair.b))
    return LookAlikes(tuple(pairs), int(np.sum(crowded)), search.reach, crops.reach)


class _Search:
    """All pairs (i, j), i < j, of which hashes[i] and others[turn, j] differ in at most `reach` bits.

    `others` are the hashes of the same images turned or cropped; `both_ways` finds pairs of i > j, too. `reach` is
    DISTANCE, or less where that is over MAX_PAIRS. degrees[i] counts what is near to i by the first of `others`.
    """

    def __init__(self, hashes: np.ndarray, others: np.ndarray, *, both_ways: bool = False) -> None:
        self.reach = DISTANCE
        self.degrees = np.zeros(len(hashes), np.int64)
        self.turns = len(others)
        self._hashes = hashes
        self._both_ways = both_ways
        self._found: list[np.ndarray] = []  # (4, P): turns, rows, columns, distances
        self._count = 0
        self._lock = Lock()
        with ThreadPoolExecutor() as pool:
            for turn, turned in enumerate(others):
                list(pool.map(partial(self._compare, turn, turned), chunks(len(turned), ROWS)))
        if self.reach < 0 and not both_ways:
            order = np.argsort(hashes, kind="stable")
            same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
            none = np.zeros(len(same), np.int64)
            self._found = [np.stack([none, order[same], order[same + 1], none])]

    def pairs(self, turn: int) -> tuple[np.ndarray, np.ndarray]:
        """(P,) rows and (P,) columns of the pairs that are near by that turn, in order."""
        found = np.concatenate([np.empty((4, 0), np.int64), *self._found], axis=1)
        found = found[:, found[0] == turn]
        order = np.lexsort((found[2], found[1]))
        return found[1, order], found[2, order]

    def _compare(self, turn: int, others: np.ndarray, part: slice) -> None:
        for start in range(0 if self._both_ways else part.start, len(others), COLUMNS):
            if self.reach < 0:
                return
            distances = np.bitwise_count(self._hashes[part, None] ^ others[None, start : start + COLUMNS])
            if distances.min() <= DISTANCE:
                rows, columns = np.nonzero(distances <= DISTANCE)
                after = columns + start - rows - part.start
                other = after != 0 if self._both_ways else after > 0
                rows, columns = rows[other], columns[other]
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
