"""Where caches lie: what can be made or fetched again is kept below one folder.

The folder is `$KERAZOO_CACHE`, else `$XDG_CACHE_HOME/kerazoo`, else `~/.cache/kerazoo`. It can be removed at any time.
"""

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from kerazoo.errors import DataError
from kerazoo.terminal import format_bytes


def cache_path(*parts: str) -> Path:
    """Where the cache `parts` lies, whether it exists or not."""
    root = os.environ.get("KERAZOO_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "kerazoo"
    return Path(root).expanduser().joinpath(*parts)


def cache_folder(*parts: str) -> Path:
    """A folder for caches, which exists. Raises DataError where it cannot be made."""
    folder = cache_path(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made: {error.strerror}; name another folder by KERAZOO_CACHE") from error
    return folder


FREE = 0.9  # share of the free disk that one cache may take
A_DAY = 86_400  # seconds


def room_for(folder: Path, size: int, what: str, share: float | None = None) -> None:
    """Raise DataError where `size` bytes are more than what is free for `what` below `folder`."""
    free = shutil.disk_usage(folder if folder.is_dir() else folder.parent).free
    if size > (share or FREE) * free:
        raise DataError(
            f"{what} take {format_bytes(size)}, and {folder.parent} has {format_bytes(free)} free; "
            "make room, or name another folder by KERAZOO_CACHE"
        )


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written in `folder`, once it is a day old."""
    for left in folder.glob("*.tmp"):
        with suppress(OSError):  # another process was faster, or it is another user's
            if time.time() - left.stat().st_mtime > A_DAY:
                left.unlink()
