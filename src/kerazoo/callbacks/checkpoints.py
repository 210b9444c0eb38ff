"""Checkpoint files: the whole state of a training, written whole or not at all, and never believed unseen.

A file is called EPOCH-STEP-DIGEST.ckpt. DIGEST is the beginning of the SHA-256 of its contents, so that a damaged file
tells on itself. It holds 8 bytes, the length of a JSON text (little-endian); the text, which is the state with
{"array": [offset, dtype, shape]} for each array; and the arrays' bytes. Nothing in it is a program.
"""

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kerazoo.files import write_whole

log = logging.getLogger("kerazoo")

NAME = re.compile(r"(\d+)-(\d+)-([0-9a-f]{32})\.ckpt")


def write_checkpoint(folder: str | Path, epoch: int, step: int, state: dict[str, Any], *, keep: int) -> Path:
    """The file that holds `state` (nested dicts and lists of numbers, text, None and arrays); older ones but `keep` go.

    Raises OSError, a full disk for one, and then leaves the older ones as they are.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    for block in _blocks(state):
        digest.update(block)
    path = folder / f"{epoch:06d}-{step:08d}-{digest.hexdigest()[:32]}.ckpt"
    write_whole(path, _blocks(state))
    prune(folder, keep)
    return path


def newest_checkpoint(folder: str | Path, *, aside: bool = False) -> dict[str, Any] | None:
    """The state in the newest file that is whole; None where there is none. A damaged one is named in the log.

    `aside` renames damaged ones to NAME.damaged, so that they do not count among those to keep.
    """
    found = _files(folder)
    for path in reversed(found):
        try:
            contents = path.read_bytes()
            if not path.stem.endswith(hashlib.sha256(contents).hexdigest()[:32]):
                raise ValueError("its contents do not match its checksum")
            return _decode(contents)
        except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError, RecursionError) as error:
            log.info(f"checkpoint {path} is damaged ({error}); going back to the one before")
            if aside:
                with contextlib.suppress(OSError):
                    path.replace(path.with_name(f"{path.name}.damaged"))
    if found:
        log.info("no checkpoint is whole: training starts from the beginning")
    return None


def newest_place(folder: str | Path) -> tuple[int, int] | None:
    """The (epoch, step) in the name of the newest file, both counted from 0; None where there is none."""
    found = _files(folder)
    if not found:
        return None
    epoch, step, _ = found[-1].name.split("-")
    return int(epoch), int(step)


def prune(folder: str | Path, keep: int) -> None:
    """Remove all but the newest `keep`."""
    for path in _files(folder)[:-keep]:
        path.unlink(missing_ok=True)


def _files(folder: str | Path) -> list[Path]:
    """Checkpoint files, the oldest first."""
    return sorted(path for path in Path(folder).glob("*.ckpt") if NAME.fullmatch(path.name) and not path.is_fifo())


def _blocks(state: dict[str, Any]) -> Iterator[bytes | memoryview]:
    """The contents of the file, piece by piece: a large network's state is not copied to be written."""
    arrays: list[np.ndarray] = []
    offset = 0

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): plain(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(inner) for inner in value]
        if isinstance(value, np.ndarray):
            nonlocal offset
            described = {"array": [offset, value.dtype.name, list(value.shape)]}
            arrays.append(value)
            offset += value.nbytes
            return described
        return value.item() if isinstance(value, np.generic) else value

    text = json.dumps(plain(state)).encode()
    yield len(text).to_bytes(8, "little") + text
    for array in arrays:
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _decode(contents: bytes) -> dict[str, Any]:
    start = 8 + int.from_bytes(contents[:8], "little")

    def whole(value: Any) -> Any:
        if isinstance(value, list):
            return [whole(inner) for inner in value]
        if not isinstance(value, dict):
            return value
        if list(value) != ["array"]:
            return {key: whole(inner) for key, inner in value.items()}
        offset, dtype, shape = value["array"]
        # bfloat16 is known to numpy once keras is imported
        flat = np.frombuffer(contents, np.dtype(dtype), int(np.prod(shape)), start + offset)
        return flat.reshape(shape)

    state = whole(json.loads(contents[8:start]))
    if not isinstance(state, dict):
        raise ValueError("it holds no state")
    return state
