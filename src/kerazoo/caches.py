"""The folder of caches, for files that can be computed or fetched again.

It is `$KERAZOO_CACHE`, else `$XDG_CACHE_HOME/kerazoo`, else `~/.cache/kerazoo`. It can be removed at any time.
"""

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from kerazoo.errors import DataError
from kerazoo.terminal import format_bytes


def cache_path(*parts: str) -> Path:
    """The path of the cache `parts`, whether it exists or not."""
    root = os.environ.get("KERAZOO_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "kerazoo"
    return Path(root).expanduser().joinpath(*parts)


def cache_folder(*parts: str) -> Path:
    """The folder of the cache `parts`, which is created. Raises DataError if it cannot be created."""
    folder = cache_path(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be created: {error.strerror}; set KERAZOO_CACHE to another folder") from error
    return folder


FREE = 0.9  # share of the free disk that one cache may use
A_DAY = 86_400  # seconds


def room_for(folder: Path, size: int, what: str, share: float | None = None) -> None:
    """Raise DataError if there is not enough free space below `folder` for `size` bytes of `what`."""
    free = shutil.disk_usage(folder if folder.is_dir() else folder.parent).free
    if size > (share or FREE) * free:
        raise DataError(
            f"{what} need {format_bytes(size)}, but {folder.parent} has only {format_bytes(free)} free; "
            "free some disk space, or set KERAZOO_CACHE to another folder"
        )


def sweep(folder: Path, files: str = "*.tmp") -> None:
    """Remove `files` of `folder` that are older than a day; by default, temporary ones that killed processes left."""
    for path in folder.glob(files):
        with suppress(OSError):  # another process removed it first, or it belongs to another user
            if time.time() - path.stat().st_mtime > A_DAY:
                path.unlink()
