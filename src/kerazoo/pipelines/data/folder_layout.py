"""The layout of an image folder: which of its folders are splits, and which are classes.

Names of splits (`examples.SPLITS`) may be in upper or lower case. The content of such a folder decides whether it is a
split: a split contains a folder for each class, and a class contains images. Images directly in `test`, beside splits
or beside two classes, are a test set without labels. Ambiguous layouts are refused.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

from kerazoo.errors import DataError
from kerazoo.pipelines.data.examples import SPLITS
from kerazoo.pipelines.data.file_names import is_image

NAMES = "train, val and test"

WRITTEN = {"runs": "*/run.json", "saved_models": "*/*/saved_model.pb"}  # {folder: what it has if kerazoo wrote it}


def split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split below `root`; train is `root` itself if it contains the classes.

    Raises DataError, which says what to do, if there are no folders, if splits and classes are mixed, if two folders
    are the same split, or if folders look like splits but do not have the names of splits.
    """
    top = _some_folders(root)
    named = [p for p in top if p.name.lower() in SPLITS]
    parted = [p for p in named if _with_images(p)]
    others = ", ".join(p.name for p in top if p not in named)
    has_train = any(SPLITS[p.name.lower()] == "train" for p in named)
    if others and (parted or (has_train and len(named) > 1)):
        names = ", ".join(p.name for p in named)
        raise DataError(
            f"{root} has {names}, which look like splits, but also {others}; remove the folders that are not splits, "
            f"or, if all are classes, list each image and its class in a table (path,label)"
        )
    if others or not named:
        _refuse_wrapped(root, "use {inner} instead")
        _refuse_unnamed_splits(root, top)
        tests = [p for p in named if SPLITS[p.name.lower()] == "test" and _holds_images(p)]
        return {"train": root, "test": tests[0]} if len(tests) == 1 and len(top) > 2 else {"train": root}
    if not has_train:
        names = ", ".join(p.name for p in named)
        raise DataError(
            f"{root} has {names} but no train; rename the folder to train on to train, or, to evaluate, use {named[0]}"
        )
    parts: dict[str, Path] = {}
    for folder in named:
        split = SPLITS[folder.name.lower()]
        if split in parts:
            raise DataError(f"{root} has two folders for {split}: {parts[split].name} and {folder.name}; remove one")
        parts[split] = folder
    classes = _some_folders(parts["train"])
    _refuse_wrapped(parts["train"], "move them directly into {root}")
    labelled = {p.name for split, folder in parts.items() if split != "train" for p in _with_images(folder)}
    if labelled.isdisjoint(p.name for p in classes):  # otherwise another split has the same classes
        _refuse_unnamed_splits(parts["train"], classes)
    return parts


def _some_folders(root: Path) -> list[Path]:
    """The folders in `root`. Raises DataError, which says what to do, if there are none."""
    inside = folders(root)
    if not inside:
        what = "has images but no folders" if _holds_images(root) else "has no folders in it"
        raise DataError(f"{root} {what}; put the images of each class into a folder with the name of the class")
    return inside


def _refuse_wrapped(root: Path, advice: str) -> None:
    """Raise DataError, with `advice`, if the only folder in `root` is not a class but contains the classes."""
    top = folders(root)
    inner = _unwrapped(root)
    if len(top) > 1 or inner == root:
        return
    names = ", ".join(p.name for p in _with_images(inner)[:5])
    if names:
        raise DataError(
            f"{root} has only one folder, {top[0].name}, which is not a class: it contains the classes {names}; "
            + advice.format(root=root, inner=inner)
        )


def _refuse_unnamed_splits(root: Path, top: list[Path]) -> None:
    """Raise DataError if folders look like splits but do not have the names of splits.

    Folders look like splits if they contain the same folders of images, or the same folders as the classes beside them,
    or if each name contains the name of a split, such as train_images or val2017.
    """
    names = {p.name for p in top}
    inside = {p.name: {child.name for child in _with_images(_unwrapped(p))} for p in top if not _holds_images(p)}
    inside = {name: children for name, children in inside.items() if children}
    where: dict[str, set[str]] = defaultdict(set)
    for name, children in inside.items():
        for child in children:
            where[child].add(name)
    for name, children in inside.items():
        beside = sorted(children & names - {name})
        if beside:
            raise DataError(
                f"{root}: the folder {name} looks like a split, because it contains {', '.join(beside[:5])}, which are "
                f"also classes beside it; name the splits {NAMES}, with a folder for each class in each, or remove it"
            )
        shared = Counter(other for child in children for other in where[child] - {name})
        other, count = shared.most_common(1)[0] if shared else ("", 0)
        if count < 2:
            continue
        both = sorted(children & inside[other])
        look, advice = "splits", f"name them {NAMES}"
        if all(child.lower() in SPLITS for child in both):
            look, advice = "classes that contain splits", f"put the splits first ({both[0]}/{name})"
        raise DataError(
            f"{root}: the folders {name} and {other} look like {look}, because both contain {', '.join(both[:5])}; "
            f"{advice}, or, if they are classes, list each image and its class in a table (path,label)"
        )
    meant = [{SPLITS[word] for word in re.findall("[a-z]+", name.lower()) if word in SPLITS} for name in names]
    if all(meant) and len(set().union(*meant)) > 1 and {"train"} in meant:
        raise DataError(
            f"{root}: the folders {', '.join(sorted(names))} are named like splits; name them {NAMES}, with a folder "
            "for each class in each, or, if they are classes, list each image and its class in a table (path,label)"
        )


def unlabelled(folder: Path, class_names: Collection[str]) -> int:
    """The number of images of a test set without labels; they are in `folder` or in one folder that is not a class.

    0 if the test set has labels, or has no images.
    """
    inside = _with_images(folder)
    known = {name.lower() for name in class_names}
    if any(p.name.lower() in known for p in inside) or len(inside) > 1:
        return 0
    if any(p.name.lower() in known for child in inside for p in folders(child)):
        return 0  # one folder contains the classes
    return sum(1 for _ in _images(folder))


def folders(root: Path) -> list[Path]:
    """The folders in `root` in order of name, without hidden ones and those that kerazoo wrote there, such as runs."""
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".") and not _is_written(p))


def _is_written(folder: Path) -> bool:
    pattern = WRITTEN.get(folder.name)
    return pattern is not None and next(folder.glob(pattern), None) is not None


def _unwrapped(folder: Path) -> Path:
    """The first folder, from `folder` downwards, that contains images or more than one folder."""
    inside = folders(folder)
    while len(inside) == 1 and not _holds_images(folder) and not inside[0].is_symlink():
        folder, inside = inside[0], folders(inside[0])
    return folder


def _with_images(root: Path) -> list[Path]:
    """The folders in `root` that contain an image at any depth."""
    return [p for p in folders(root) if next(_images(p), None) is not None]


def _holds_images(folder: Path) -> bool:
    return any(is_image(p) and not p.name.startswith(".") and not p.is_dir() for p in folder.iterdir())


def _images(folder: Path) -> Iterator[Path]:
    files = (p for p in folder.rglob("*") if is_image(p) and not p.is_dir())
    return (p for p in files if not any(part.startswith(".") for part in p.relative_to(folder).parts))
