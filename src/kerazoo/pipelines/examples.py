"""Examples: one immutable table of what there is to learn from, read from an image folder or an `.npz` file.

An image folder holds `CLASS/picture` or `train|val|test/CLASS/picture`; where it has no validation part, a share of
train is held out. The choice is by content hash within each class, so it depends on nothing but the pictures.
"""

import hashlib
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kerazoo.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Examples:
    """N examples. `keys` name them (a path below the root, or `x_train[17]`); `labels` are (N,) class numbers.

    The pictures are either encoded files (`paths`, N of them) or an array `pixels` of (N, H, W, C) uint8.
    `splits` says "train", "val" or "test" for each.
    """

    source: str
    keys: tuple[str, ...]
    labels: np.ndarray
    splits: np.ndarray
    class_names: tuple[str, ...]
    paths: tuple[str, ...] | None = None
    pixels: np.ndarray | None = None
    left_out: tuple[str, ...] = ()  # files in the folder that are not pictures, by name

    def __len__(self) -> int:
        return len(self.keys)

    def split(self, name: str) -> "Examples":
        """The examples of one split, in order. Raises DataError where it is empty."""
        found = self.take(np.flatnonzero(self.splits == name))
        if not len(found):
            raise DataError(f"{self.source} has no {name} split; it has {', '.join(self.split_names)}")
        return found

    def take(self, indices: Iterable[int]) -> "Examples":
        """The examples at `indices`, in that order."""
        index = np.fromiter(indices, dtype=np.int64)
        return replace(
            self,
            keys=tuple(self.keys[i] for i in index),
            labels=self.labels[index],
            splits=self.splits[index],
            paths=None if self.paths is None else tuple(self.paths[i] for i in index),
            pixels=None if self.pixels is None else self.pixels[index],
        )

    @property
    def split_names(self) -> list[str]:
        """The splits that have examples: train, val, test."""
        return [name for name in ("train", "val", "test") if np.any(self.splits == name)]

    def counts(self, split: str) -> dict[str, int]:
        """How many examples each class has in `split`."""
        found = Counter(self.labels[self.splits == split].tolist())
        return {name: found.get(label, 0) for label, name in enumerate(self.class_names)}

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """The sha256 of each example's content: the file's bytes, or the pixels'."""
        if self.paths is not None:
            return tuple(_file_hash(Path(path)) for path in self.paths)
        assert self.pixels is not None
        return tuple(hashlib.sha256(picture.tobytes()).hexdigest() for picture in self.pixels)

    def digest(self) -> str:
        """One sha256 over every example's key, content, label and split, and the class names."""
        digest = hashlib.sha256("\0".join(self.class_names).encode())
        for row in zip(self.keys, self.hashes, self.labels.tolist(), self.splits.tolist(), strict=True):
            digest.update("\0".join(map(str, row)).encode())
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """What a run stores of its data: source, digest, classes, counts."""
        counts = {split: self.counts(split) for split in self.split_names}
        return {
            "source": self.source, "digest": self.digest(), "class_names": list(self.class_names), "counts": counts,
            "left_out": list(self.left_out),
        }  # fmt: skip


def load_examples(data: str | Path, *, validation: float | None = 0.1) -> Examples:
    """The examples in an image folder or an `.npz` file; `validation` is the share of train held out where it has none.

    None asks for pictures to evaluate on: nothing is held out, and what has no splits of its own is all "test".
    Raises DataError, naming the folder, class or file, for anything that cannot be trained on.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        examples = _folder(path.resolve())
    elif path.suffix == ".npz" and path.is_file():
        examples = _npz(path.resolve())
    elif path.exists():
        raise DataError(f"{data} is not an image folder or an .npz file")
    else:
        raise DataError(f"there is no folder or file {data}")
    if validation is None:
        whole = examples.split_names == ["train"]
        return replace(examples, splits=np.full(len(examples), "test")) if whole else examples
    _check_classes(examples)
    if "val" not in examples.split_names:
        examples = _hold_out(examples, validation)
    return examples


def picture_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files below `folder` in order of name: those that end like pictures, and the others. Hidden ones count not."""
    found = sorted(
        p for p in folder.rglob("*") if not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )
    files = [p for p in found if not p.is_dir()]
    pictures = [p for p in files if p.suffix.lower() in SUFFIXES]
    return pictures, [p for p in files if p.suffix.lower() not in SUFFIXES]


