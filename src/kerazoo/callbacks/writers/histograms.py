"""Histograms in NPZ files: blocks, each written whole, so that one every step is cheap and a kill damages none."""

import io
import logging
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kerazoo.callbacks.writers.tags import is_kept
from kerazoo.files import set_aside, write_whole

log = logging.getLogger("kerazoo")

FOLDER = "histograms"
PATTERN = "[0-9][0-9][0-9][0-9][0-9][0-9].npz"
NUMBERS = 1 << 20  # counts that are gathered in memory before a block is written
DAMAGED = (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile)


class Histogram(NamedTuple):
    """`counts` (N,) of the values between neighbors of `edges` (N + 1,), after `step`."""

    step: int
    counts: np.ndarray
    edges: np.ndarray


def read_histograms(folder: str | Path) -> dict[str, list[Histogram]]:
    """The histograms that a `FolderWriter` wrote into `folder`: tag -> those of each step, in order.

    Files that cannot be read are left out, and the log says so.

    Example:
    ```python
    for tag, histograms in read_histograms("log").items():
        print(tag, [histogram.step for histogram in histograms])
    ```
    """
    read: dict[str, list[Histogram]] = {}
    for path in sorted((Path(folder) / FOLDER).glob(PATTERN)):
        try:
            records = list(decode(path.read_bytes()))
        except DAMAGED as error:
            log.info(f"{path} cannot be read and is left out: {' '.join(str(error).split())[:200]}")
            continue
        for tag, histogram in records:
            read.setdefault(tag, []).append(histogram)
    for histograms in read.values():
        histograms.sort(key=lambda histogram: histogram.step)
    return read


def encode(records: Iterable[tuple[str, Histogram]]) -> bytes:
    """The bytes of an NPZ file, in which each tag and each array of edges is kept once.

    `tags` (T,) are the names. Of the K histograms, `tag` (K,) is the index of the name, `step` (K,) the step; its
    counts are the part of `counts` that ends at `count_end` (K,). `edge` (K,) is the index of its edges, which are the
    part of `edges` that ends at `edge_end` (E,).
    """
    tags: dict[str, int] = {}
    edges: dict[bytes, int] = {}
    kept: list[np.ndarray] = []
    rows: list[tuple[int, int, int]] = []
    counts: list[np.ndarray] = []
    for tag, histogram in records:
        values = np.asarray(histogram.edges, np.float64)
        key = values.tobytes()
        if key not in edges:
            edges[key] = len(kept)
            kept.append(values)
        rows.append((tags.setdefault(tag, len(tags)), histogram.step, edges[key]))
        counts.append(np.asarray(histogram.counts))
    table = np.array(rows, np.int64).reshape(-1, 3)
    file = io.BytesIO()
    np.savez_compressed(
        file,
        tags=np.array(list(tags), np.str_), tag=table[:, 0], step=table[:, 1], edge=table[:, 2],
        counts=_small(np.concatenate([np.zeros(0, np.int64), *counts])), count_end=np.cumsum([len(c) for c in counts]),
        edges=np.concatenate([np.zeros(0), *kept]), edge_end=np.cumsum([len(values) for values in kept]),
    )  # fmt: skip
    return file.getvalue()


def decode(data: bytes) -> Iterator[tuple[str, Histogram]]:
    """What `encode` was given. Raises one of DAMAGED for other bytes."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    tags = [str(tag) for tag in arrays["tags"]]
    counts = np.split(arrays["counts"], arrays["count_end"].astype(np.int64))
    edges = np.split(arrays["edges"], arrays["edge_end"].astype(np.int64))
    for row, (tag, step, edge) in enumerate(zip(arrays["tag"], arrays["step"], arrays["edge"], strict=True)):
        yield tags[tag], Histogram(int(step), counts[row], edges[edge])


def _small(counts: np.ndarray) -> np.ndarray:
    """Whole numbers in as few bytes as hold them; others as they are."""
    if not len(counts) or counts.min() < 0 or not np.array_equal(counts, np.floor(counts)):
        return counts
    return counts.astype(np.min_scalar_type(int(counts.max())))


class HistogramBlocks:
    """The blocks in a folder: `000001.npz`, `000002.npz`, ..."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records: list[tuple[str, Histogram]] = []
        self._numbers = 0

    def add(self, tag: str, counts: np.ndarray, edges: np.ndarray, step: int) -> None:
        """Keep one, of which a copy is made; a full block is written."""
        if len(edges) != len(counts) + 1:
            raise ValueError(f"a histogram has one edge more than counts, got {len(edges)} and {len(counts)} of {tag}")
        self._records.append((tag, Histogram(step, np.array(counts), np.array(edges, np.float64))))
        self._numbers += len(counts)
        if self._numbers >= NUMBERS:
            self.write()

    def write(self) -> None:
        """Write what was kept since the last block. Raises OSError."""
        if not self._records:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        numbers = [int(path.stem) for path in self.folder.glob(PATTERN)]
        path = self.folder / f"{max(numbers, default=0) + 1:06d}.npz"
        write_whole(path, encode(self._records), sync=False)
        self._records = []
        self._numbers = 0

    def clear(self) -> None:
        """Remove all blocks."""
        for path in self.folder.glob(PATTERN):
            path.unlink()

    def rewind(self, step: int, epoch: int) -> None:
        """Remove what was written of later steps and epochs."""
        self.write()
        for path in sorted(self.folder.glob(PATTERN)):
            try:
                records = list(decode(path.read_bytes()))
            except DAMAGED as error:
                set_aside(path, " ".join(str(error).split())[:200])
                continue
            kept = [(tag, histogram) for tag, histogram in records if is_kept(tag, histogram.step, step, epoch)]
            if not kept:
                path.unlink()
            elif len(kept) < len(records):
                write_whole(path, encode(kept), sync=False)
