"""Files: write them completely or not at all, read only regular files; JSON, sha256, and locks."""

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


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the errors of a full disk or a quota
WAY_OUT = "restore it from a copy, or make it again under another name"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # the errors of a file system without locks
LOCKED = "only regular files and folders can be locked; remove it"
TEMPORARY = ".tmp"  # the extension of temporary files; a killed process leaves NAME.PID.tmp


def write_whole(path: Path, content: str | bytes | Iterable[bytes | memoryview], *, sync: bool = True) -> None:
    """Write `content` to `path` completely or not at all, even if the process is killed or the disk is full.

    It is written under a temporary name, synced to the disk, then renamed. Use `sync=False` for files that nothing
    depends on. Characters that UTF-8 does not have, which file names can contain, become \\udcXX. Raises OSError, which
    names `path`, and then does not change `path`.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")
    with replacing(path, sync=sync) as temporary, temporary.open("wb") as file:
        for block in (content,) if isinstance(content, bytes) else content:
            file.write(block)


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """A temporary path beside `path`, for code that writes files itself. At the end, it is renamed to `path`.

    If the body fails, the temporary file is removed and `path` does not change. Raises OSError, which names `path`.
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
    """Sync the complete file `written` to the disk, then rename it to `path`. Raises OSError."""
    if sync:
        with written.open("r+b") as file:
            os.fsync(file.fileno())
    written.replace(path)


def write_array(path: Path, array: "np.ndarray") -> None:
    """Write `array` as .npy, completely or not at all. Raises OSError."""
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_whole(path, buffer.getvalue())


def write_json(path: Path, values: Any) -> None:
    """Write `values` as JSON, completely or not at all. Raises OSError."""
    write_whole(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises RunError if it is missing or broken.

    Pipes and devices are refused before they are opened, because reading them may never end.
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
        raise RunError(f"{path} must contain a JSON object; {WAY_OUT}")
    return values


def sha256(path: Path) -> str:
    """The sha256 of a file, in hex. Raises OSError, also if it is not a regular file."""
    return file_hash(path, "sha256")


def file_hash(path: Path, algorithm: str) -> str:
    """The hash of a file, in hex. Raises OSError, also if it is not a regular file."""
    with open_regular(path) as file:
        # Keras publishes only md5 for most files; it is enough to detect damage
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def set_aside(path: Path, why: str) -> None:
    """Rename a damaged file that nothing depends on, so that a new one can be started, and log it. Raises OSError."""
    aside = path.with_name(f"{path.name}.damaged")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    path.rename(aside)
    log.info(f"{path} cannot be used: {why}; it was renamed to {aside.name}, and a new one was started")


def remove_temporary(folder: Path) -> None:
    """Remove the temporary files that killed processes left below `folder`. No other process may write there now."""
    for path in folder.rglob(f"*{TEMPORARY}"):
        with suppress(OSError):
            path.unlink()


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Lock `path`, a file (which is created) or a folder, inside the context; whether this process has the lock.

    It is False if another process has the lock, unless `wait` is set. The lock ends with its process, even if that is
    killed. It is True without a lock on Windows, and on file systems without locks, which the log says. Raises
    NotRegularError if `path` is a pipe or a device, without waiting, or OSError.
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
    """Whether a process has locked `path`, which need not exist. Raises NotRegularError or OSError."""
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
        with suppress(FileNotFoundError):  # check before opening, because opening a device can have effects
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
        log.info(f"{path} cannot be locked ({error.strerror}); make sure that no other process uses it")
    return True


class NotRegularError(OSError):
    """A named pipe, a device, a socket or a folder where a file was expected."""


class DamagedError(Exception):
    """The content of a file is damaged. The message is one line, and the code that catches it names the file."""


def open_regular(path: str | Path) -> io.BufferedReader:
    """Open a regular file, or a link to one, for reading.

    Raises NotRegularError, without waiting, for pipes, devices, sockets and folders, or OSError. Reading a pipe could
    wait forever, and devices such as /dev/zero have no end.
    """
    check_regular(path, Path(path).stat().st_mode)  # check before opening, because opening a device can have effects
    # without O_NONBLOCK, opening a pipe waits for a writer; it has no effect on regular files
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        check_regular(path, os.fstat(number).st_mode)
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def check_regular(path: str | Path, mode: int, rule: str = "only regular files are read") -> None:
    """Raise NotRegularError if `mode`, the `st_mode` of `path`, is not that of a regular file."""
    if not stat.S_ISREG(mode):
        word = next((word for is_kind, word in KINDS if is_kind(mode)), "a special file")
        raise NotRegularError(errno.EINVAL, f"it is {word}; {rule}", str(path))


KINDS = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip
