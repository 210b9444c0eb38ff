"""Examples: one immutable table of what there is to learn from, whatever it was read from.

Sources: an image folder (`image_folder.py`), a CSV, TSV or Parquet table (`image_table.py`), an `.npz` file
(`image_arrays.py`), or a data set of TensorFlow Datasets by name (`public_data.py`).
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kerazoo.errors import DataError
from kerazoo.files import sha256
from kerazoo.pipelines.recipe import DataPart, data_part

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
SPLITS = {  # names of splits, in any case
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "test1": "test", "eval": "test",
}  # fmt: skip
TABLES = (".csv", ".tsv", ".parquet")
TFDS = "tfds:"
NO_PICTURE = "its name does not end as a picture's does"
# formats of images that TensorFlow does not decode
UNDECODABLE = (
    ".tif",
    ".tiff",
    ".avif",
    ".heic",
    ".heif",
    ".jxl",
    ".jp2",
    ".ico",
    ".svg",
    ".psd",
    ".dng",
    ".cr2",
    ".nef",
)


@dataclass(frozen=True)
class Examples:
    """N examples. `keys` name them (a path below the root, or `x_train[17]`); `splits` says "train", "val" or "test".

    `labels` follow `task`: "multiclass", (N,) int64 class numbers; "multilabel", (N, K) float32 of 0 and 1;
    "regression", (N, K) float32 numbers. `class_names` name the classes, labels or numbers. The pictures are either
    encoded files (`paths`, N of them) or an array `pixels` of (N, H, W, C) uint8. `groups`, where there are any, say
    what belongs together and must not be parted by a split.
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
    left_out: Mapping[str, str] = field(default_factory=dict)  # what is no example: key -> why
    manifest: str | None = None  # sha256 of the manifest that was followed
    known_hashes: tuple[str, ...] | None = None

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
        """How many examples of each class (or with each label) are in `split`; of a regression, all under one name."""
        labels = self.labels[self.splits == split]
        if self.task == "regression":
            return {"examples": len(labels)}
        if self.task == "multilabel":
            return dict(zip(self.class_names, labels.sum(axis=0).astype(int).tolist(), strict=True))
        found = Counter(labels.tolist())
        return {name: found.get(label, 0) for label, name in enumerate(self.class_names)}

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """The sha256 of each example's content: the file's bytes, or the pixels'."""
        if self.known_hashes is not None:
            return self.known_hashes
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
        """What a run stores of its data: source, digest, classes, counts, and what was left out and why."""
        counts = {split: self.counts(split) for split in self.split_names}
        return {
            "source": self.source, "digest": self.digest(), "manifest": self.manifest, "task": self.task,
            "class_names": list(self.class_names), "counts": counts, "left_out": dict(self.left_out),
        }  # fmt: skip


def load_examples(data: str | Path | DataPart, *, hold_out: bool = True, **options: Any) -> Examples:
    """The examples in `data`: a path, a `tfds:NAME`, or the data part of a recipe; `options` are keys of that part.

    Where the data has no validation split of its own, a share of train is held out (`splits.py`), unless `hold_out` is
    False: then what has no splits is all "test", to evaluate on. Raises DataError, naming the folder, class or file,
    for anything that cannot be trained on.
    """
    from kerazoo.pipelines import manifest

    part = data if isinstance(data, DataPart) else data_part({"path": str(data), **options})
    examples = manifest.follow(read_examples(part), part, hold_out=hold_out)
    if not hold_out:
        whole = examples.split_names == ["train"]
        return replace(examples, splits=np.full(len(examples), "test")) if whole else examples
    return trainable(examples, part)


def trainable(examples: Examples, part: DataPart) -> Examples:
    """`examples` with a share held out as `part` says. Raises DataError where they cannot be trained on.

    Training and `kerazoo check` both go through here, so that a check refuses what training would refuse.
    """
    from kerazoo.pipelines import splits

    check_classes(examples)
    examples = splits.hold_out(examples, part.validation, part.test)
    check_classes(examples)
    return examples


