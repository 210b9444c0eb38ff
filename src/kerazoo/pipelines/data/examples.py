"""Examples: one immutable table of images and labels, whatever its source.

Sources are an image folder (`folder.py`), a CSV, TSV or Parquet table (`table.py`), an `.npz` file
(`arrays.py`), or a data set of TensorFlow Datasets by name (`tfds.py`).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kerazoo.errors import DataError
from kerazoo.files import sha256
from kerazoo.tasks.task import find_task

SPLITS = {  # allowed names of splits, in lower case -> the split
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "test1": "test", "eval": "test",
}  # fmt: skip
TFDS = "tfds:"


@dataclass(frozen=True)
class Examples:
    """N examples. `keys` name them (a path below the root, or `x_train[17]`); `splits` has "train", "val" or "test".

    `labels` depend on `task`: for "multiclass", (N,) int64 class numbers; for "multilabel", (N, K) float32 of 0 and 1;
    for "regression", (N, K) float32 numbers. `class_names` name the classes, labels or numbers. The images are either N
    encoded files (`paths`) or an array `pixels` of (N, H, W, C) uint8. Examples with the same `groups` entry must stay
    in one split.
    """

    source: str
    keys: tuple[str, ...]
    labels: np.ndarray
    splits: np.ndarray
    class_names: tuple[str, ...]
    task: str = "multiclass"
    paths: tuple[str, ...] | None = None
    pixels: np.ndarray | None = None
    groups: tuple[str, ...] | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)  # files that are not examples: key -> reason
    manifest: str | None = None  # sha256 of the manifest that was applied
    known_hashes: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def split(self, name: str) -> "Examples":
        """The examples of one split, in order. Raises DataError if it is empty."""
        examples = self.take(np.flatnonzero(self.splits == name))
        if not len(examples):
            raise DataError(f"{self.source} has no {name} split; it has {', '.join(self.split_names)}")
        return examples

    def take(self, indices: Iterable[int]) -> "Examples":
        """The examples at `indices`, in that order."""
        index = np.fromiter(indices, dtype=np.int64)

        def some(values: tuple[str, ...] | None) -> tuple[str, ...] | None:
            return None if values is None else tuple(values[i] for i in index)

        return replace(
            self,
            keys=tuple(self.keys[i] for i in index),
            labels=self.labels[index],
            splits=self.splits[index],
            paths=some(self.paths),
            pixels=None if self.pixels is None else self.pixels[index],
            groups=some(self.groups),
            known_hashes=some(self.known_hashes),
        )

    @property
    def split_names(self) -> list[str]:
        """The splits that have examples: train, val, test."""
        return [name for name in ("train", "val", "test") if np.any(self.splits == name)]

    def counts(self, split: str) -> dict[str, int]:
        """The number of examples of each class or label in `split`; for regression, the total under one name."""
        return find_task(self.task).counts(self.labels[self.splits == split], self.class_names)

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """The sha256 of each example's content: of the file's bytes, or of the pixels."""
        if self.known_hashes is not None:
            return self.known_hashes
        if self.paths is not None:
            return tuple(_file_hash(Path(path)) for path in self.paths)
        assert self.pixels is not None
        return tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in self.pixels)

    def digest(self) -> str:
        """One sha256 over every example's key, content, label and split, and the class names."""
        digest = hashlib.sha256("\0".join(self.class_names).encode())
        for row in zip(self.keys, self.hashes, self.labels.tolist(), self.splits.tolist(), strict=True):
            digest.update("\0".join(map(str, row)).encode())
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """What a run stores about its data: source, digest, classes, sizes, counts, files left out with reasons."""
        counts = {split: self.counts(split) for split in self.split_names}
        examples = {split: int((self.splits == split).sum()) for split in self.split_names}
        return {
            "source": self.source, "digest": self.digest(), "manifest": self.manifest, "task": self.task,
            "class_names": list(self.class_names), "examples": examples, "counts": counts,
            "left_out": dict(self.left_out),
        }  # fmt: skip


def split_like_classes(examples: Examples) -> list[str]:
    """The classes of an image folder that are named like splits, and may be misplaced splits."""
    if not find_task(examples.task).exclusive or not Path(examples.source).is_dir():
        return []
    return [name for name in examples.class_names if name.lower() in SPLITS]


def check_contents(examples: Examples, hashes: Sequence[str]) -> None:
    """Raise DataError, which names the image, if the contents of `examples`, read now, do not have `hashes`.

    Results computed from images are cached by the hash of their contents. A manifest has hashes from an earlier time,
    and assumes that a file with the same size and time is unchanged.
    """
    check_hashes(examples, replace(examples, known_hashes=None).hashes, hashes)


def check_hashes(examples: Examples, actual: Sequence[str], hashes: Sequence[str]) -> None:
    """Raise DataError, which names the image, unless the `actual` hashes of the contents of `examples` are `hashes`."""
    for key, found, known in zip(examples.keys, actual, hashes, strict=True):
        if found != known:
            raise DataError(
                f"{key} in {examples.source} has changed since its hash was computed; check the data again: "
                f"kerazoo check {examples.source} --write"
            )


def _file_hash(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}; remove it, or run `kerazoo check --write`"
        ) from error
