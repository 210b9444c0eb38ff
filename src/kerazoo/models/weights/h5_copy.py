"""Read a weights file (HDF5) and copy it. `weights_file.py` runs this script, with a time limit:

    python -P h5_copy.py FILE COPY NUMBERS BYTES SECONDS

It prints one JSON object: {"error": line}, or {"legacy": whether FILE has the format of the published files, "arrays":
[[name, shape], ...], "copied": bool}. Only if its arrays have at most NUMBERS numbers is FILE read and copied to COPY.
BYTES and SECONDS limit the memory and the processor time. If a file makes HDF5 hang, crash or fill the memory, this
affects only this process, which imports nothing heavier than h5py.
"""

import json
import sys
from typing import Any

import h5py

MAX_OBJECTS = 20_000  # groups and arrays; the largest published network has about 2,000
MAX_DEPTH = 32
MAX_ATTRIBUTES = 1_000  # attributes of one object
MAX_NAME = 300  # characters that are printed
OPTIMIZER = ("optimizer", "optimizer_weights")  # optimizer state in the two formats; it may be larger than the weights
PLAIN = "biuf"  # numpy's codes for booleans and numbers
BFLOAT16 = "|V2"


class RefusedError(Exception):
    """The file contains something that no weights file has."""


class Copy:
    """Walk through `source`, first to list its arrays, then to write them to another file."""

    def __init__(self, source: h5py.File) -> None:
        self.source = source
        self.arrays: list[tuple[str, tuple[int, ...]]] = []
        self._visited = 0

    @property
    def legacy(self) -> bool:
        """Whether the file is in the format that Keras publishes weights in."""
        return "layer_names" in self.source.attrs

    def look(self) -> int:
        """List every array, and return the total number of numbers. It reads no array."""
        numbers = 0
        for name, item in self._walk(self.source, "", 0):
            if isinstance(item, h5py.Dataset):
                if (item.dtype.kind not in PLAIN and item.dtype.str != BFLOAT16) or item.shape is None:
                    raise RefusedError(f"{name[:MAX_NAME]!r} does not contain numbers")
                if item.external or item.is_virtual:
                    raise RefusedError(f"the numbers of {name[:MAX_NAME]!r} are in another file")
                self.arrays.append((name, tuple(item.shape)))
                numbers += int(item.size)
        return numbers

    def write(self, target: h5py.File) -> None:
        """Write everything that `look` listed to `target`."""
        self._visited = 0
        _copy_attributes(self.source, target)
        for name, item in self._walk(self.source, "", 0):
            if isinstance(item, h5py.Group):
                copy = target.create_group(name)
            else:
                copy = target.create_dataset(name, data=item[()], dtype=item.dtype)
            _copy_attributes(item, copy)

    def _walk(self, group: h5py.Group, prefix: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise RefusedError(f"its groups are nested more than {MAX_DEPTH} deep")
        for key in group:
            if not depth and key in OPTIMIZER:
                continue
            self._visited += 1
            if self._visited > MAX_OBJECTS:
                raise RefusedError(f"it contains more than {MAX_OBJECTS:,} objects")
            name = f"{prefix}{key}"
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise RefusedError(f"{name[:MAX_NAME]!r} is a link")
            item = group[key]
            if not isinstance(item, h5py.Group | h5py.Dataset):
                raise RefusedError(f"{name[:MAX_NAME]!r} is neither a group nor an array")
            yield name, item
            if isinstance(item, h5py.Group):
                yield from self._walk(item, f"{name}/", depth + 1)


def _copy_attributes(source: Any, target: Any) -> None:
    if len(source.attrs) > MAX_ATTRIBUTES:
        raise RefusedError(f"an object has more than {MAX_ATTRIBUTES:,} attributes")
    for key in source.attrs:
        kind = source.attrs.get_id(key).dtype
        if kind.kind not in PLAIN + "SU" and h5py.check_string_dtype(kind) is None:
            raise RefusedError(f"the attribute {key[:MAX_NAME]!r} is neither text nor numbers")
        target.attrs.create(key, source.attrs[key], dtype=kind)


def limit(size: int, seconds: int) -> None:
    """Limit this process to `size` more bytes and `seconds` of processor time, if the system can do so.

    The time limit is for the case that the waiting process is killed.
    """
    try:
        import resource
        from pathlib import Path

        _lower(resource.RLIMIT_CPU, seconds)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + size)
    except (ImportError, OSError):  # Windows, macOS
        return


def _lower(which: int, most: int) -> None:
    import resource

    soft, hard = resource.getrlimit(which)
    if soft == resource.RLIM_INFINITY or soft > most:
        resource.setrlimit(which, (most, hard))


def main(source: str, target: str, numbers: int, size: int, seconds: int) -> dict[str, Any]:
    """The object to print."""
    limit(size, seconds)
    try:
        with h5py.File(source, "r") as file:
            copy = Copy(file)
            copied = copy.look() <= numbers
            if copied:
                with h5py.File(target, "w") as target_file:
                    copy.write(target_file)
            arrays = [(name[:MAX_NAME], shape) for name, shape in copy.arrays]
            return {"legacy": copy.legacy, "arrays": arrays, "copied": copied}
    except RefusedError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": f"reading it needs more than {size // 1_000_000:,} MB"}
    except Exception as error:  # h5py raises many kinds for damaged tables
        return {"error": " ".join(str(error).split())[:200] or type(error).__name__}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]))))
