"""Arrays with a row for each image, in `.npy` files that are mapped into memory.

The CRC-32 of each row follows the array. They are compared once, when the file is opened. Rows are then read at the
speed of memory.
"""

import io
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np

from kerazoo.caches import sweep
from kerazoo.errors import KerazooError
from kerazoo.files import write_whole

AT_ONCE = 64  # rows whose checksums a thread computes


def open_rows(path: Path, shape: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray | None:
    """The array at `path`; None if it is missing, is damaged, or has another shape or type."""
    try:
        rows: np.memmap = np.lib.format.open_memmap(path, mode="r")
        if rows.shape != shape or rows.dtype != dtype:
            return None
        checksums = np.fromfile(path, "<u4", offset=rows.offset + rows.nbytes)
    except (OSError, ValueError, EOFError):
        return None
    return rows if np.array_equal(checksums, _checksums(rows)) else None


def write_rows(path: Path, shape: tuple[int, ...], blocks: Iterator[np.ndarray], dtype: type = np.uint8) -> np.ndarray:
    """Write `blocks` of rows under a temporary name, rename it, and return it. Two processes may do so at once.

    Raises KerazooError if the disk is full.
    """
    sweep(path.parent)
    header = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, description)
    try:
        # do not write through a memory map: a full disk would kill the process
        # the checksums show what a power cut damaged, so it need not wait for the disk
        write_whole(path, chain([header.getvalue()], _with_checksums(blocks)), sync=False)
    except OSError as error:
        raise KerazooError(
            f"{path} cannot be written: {error.strerror}; free some disk space, set KERAZOO_CACHE to another folder, "
            "or train without a cache with data.cache=never"
        ) from error
    written: np.ndarray = np.load(path, mmap_mode="r")
    return written


def _checksums(rows: np.ndarray) -> np.ndarray:
    """(N,) uint32: the CRC-32 of each row. It uses threads because `zlib` releases the interpreter lock."""
    with ThreadPoolExecutor() as pool:
        parts = [rows[first : first + AT_ONCE] for first in range(0, len(rows), AT_ONCE)]
        sums = pool.map(lambda part: [zlib.crc32(np.ascontiguousarray(row).data) for row in part], parts)
        return np.array([one for part in sums for one in part], "<u4")


def _with_checksums(blocks: Iterator[np.ndarray]) -> Iterator[bytes]:
    """The bytes of the rows, then of their checksums."""
    sums = []
    for rows in blocks:
        sums += [zlib.crc32(row) for row in rows]
        yield rows.tobytes()
    yield np.array(sums, "<u4").tobytes()
