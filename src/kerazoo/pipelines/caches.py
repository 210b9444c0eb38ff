"""Where caches lie: what can be made again is kept below one folder.

The folder is `$KERAZOO_CACHE`, else `$XDG_CACHE_HOME/kerazoo`, else `~/.cache/kerazoo`. It can be removed at any time.
"""

import os
import shutil
from pathlib import Path

from kerazoo.errors import DataError

FREE = 0.9  # share of the free disk that one cache may take


def cache_folder(*parts: str) -> Path:
    """A folder for caches, which exists. Raises DataError where it cannot be made."""
    root = os.environ.get("KERAZOO_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "kerazoo"
    folder = Path(root).expanduser().joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made: {error.strerror}; name another folder by KERAZOO_CACHE") from error
    return folder


def room_for(folder: Path, size: int, what: str, share: float | None = None) -> None:
    """Raise DataError where `size` bytes are more than what is free for `what` below `folder`."""
    free = shutil.disk_usage(folder if folder.is_dir() else folder.parent).free
    if size > (share or FREE) * free:
        raise DataError(
            f"{what} take {in_words(size)}, and {folder.parent} has {in_words(free)} free; "
            "make room, or name another folder by KERAZOO_CACHE"
        )


def in_words(size: float) -> str:
    """Bytes for people: 1.5 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
