"""Where caches lie: what can be made or fetched again is kept below one folder.

The folder is `$KERAZOO_CACHE`, else `$XDG_CACHE_HOME/kerazoo`, else `~/.cache/kerazoo`. It can be removed at any time.
"""

import os
from pathlib import Path

from kerazoo.errors import DataError


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


def in_words(size: float) -> str:
    """Bytes for people: 1.5 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