def _folder(root: Path) -> Examples:
    top = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not top:
        raise DataError(f"{root} has no folders in it; put the pictures of each class into a folder of its name")
    parts: dict[str, Path] = {}
    named = [name for name in top if name in SPLITS]
    if "train" in top and len(named) > 1 and named != top:
        others = ", ".join(name for name in top if name not in SPLITS)
        raise DataError(f"{root} has {', '.join(named)} and beside them {others}; take out what is no split")
    if "train" in top and named == top:
        for name in top:
            if SPLITS[name] in parts:
                raise DataError(f"{root} has two folders for {SPLITS[name]}: {parts[SPLITS[name]].name} and {name}")
            parts[SPLITS[name]] = root / name
    else:
        parts["train"] = root
    class_names = tuple(sorted(p.name for p in parts["train"].iterdir() if p.is_dir() and p.name[0] != "."))
    rows: list[tuple[str, int, str, str]] = []
    left_out: list[str] = []
    for split, folder in parts.items():
        left_out += [str(p.relative_to(root)) for p in sorted(folder.iterdir()) if p.is_file() and p.name[0] != "."]
        before = len(rows)
        for child in sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != "."):
            if child.name not in class_names:
                raise DataError(f"class {child.name!r} is in {folder} but not in {parts['train']}")
            pictures, strange = picture_files(child)
            left_out += [str(p.relative_to(root)) for p in strange]
            rows += [(str(p.relative_to(root)), class_names.index(child.name), split, str(p)) for p in pictures]
        if len(rows) == before:
            raise DataError(f"{folder} has no pictures in folders of classes; they end in {', '.join(SUFFIXES)}")
    keys, labels, splits, paths = zip(*rows, strict=True)
    return Examples(
        str(root), keys, np.array(labels, np.int64), np.array(splits), class_names, paths=paths,
        left_out=tuple(left_out),
    )  # fmt: skip


def _npz(path: Path) -> Examples:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as .npz: {error}") from error
    splits = [name for name in ("train", "val", "test") if f"x_{name}" in arrays]
    if "train" not in splits:
        raise DataError(f"{path} has no x_train; it has {', '.join(sorted(arrays)) or 'nothing'}")
    pixels, labels, keys = [], [], []
    for split in splits:
        x, y = arrays[f"x_{split}"], arrays.get(f"y_{split}")
        if x.dtype != np.uint8 or x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[-1] not in (1, 3)):
            wanted = "pictures as (N, H, W), (N, H, W, 1) or (N, H, W, 3) uint8"
            raise DataError(f"{path}: x_{split} is {x.shape} {x.dtype}; it must hold {wanted}")
        if y is None or y.size != len(x) or y.dtype.kind not in "iu" or y.min(initial=0) < 0:
            raise DataError(f"{path}: y_{split} must hold {len(x)} class numbers from 0")
        pixels.append(x[..., None] if x.ndim == 3 else x)
        labels.append(y.reshape(-1).astype(np.int64))
        keys += [f"x_{split}[{i}]" for i in range(len(x))]
    if len({x.shape[1:] for x in pixels}) > 1:
        raise DataError(f"{path}: the splits hold pictures of different shapes: {[x.shape[1:] for x in pixels]}")
    every = np.concatenate(labels)
    names = arrays.get("class_names", np.arange(int(every.max(initial=-1)) + 1)).astype(str).tolist()
    if every.max(initial=-1) >= len(names):
        raise DataError(f"{path}: label {every.max()} has no name; class_names has {len(names)}")
    return Examples(
        str(path), tuple(keys), every, np.repeat(splits, [len(x) for x in pixels]), tuple(names),
        pixels=np.concatenate(pixels),
    )  # fmt: skip


def _check_classes(examples: Examples) -> None:
    if len(examples.class_names) < 2:
        raise DataError(f"{examples.source} has one class only ({examples.class_names[0]!r}); it takes at least two")
    for name, count in examples.counts("train").items():
        if count == 0:
            raise DataError(f"class {name!r} in {examples.source} has no pictures to train on")
        if count == 1:
            raise DataError(f"class {name!r} in {examples.source} has one picture to train on; it takes at least two")


def _hold_out(examples: Examples, share: float) -> Examples:
    """Move the nearest whole number to `share` of each class, one at least, from train to val."""
    if not 0 < share < 1:
        raise DataError(f"the share of train held out for validation must be between 0 and 1, not {share}")
    splits = examples.splits.astype("<U5")
    train = examples.take(np.flatnonzero(splits == "train"))
    positions = np.flatnonzero(splits == "train")
    hashes = np.array(train.hashes)
    for label in range(len(examples.class_names)):
        members = np.flatnonzero(train.labels == label)
        held = max(1, min(len(members) - 1, round(share * len(members))))
        splits[positions[members[np.argsort(hashes[members], kind="stable")[:held]]]] = "val"
    return replace(examples, splits=splits)


def _file_hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def check_class_names(found: Sequence[str], expected: Sequence[str], source: str) -> None:
    """Raise DataError where the classes of `source` are not those a model was trained on."""
    if tuple(found) != tuple(expected):
        missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
        detail = f"missing {missing}, unknown {extra}" if missing or extra else "in another order"
        raise DataError(f"the classes in {source} are not the model's: {detail}")
