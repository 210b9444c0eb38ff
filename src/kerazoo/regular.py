"""Regular files, and no others, to read: a named pipe waits for ever, and devices such as /dev/zero have no end."""

import errno
import io
import os
import stat
from pathlib import Path

from kerazoo.caches import in_words

MAX_BYTES = 256_000_000  # of an image's file, which is read into memory whole; a camera's JPEG has up to 60 MB


class NotRegular(OSError):
    """A named pipe, a device, a socket or a folder where a file was expected."""


class TooLarge(OSError):
    """A file of `size` bytes, which are more than are read into memory."""

    def __init__(self, path: str | Path, size: int, limit: int) -> None:
        words = f"the file has {in_words(size)}, and an image may have {in_words(limit)}"
        super().__init__(errno.EFBIG, words, str(path))
        self.size = size

    def __str__(self) -> str:
        return str(self.strerror)


def open_regular(path: str | Path) -> io.BufferedReader:
    """Open a regular file for reading; what a link leads to counts. Reading it ends.

    Raises NotRegular for pipes, devices, sockets and folders, without waiting for anybody to write into them, and
    OSError. Reading a pipe waits for ever, and devices such as /dev/zero have no end.
    """
    check_regular(path, Path(path).stat().st_mode)  # before it is opened: opening a device can act on it
    # without O_NONBLOCK, opening a pipe waits for a writer; for regular files it changes nothing
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        check_regular(path, os.fstat(number).st_mode)
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def check_regular(path: str | Path, mode: int) -> None:
    """Raise NotRegular where the `st_mode` of `path` is not that of a regular file."""
    if not stat.S_ISREG(mode):
        word = next((word for is_kind, word in KINDS if is_kind(mode)), "a special file")
        raise NotRegular(errno.EINVAL, f"it is {word}; only regular files are read", str(path))


KINDS = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip


def read_regular(path: str | Path, limit: int = MAX_BYTES) -> tuple[bytes, os.stat_result]:
    """The bytes of a regular file, and its status. Raises NotRegular, TooLarge (over `limit` bytes), and OSError."""
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        contents = (file.read(limit + 1) or b"") if status.st_size <= limit else b""
        if status.st_size > limit or len(contents) > limit:
            raise TooLarge(path, max(status.st_size, len(contents)), limit)
        return contents, status
