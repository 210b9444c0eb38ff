"""Duplicates: images with the same pixels, and images that look the same, even if rotated, mirrored or cropped.

Every pair is compared in 8 orientations, and each image with 4 crops of every other. First the Hamming distance of
64-bit perceptual hashes is compared, then the thumbnails of pairs with a small distance, in color and in gray. The cost
is 8 N^2 integer operations, whatever the images look like (`benchmarks/near_duplicates.py`).
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
LIKENESS = 0.945  # least correlation of thumbnails, which allows cropping and recoloring
TURNED = 0.98  # least correlation of rotated or mirrored thumbnails: chance has seven tries at each pair
CROPPED = 0.983  # least correlation of the lowest frequencies of a crop: chance has 18 tries
# least correlation of ranks: crops of photos have at least 0.977; the same shape elsewhere on noise has up to 0.945
RANKED = 0.95
# Some images resemble many others by nature, such as the digit 1. An image counts as one of them if its hash is near
# those of more than CROWD others that do not look like it. Its pairs are listed only if they are not rotated and have a
# correlation of at least SAME.
CROWD = 3
SAME = 0.99
FLAT = 2  # a thumbnail with a smaller standard deviation has too little detail to compare
ROWS, COLUMNS = 64, 4096  # hashes compared at once: 2 MB of integers, which fit in a processor's cache
MAX_PAIRS = 200_000  # limit on pairs with near hashes whose thumbnails are compared


@dataclass(frozen=True)
class Pair:
    """Two images that look the same, by index, a < b. `turned` says how b is rotated or mirrored (see TURNS)."""

    a: int
    b: int
    likeness: float
    turned: str


@dataclass(frozen=True)
class LookAlikes:
    """Pairs that look the same, and facts about pairs that are not listed.

    `crowded` counts the images that resemble many others (see CROWD). If over MAX_PAIRS pairs have near hashes, as in
    the frames of a film, only pairs that differ in at most `reach` bits were compared. A `reach` of -1 means that over
    MAX_PAIRS pairs have the same hash, and each image was compared only with the next one. `crops_reach` is the same
    for crops; -1 means that none was compared.
    """

    pairs: tuple[Pair, ...] = ()
    crowded: int = 0
    reach: int = DISTANCE
    crops_reach: int = DISTANCE


def same_pixels(inspections: Sequence[Inspection]) -> list[list[int]]:
    """Groups of two or more images with the same decoded pixels."""
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(inspections):
        if row.pixels:
            groups.setdefault(row.pixels, []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def look_alikes(inspections: Sequence[Inspection]) -> LookAlikes:
    """Pairs that look the same but do not have the same pixels."""
    index = np.array([i for i, row in enumerate(inspections) if row.thumb], np.int64)
    thumbs = np.frombuffer(b"".join(inspections[i].thumb for i in index), np.uint8).reshape(-1, THUMB, THUMB, 3)
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
            if (a, b) not in best and inspections[a].pixels != inspections[b].pixels:
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
    """All pairs (i, j), i < j, for which hashes[i] and others[turn, j] differ in at most `reach` bits.

    `others` are the hashes of the same images, rotated or cropped; with `both_ways`, pairs with i > j are included.
    `reach` is DISTANCE, or less if that gives over MAX_PAIRS pairs. degrees[i] counts the images whose hashes in
    others[0] are near to i.
    """

    def __init__(self, hashes: np.ndarray, others: np.ndarray, *, both_ways: bool = False) -> None:
        self.reach = DISTANCE
        self.degrees = np.zeros(len(hashes), np.int64)
        self.turns = len(others)
        self._hashes = hashes
        self._both_ways = both_ways
        self._near: list[np.ndarray] = []  # (4, P): turns, rows, columns, distances
        self._count = 0
        self._lock = Lock()
        with ThreadPoolExecutor() as pool:
            for turn, turned in enumerate(others):
                list(pool.map(partial(self._compare, turn, turned), chunks(len(turned), ROWS)))
        if self.reach < 0 and not both_ways:
            order = np.argsort(hashes, kind="stable")
            same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
            none = np.zeros(len(same), np.int64)
            self._near = [np.stack([none, order[same], order[same + 1], none])]

    def pairs(self, turn: int) -> tuple[np.ndarray, np.ndarray]:
        """(P,) rows and (P,) columns of the pairs that are near in that orientation, in order."""
        near = np.concatenate([np.empty((4, 0), np.int64), *self._near], axis=1)
        near = near[:, near[0] == turn]
        order = np.lexsort((near[2], near[1]))
        return near[1, order], near[2, order]

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
                near = np.stack(
                    [np.full(len(rows), turn), rows + part.start, columns + start, distances[rows, columns]]
                )
                self._keep(near, slice(part.start, part.start + ROWS), slice(start, start + COLUMNS))

    def _keep(self, near: np.ndarray, rows: slice, columns: slice) -> None:
        """Count and store the pairs (4, P) of these rows and columns."""
        with self._lock:
            if len(near[0]) and near[0, 0] == 0:
                for axis, part in ((1, rows), (2, columns)):
                    degrees = self.degrees[part]
                    degrees += np.bincount(near[axis] - part.start, minlength=len(degrees))
            within = near[3] <= self.reach
            self._near.append(near[:, within])
            self._count += int(within.sum())
            while self._count > MAX_PAIRS and self.reach >= 0:
                self.reach -= 1
                stored = np.concatenate(self._near, axis=1)
                self._near = [stored[:, stored[3] <= self.reach]]
                self._count = self._near[0].shape[1]


def _likeness(thumbs: np.ndarray, rows: np.ndarray, columns: np.ndarray, turn: int) -> np.ndarray:
    """(P,) the larger of the thumbnails' correlations in color and in gray, with the second one turned; in [-1, 1]."""
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
    """(P,) correlations of two arrays (P, ...)."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    correlation: np.ndarray = (a * b).sum(axis=1) / np.maximum(scale, 1e-6)
    return correlation
