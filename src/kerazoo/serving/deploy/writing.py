"""Write a folder of files: all of them, or none."""

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from kerazoo.errors import InputError
from kerazoo.files import write_whole


def write_files(folder: Path, files: Mapping[str, str], *, overwrite: bool = False) -> list[Path]:
    """Write `files`, {name: text}, into `folder`, and return their paths. They appear together, or none does.

    `overwrite` replaces the files of an earlier call. Raises InputError, which names a file that is in the way, or
    OSError.
    """
    _check_free(folder, files, overwrite=overwrite)
    target = folder.resolve()
    made = target.with_name(f"{target.name}.{os.getpid()}.new")
    shutil.rmtree(made, ignore_errors=True)  # left by a killed process with the same number
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        for name, text in files.items():
            path = made / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text)
        _put(made, target)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return [folder / name for name in files]


def _check_free(folder: Path, files: Mapping[str, str], *, overwrite: bool) -> None:
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise InputError(f"{place} must be a folder, but it is a file; choose another folder (--folder)")
    present = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    others = [name for name in present if name not in files]
    if others:
        raise InputError(
            f"{folder / others[0]} is not one of the files that would be written; choose a new folder (--folder)"
        )
    if present and not overwrite:
        raise InputError(
            f"{folder / present[0]} exists; choose another folder (--folder), or replace the files (--overwrite, in "
            "Python overwrite=True)"
        )


def _put(made: Path, target: Path) -> None:
    """Rename the folder `made` to `target`. A folder that is there goes aside, and comes back if this fails."""
    aside = target.with_name(f"{target.name}.{os.getpid()}.old")
    replaced = target.exists()
    if replaced:
        target.rename(aside)
    try:
        made.rename(target)
    except BaseException:
        if replaced:
            with suppress(OSError):
                aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)
