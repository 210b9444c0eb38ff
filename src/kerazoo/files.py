"""Files: written whole or not at all, read only where reading ends; JSON, sha256, and locks."""

import errno
import hashlib
import io
import json
import logging
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerazoo.errors import RunError

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger("kerazoo")


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a full disk, or a quota, answers
WAY_OUT = "restore it from a copy, or make it anew under another name"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what a file system without locks answers
LOCKED = "only regular files and folders are locked; remove it"
TEMPORARY = ".tmp"  # the ending of what is being written; a killed process leaves NAME.PID.tmp


def write_whole(path: Path, content: str | bytes | Iterable[bytes | memoryview], *, sync: bool = True) -> None:
    """Write `content` to `path` whole or not at all, even if the process is killed or the disk is full.

    It is written under a temporary name, forced to the disk, then renamed. `sync=False` leaves out the forcing, for
    files that nothing depends on. Characters that UTF-8 does not have (names of files can hold them) become \\udcXX.
    Raises OSError, which names `path`, and then leaves it as it was.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")
    with replacing(path, sync=sync) as temporary, temporary.open("wb") as file:
        for block in (content,) if isinstance(content, bytes) else content:
            file.write(block)


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """A temporary name beside `path`, for what writes files by itself; at the end the file there becomes `path`.

    Where the body fails, nothing is left of it and `path` is as it was. Raises OSError, which names `path`.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        yield temporary
        put(temporary, path, sync=sync)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
            error.filename2 = None
        raise


def put(written: Path, path: Path, *, sync: bool = True) -> None:
    """Give the file `written`, which is whole, the name `path`, once it is on the disk. Raises OSError."""
    if sync:
        with written.open("r+b") as file:
            os.fsync(file.fileno())
    written.replace(path)


def write_array(path: Path, array: "np.ndarray") -> None:
    """Write `array` as .npy, whole or not at all. Raises OSError."""
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_whole(path, buffer.getvalue())


def write_json(path: Path, values: Any) -> None:
    """Write `values` as JSON, whole or not at all. Raises OSError."""
    write_whole(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises RunError if it is missing or broken.

    Pipes and devices, which have no end, are refused before they are opened.
    """
    try:
        with open_regular(path) as file:
            values = json.loads(file.read().decode("utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"there is no {path}") from error
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}; {WAY_OUT}") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}; {WAY_OUT}") from error
    if not isinstance(values, dict):
        raise RunError(f"{path} does not hold a JSON object; {WAY_OUT}")
    return values


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file. Raises OSError, also for what is not a regular file."""
    return file_hash(path, "sha256")


def file_hash(path: Path, algorithm: str) -> str:
    """The hash of a file, in hex. Raises OSError, also for what is not a regular file."""
    with open_regular(path) as file:
        # keras publishes md5: it finds damage, and is all there is for most files
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def set_aside(path: Path, why: str) -> None:
    """Rename what nothing depends on, so that it can be begun anew, and say so. Raises OSError."""
    aside = path.with_name(f"{path.name}.damaged")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    path.rename(aside)
    log.info(f"{path} cannot be used: {why}; it was renamed {aside.name}, and a new one begins")


def remove_temporary(folder: Path) -> None:
    """Remove what killed processes left half-written in `folder` and below, where no other process writes now."""
    for path in folder.rglob(f"*{TEMPORARY}"):
        with suppress(OSError):
            path.unlink()


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold the lock `path`, a file (which is made) or a folder, within; whether this process has it.

    False where another one has it, unless it is to `wait` for that one. A lock goes with its process, however that
    ends. True where there are no locks: on Windows, and on a file system without them, which the log says. Raises
    NotRegularError where `path` is a pipe or a device, without waiting for anybody, and OSError.
    """
    if os.name == "nt" and path.is_dir():  # folders cannot be opened there
        yield True
        return
    descriptor = _open_lock(path, make=True)
    try:
        yield _lock(descriptor, path, wait=wait)
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock `path`, which need not exist. Raises NotRegularError, and OSError."""
    try:
        descriptor = _open_lock(path, make=False)
    except FileNotFoundError:
        return False
    try:
        return not _lock(descriptor, path, wait=False)
    finally:
        os.close(descriptor)


def _open_lock(path: Path, *, make: bool) -> int:
    folder = path.is_dir()
    flags = os.O_RDONLY if folder else os.O_RDWR | (os.O_CREAT if make else 0)
    if not folder:
        with suppress(FileNotFoundError):  # before it is opened: opening a device can act on it
            check_regular(path, path.stat().st_mode, LOCKED)
    descriptor = os.open(path, flags | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0), 0o666)
    try:
        if not folder:
            check_regular(path, os.fstat(descriptor).st_mode, LOCKED)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int, path: Path, *, wait: bool) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        log.info(f"{path} cannot be locked ({error.strerror}); make sure that no other process works there")
    return True


class NotRegularError(OSError):
    """A named pipe, a device, a socket or a folder where a file was expected."""


class DamagedError(Exception):
    """What is wrong with the contents of a file, in one line; whoever catches it names the file."""


def open_regular(path: str | Path) -> io.BufferedReader:
    """Open a regular file for reading; what a link leads to counts. Reading it ends.

    Raises NotRegularError for pipes, devices, sockets and folders, without waiting for anybody to write into them, and
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


def check_regular(path: str | Path, mode: int, rule: str = "only regular files are read") -> None:
    """Raise NotRegularError where the `st_mode` of `path` is not that of a regular file."""
    if not stat.S_ISREG(mode):
        word = next((word for is_kind, word in KINDS if is_kind(mode)), "a special file")
        raise NotRegularError(errno.EINVAL, f"it is {word}; {rule}", str(path))


KINDS = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip
