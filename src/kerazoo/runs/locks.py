"""The lock of a run folder, which ends with its process, and the removal of folders that killed processes left."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from kerazoo import files
from kerazoo.errors import RunError

LOCK = ".lock"
LEFT = re.compile(r"\..+-(?:new|old)-(\d+)")  # see `beside`


class TakenError(RunError):
    """The folder belongs to another process, or to a run that has finished."""


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Lock `folder` for this process. The lock ends with the process, even if it is killed. Raises TakenError."""
    with ExitStack() as stack:
        with _problem_named(folder):
            ours = stack.enter_context(files.locked(folder / LOCK))
        if not ours:
            raise TakenError(
                f"run {folder} is being trained by another process; wait for it, or choose another name (--name)"
            )
        yield


def is_locked(folder: Path) -> bool:
    """Whether a process is training in `folder`. Raises RunError if the lock file is a pipe or a device."""
    with _problem_named(folder):
        return files.is_locked(folder / LOCK)


@contextmanager
def _problem_named(folder: Path) -> Iterator[None]:
    try:
        yield
    except files.NotRegularError as error:
        raise RunError(f"{folder / LOCK} cannot be a lock: {error.strerror}") from error


def beside(folder: Path, what: str) -> Path:
    """The path of this process's temporary folder, "new" or "old", beside `folder`."""
    return folder.with_name(f".{folder.name}-{what}-{os.getpid()}")


def remove_left(root: Path) -> None:
    """Remove the folders that killed processes left in `root` while they made or replaced a run."""
    for path in root.glob(".*"):
        left = LEFT.fullmatch(path.name)
        if left and path.is_dir() and not _is_alive(int(left[1])):
            with suppress(RunError):  # kerazoo did not make a folder with such a lock
                if not is_locked(path):
                    shutil.rmtree(path, ignore_errors=True)


def _is_alive(process: int) -> bool:
    """Whether a process on this machine has this number. The lock covers other machines that share the folder."""
    if os.name == "nt":  # on Windows, os.kill would end the process
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
