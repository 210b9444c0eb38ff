"""Read encoded images into memory. Pipes, devices and files that are too large are refused."""

import errno
import os
from pathlib import Path

from kerazoo.errors import DataError
from kerazoo.files import open_regular
from kerazoo.terminal import format_bytes

EMPTY = "it is empty"
MAX_ENCODED = 256_000_000  # bytes of an image file; a camera's JPEG has up to 60 MB


class TooLargeError(OSError):
    """An image file whose `size` in bytes is above the limit."""

    def __init__(self, path: str | Path, size: int) -> None:
        words = f"the file has {format_bytes(size)}, but an image may have at most {format_bytes(MAX_ENCODED)}"
        super().__init__(errno.EFBIG, words, str(path))
        self.size = size

    def __str__(self) -> str:
        return str(self.strerror)


def read_encoded(path: Path) -> bytes:
    """The bytes of an image file. Raises DataError."""
    try:
        contents = read_image(path)[0]
    except OSError as error:
        raise DataError(f"it cannot be read: {error.strerror}") from error
    if not contents:
        raise DataError(EMPTY)
    return contents


def read_image(path: str | Path) -> tuple[bytes, os.stat_result]:
    """The bytes of an image file, and its status. Raises NotRegularError, OSError or TooLargeError."""
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        contents = (file.read(MAX_ENCODED + 1) or b"") if status.st_size <= MAX_ENCODED else b""
        if status.st_size > MAX_ENCODED or len(contents) > MAX_ENCODED:
            raise TooLargeError(path, max(status.st_size, len(contents)))
        return contents, status
