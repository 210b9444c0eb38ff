"""The folder that an export is made in: beside its place, held by a lock, and removed however the export ends."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from kerazoo.errors import KerazooError, RunError
from kerazoo.files import locked

PREFIX, ENDING = ".export-", ".tmp"


@contextmanager
def workplace(root: Path) -> Iterator[Path]:
    """An empty folder in `root`, which is made; what killed exports left there is removed first.

    Raises RunError where `root` is no folder, KerazooError where nothing can be written there. A `root` that was made
    for nothing is removed again.
    """
    made = not root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root, wait=True):  # no other export may sweep before the folder has its own lock
            _sweep(root)
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, suffix=ENDING, dir=root))
            own = ExitStack()
            own.enter_context(locked(folder))
    except (FileExistsError, NotADirectoryError) as error:
        raise RunError(f"exports cannot go into {root}: it must be a folder, not a file or below one") from error
    except OSError as error:
        raise KerazooError(f"nothing can be written into {root}: {error.strerror}; choose another folder") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        own.close()
        if made:
            with suppress(OSError):  # an export is in it
                root.rmdir()


def _sweep(root: Path) -> None:
    """Remove the folders of exports whose process is gone; those of others are locked."""
    for left in root.glob(f"{PREFIX}*{ENDING}"):
        with suppress(OSError), locked(left) as ours:
            if ours:
                shutil.rmtree(left, ignore_errors=True)
