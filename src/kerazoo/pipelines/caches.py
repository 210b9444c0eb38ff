"""Room for what the pipelines keep below the cache folder."""

import shutil
import time
from contextlib import suppress
from pathlib import Path

from kerazoo.caches import cache_folder, in_words
from kerazoo.errors import DataError

__all__ = ["cache_folder", "in_words", "room_for", "sweep"]

FREE = 0.9  # share of the free disk that one cache may take
A_DAY = 86_400  # seconds


def room_for(folder: Path, size: int, what: str, share: float | None = None) -> None:
    """Raise DataError where `size` bytes are more than what is free for `what` below `folder`."""
    free = shutil.disk_usage(folder if folder.is_dir() else folder.parent).free
    if size > (share or FREE) * free:
        raise DataError(
            f"{what} take {in_words(size)}, and {folder.parent} has {in_words(free)} free; "
            "make room, or name another folder by KERAZOO_CACHE"
        )


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written in `folder`, once it is a day old."""
    for left in folder.glob("*.tmp"):
        with suppress(OSError):  # another process was faster, or it is another user's
            if time.time() - left.stat().st_mtime > A_DAY:
                left.unlink()
