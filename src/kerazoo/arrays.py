"""Read arrays from files that may be damaged or hostile. The headers are checked before anything is read."""

import math
import os
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from kerazoo.errors import RunError
from kerazoo.files import DamagedError
from kerazoo.terminal import format_bytes

SHARE = 0.8  # share of the machine's memory that the arrays of one file may use


def read_answers(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 array in the .npy file `path` of a run. Raises RunError if it is damaged or has another shape."""
    try:
        if not path.is_file():
            raise DamagedError("there is no such file" if not path.exists() else "it is not a regular file")
        with path.open("rb") as file:
            stored_shape, dtype = _header(file)
            size = path.stat().st_size - file.tell()
            if (stored_shape, dtype.kind) != (shape, "f") or size != math.prod(shape) * dtype.itemsize:
                raise DamagedError(f"it must have {shape} numbers, got {stored_shape} {dtype} in {size:,} bytes")
            file.seek(0)
            array: np.ndarray = np.load(file, allow_pickle=False)
            return array
    except Exception as error:  # reading a header can raise many errors, of which numpy documents one
        raise RunError(f"{path} cannot be used: {_line(error)}; restore it from a copy, or train again") from error


def read_archive(path: Path) -> dict[str, np.ndarray]:
    """The arrays in the .npz file `path`. Raises DamagedError, before reading if they are too large for the memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if len({member.filename for member in members}) < len(members):
                raise DamagedError("two arrays have the same name")
            most = _memory()
            total = sum(member.file_size for member in members)
            if most is not None and total > most:
                raise DamagedError(
                    f"its arrays need {format_bytes(total)}, but only {format_bytes(most)} of memory may be used"
                )
            return {member.filename.removesuffix(".npy"): _member(archive, member) for member in members}
    except DamagedError:
        raise
    except Exception as error:  # zip files and array headers can raise many errors
        raise DamagedError(_line(error)) from error


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    name = member.filename[:100]
    with archive.open(member) as file:
        shape, dtype = _header(file)
        size = member.file_size - file.tell()
    if math.prod(shape) * dtype.itemsize != size:
        raise DamagedError(f"the header of {name!r} announces {shape} {dtype}, but {size:,} bytes follow")
    with archive.open(member) as file:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
        return array


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise DamagedError("it contains Python objects, which are never read; use an array of numbers or text")
    if min(shape, default=0) < 0:
        raise DamagedError(f"its header announces the shape {shape}")
    return shape, dtype


def _memory() -> int | None:
    try:
        return int(SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
