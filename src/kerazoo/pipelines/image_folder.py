"""An image folder: `CLASS/picture`, or `train|val|test/CLASS/picture`."""

import os
from pathlib import Path

import numpy as np

from kerazoo.errors import DataError
from kerazoo.pipelines.examples import NO_PICTURE, SPLITS, SUFFIXES, Examples


def read(root: Path) -> Examples:
    """The pictures below `root`, in order of name. Raises DataError that names the folder which is wrong."""
    top = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not top:
        raise DataError(f"{root} has no folders in it; put the pictures of each class into a folder of its name")
    parts = _parts(root, top)
    class_names = tuple(sorted(p.name for p in parts["train"].iterdir() if p.is_dir() and p.name[0] != "."))
    rows: list[tuple[str, int, str, str]] = []
    left_out: dict[str, str] = {}
    for split, folder in parts.items():
        loose = [p for p in sorted(folder.iterdir()) if not p.is_dir() and p.name[0] != "."]
        left_out |= {
            readable(p.relative_to(root)): "it lies in no folder of a class" if is_picture(p) else NO_PICTURE
            for p in loose
            if not p.name.startswith("kerazoo-")
        }
        before = len(rows)
        for child in sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != "."):
            if child.name not in class_names:
                raise DataError(f"class {child.name!r} is in {folder} but not in {parts['train']}")
            pictures, strange = picture_files(child)
            left_out |= {readable(p.relative_to(root)): NO_PICTURE for p in strange}
            for p in sorted(p for p in child.rglob("*") if p.is_dir()):
                if p.is_symlink():
                    left_out[readable(p.relative_to(root))] = "it is a link to a folder, which is not followed"
                elif is_picture(p):
                    left_out[readable(p.relative_to(root))] = "it is a folder; pictures in it are taken"
            label = class_names.index(child.name)
            rows += [(readable(p.relative_to(root)), label, split, str(p)) for p in pictures]
        if len(rows) == before:
            raise DataError(f"{folder} has no pictures in folders of classes; they end in {', '.join(SUFFIXES)}")
    keys, labels, splits, paths = zip(*rows, strict=True)
    return Examples(
        str(root), keys, np.array(labels, np.int64), np.array(splits), tuple(map(readable, class_names)), paths=paths,
        left_out=left_out,
    )  # fmt: skip


def _parts(root: Path, top: list[str]) -> dict[str, Path]:
    """The folder of each split; all is train where `root` holds classes."""
    named = [name for name in top if name in SPLITS]
    if "train" in top and len(named) > 1 and named != top:
        others = ", ".join(name for name in top if name not in SPLITS)
        raise DataError(f"{root} has {', '.join(named)} and beside them {others}; take out what is no split")
    if "train" not in top or named != top:
        return {"train": root}
    parts: dict[str, Path] = {}
    for name in top:
        if SPLITS[name] in parts:
            raise DataError(f"{root} has two folders for {SPLITS[name]}: {parts[SPLITS[name]].name} and {name}")
        parts[SPLITS[name]] = root / name
    return parts


def picture_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files below `folder` in order of name: those that end like pictures, and the others. Hidden ones count not."""
    found = sorted(
        p for p in folder.rglob("*") if not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )
    files = [p for p in found if not p.is_dir()]
    return [p for p in files if is_picture(p)], [p for p in files if not is_picture(p)]


def is_picture(path: Path) -> bool:
    """Whether its name ends as a picture's does."""
    return path.suffix.lower() in SUFFIXES


def readable(path: Path | str) -> str:
    """A name that can be printed and stored: bytes that are no UTF-8 are written as `\\xNN`."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")


def one_line(name: str) -> str:
    """A name as it is where it can be printed on one line, else with its odd characters written out."""
    return name if name.isprintable() else repr(name)