def read_examples(part: DataPart) -> Examples:
    """All examples of the source that `part` names, as they are there: nothing held out, no manifest followed.

    Raises DataError where it cannot be read.
    """
    # the readers make Examples, hence they are imported here
    from kerazoo.pipelines import image_arrays, image_folder, image_table, public_data, splits

    check_source(part)
    path = Path(part.path).expanduser()
    if part.path.startswith(TFDS):
        examples = public_data.read(part)
    elif path.is_dir():
        examples = image_folder.read(path.resolve())
    elif path.suffix == ".npz":
        examples = image_arrays.read(path.resolve())
    else:
        examples = image_table.read(path.resolve(), part)
    return splits.with_groups(examples, part.group)


def check_source(part: DataPart) -> None:
    """Raise DataError where `part` names nothing that could be read; nothing is read yet."""
    path = Path(part.path).expanduser()
    if part.path.startswith(TFDS):
        return
    if path.is_dir():
        with suppress(PermissionError), os.scandir(path) as entries:  # what cannot be listed is said by who reads it
            if next(entries, None) is None:
                raise DataError(
                    f"the folder {part.path} is empty; name one that holds a folder of images for each class"
                )
        return
    if not path.exists():
        raise DataError(f"there is no folder or file {part.path}")
    if not path.is_file() or (path.suffix != ".npz" and path.suffix.lower() not in TABLES):
        raise DataError(f"{part.path} is not an image folder, an .npz file or a table ({', '.join(TABLES)})")


def check_classes(examples: Examples) -> None:
    """Raise DataError where there is nothing to tell apart, or a class is without pictures to train on."""
    check_choice(examples)
    if examples.task == "regression":
        return
    for name, count in examples.counts("train").items():
        if count == 0:
            raise DataError(f"class {name!r} in {examples.source} has no pictures to train on")
        if count == 1 and "val" not in examples.split_names:
            raise DataError(f"class {name!r} in {examples.source} has one picture to train on; it takes at least two")


def check_choice(examples: Examples) -> None:
    """Raise DataError where there is one class only, and so nothing to tell apart."""
    if examples.task == "multiclass" and len(examples.class_names) < 2:
        raise DataError(f"{examples.source} has one class only ({examples.class_names[0]!r}); it takes at least two")


def split_like_classes(examples: Examples) -> list[str]:
    """The classes of an image folder that are named like splits, and may be splits that were put beside classes."""
    if examples.task != "multiclass" or not Path(examples.source).is_dir():
        return []
    return [name for name in examples.class_names if name.lower() in SPLITS]


def check_class_names(found: Sequence[str], expected: Sequence[str], source: str) -> None:
    """Raise DataError where the classes of `source` are not those a model was trained on."""
    if tuple(found) != tuple(expected):
        missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
        detail = f"missing {missing}, unknown {extra}" if missing or extra else "in another order"
        raise DataError(f"the classes in {source} are not the model's: {detail}")


def is_image(path: Path) -> bool:
    """Whether its name ends as that of an image which TensorFlow decodes."""
    return path.suffix.lower() in SUFFIXES


def why_left_out(path: Path) -> str:
    """Why a file whose name is not that of an image takes no part."""
    if path.suffix.lower() in UNDECODABLE:
        return f"TensorFlow does not decode {path.suffix.lower()}; convert it to PNG or JPEG"
    return NO_PICTURE


def undecodable(files: Iterable[Path]) -> str:
    """ "", or what `files` hold of images that TensorFlow does not decode, and what to do about it."""
    found = Counter(p.suffix.lower() for p in files if p.suffix.lower() in UNDECODABLE)
    if not found:
        return ""
    kinds = " and ".join(f"{count:,} {ending} file{'s' if count > 1 else ''}" for ending, count in found.most_common())
    ending = found.most_common(1)[0][0]
    return (
        f"; it has {kinds}, which TensorFlow does not decode: convert them to PNG or JPEG, such as by "
        f"ImageMagick's `mogrify -format png *{ending}`"
    )


def check_contents(examples: Examples, hashes: Sequence[str]) -> None:
    """Raise DataError, which names the image, where the contents of `examples`, read now, do not have `hashes`.

    What is computed from images is kept by the hash of their contents. A manifest knows hashes from an earlier day, and
    takes a file for the same by its size and time.
    """
    for key, found, known in zip(examples.keys, replace(examples, known_hashes=None).hashes, hashes, strict=True):
        if found != known:
            raise DataError(
                f"{key} in {examples.source} is not the image that it was when its hash was taken; check the data "
                f"again by `kerazoo check {examples.source} --write`"
            )


def _file_hash(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; remove it, or `kerazoo check --write`") from error
