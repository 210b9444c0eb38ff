"""Who works in the folder of a run: locks that go with their process, and what killed processes left beside it."""

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
    """Hold `folder` for this process; the lock goes with the process, however it ends. Raises TakenError if held."""
    with ExitStack() as stack:
        with _problem_named(folder):
            ours = stack.enter_context(files.locked(folder / LOCK))
        if not ours:
            raise TakenError(f"run {folder} is being trained by another process; wait for it or choose another --name")
        yield


def is_locked(folder: Path) -> bool:
    """Whether a process is training there. Raises RunError where the lock is a pipe or a device."""
    with _problem_named(folder):
        return files.is_locked(folder / LOCK)


@contextmanager
def _problem_named(folder: Path) -> Iterator[None]:
    try:
        yield
    except files.NotRegularError as error:
        raise RunError(f"{folder / LOCK} cannot be a lock: {error.strerror}") from error


def beside(folder: Path, what: str) -> Path:
    """Where this process keeps the "new" or the "old" folder until they change places."""
    return folder.with_name(f".{folder.name}-{what}-{os.getpid()}")


def remove_left(root: Path) -> None:
    """Remove the folders that killed processes left in `root` while they made or replaced a run."""
    for path in root.glob(".*"):
        left = LEFT.fullmatch(path.name)
        if left and path.is_dir() and not _is_alive(int(left[1])):
            with suppress(RunError):  # a folder with such a lock is none of ours
                if not is_locked(path):
                    shutil.rmtree(path, ignore_errors=True)


def _is_alive(process: int) -> bool:
    """Whether a process has this number; of other machines, which may share the folder, the lock knows."""
    if os.name == "nt":  # os.kill would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
