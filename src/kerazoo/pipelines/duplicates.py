"""Duplicates: pictures whose pixels are the same, and pictures that look the same.

Every pair is looked at: 64-bit perceptual hashes are compared by their Hamming distance, and what is near is compared
by thumbnails. The cost is that of N^2 / 2 operations on whole numbers, whatever the pictures look like
(`benchmarks/near_duplicates.py`).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from kerazoo.pipelines.inspection import THUMB, Inspection, chunks

DISTANCE = 10  # bits of 63
LIKENESS = 0.97  # correlation of thumbnails
ROWS, COLUMNS = 64, 4096  # hashes compared at once: 2 MB of whole numbers, which stay in a processor's cache
MAX_PAIRS = 200_000


@dataclass(frozen=True)
class Pair:
    """Two pictures, by index, a < b, that look the same: as they are, or when one is `mirrored`."""

    a: int
    b: int
    likeness: float
    mirrored: bool


def same_pixels(found: Sequence[Inspection]) -> list[list[int]]:
    """Groups of two or more pictures with the same decoded pixels."""
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(found):
        if row.pixels:
            groups.setdefault(row.pixels, []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def look_alikes(found: Sequence[Inspection]) -> tuple[list[Pair], bool]:
    """Pairs that look the same but do not have the same pixels, and whether these are all.

    Where more than MAX_PAIRS have near hashes (the frames of a film, say), only the first are looked at.
    """
    index = np.array([i for i, row in enumerate(found) if row.hash is not None], np.int64)
    if len(index) < 2:
        return [], True
    hashes = np.array([found[i].hash for i in index], np.uint64)
    mirrored = np.array([found[i].mirrored for i in index], np.uint64)
    thumbs = np.frombuffer(b"".join(found[i].thumb for i in index), np.uint8).reshape(len(index), -1)
    pairs, complete = [], True
    for others, is_mirrored in ((hashes, False), (mirrored, True)):
        rows, columns, all_of_them = _near(hashes, others)
        complete &= all_of_them
        likeness = _likeness(thumbs, rows, columns, is_mirrored)
        for a, b, value in zip(rows.tolist(), columns.tolist(), likeness.tolist(), strict=True):
            first, second = int(index[a]), int(index[b])
            if value >= LIKENESS and found[first].pixels != found[second].pixels:
                pairs.append(Pair(first, second, value, is_mirrored))
    straight = {(pair.a, pair.b) for pair in pairs if not pair.mirrored}
    return [pair for pair in pairs if not pair.mirrored or (pair.a, pair.b) not in straight], complete


def _near(hashes: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """(i, j), i < j, where hashes[i] and others[j] differ in at most DISTANCE bits, and whether these are all."""

    def compare(part: slice) -> tuple[np.ndarray, np.ndarray]:
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for start in range(part.start, len(others), COLUMNS):
            near = np.bitwise_count(hashes[part, None] ^ others[None, start : start + COLUMNS]) <= DISTANCE
            if near.any():
                rows, columns = np.nonzero(near)
                found.append((rows + part.start, columns + start))
                if sum(len(rows) for rows, _ in found) > 2 * MAX_PAIRS:
                    break
        rows, columns = (np.concatenate([pair[side] for pair in found] or [np.empty(0, int)]) for side in (0, 1))
        return rows[columns > rows], columns[columns > rows]

    parts: list[tuple[np.ndarray, np.ndarray]] = []
    with ThreadPoolExecutor() as pool:
        for part in pool.map(compare, chunks(len(hashes), ROWS)):
            parts.append(part)
            if sum(len(rows) for rows, _ in parts) > MAX_PAIRS:
                pool.shutdown(wait=False, cancel_futures=True)
                break
    rows, columns = (np.concatenate(values)[:MAX_PAIRS] for values in zip(*parts, strict=True))
    return rows, columns, sum(len(rows) for rows, _ in parts) <= MAX_PAIRS


def _likeness(thumbs: np.ndarray, rows: np.ndarray, columns: np.ndarray, mirrored: bool) -> np.ndarray:
    """(P,) correlation of the pairs' thumbnails, in [-1, 1]."""
    values = np.empty(len(rows), np.float32)
    for part in chunks(len(rows), 4096):
        a = thumbs[rows[part]].astype(np.float32)
        b = thumbs[columns[part]].astype(np.float32)
        if mirrored:
            b = b.reshape(-1, THUMB, THUMB, 3)[:, :, ::-1].reshape(len(b), -1)
        a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
        scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
        values[part] = (a * b).sum(axis=1) / np.maximum(scale, 1e-6)
    return values
