"""The temporary folder of an export: beside its target, locked, and removed even if the export fails."""

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
    """An empty folder in `root`, which is created. Folders that killed exports left there are removed first.

    Raises RunError if `root` is not a folder, KerazooError if nothing can be written there. If `root` is new and the
    export fails, `root` is removed again.
    """
    is_new = not root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root, wait=True):  # no other export may clean up before the folder has its own lock
            _sweep(root)
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, suffix=ENDING, dir=root))
            own = ExitStack()
            own.enter_context(locked(folder))
    except (FileExistsError, NotADirectoryError) as error:
        raise RunError(f"{root} must be a folder for exports, not a file or inside a file") from error
    except OSError as error:
        raise KerazooError(f"nothing can be written into {root}: {error.strerror}; choose another folder") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        own.close()
        if is_new:
            with suppress(OSError):  # it contains an export
                root.rmdir()


def _sweep(root: Path) -> None:
    """Remove the folders of exports whose process has ended; the folders of running exports are locked."""
    for folder in root.glob(f"{PREFIX}*{ENDING}"):
        with suppress(OSError), locked(folder) as ours:
            if ours:
                shutil.rmtree(folder, ignore_errors=True)
