"""Read data: choose the reader, hold out a share, and refuse data that cannot be trained on."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kerazoo.errors import DataError
from kerazoo.pipelines.data.examples import TFDS, Examples
from kerazoo.recipes.parts import DataPart
from kerazoo.recipes.recipe import data_part
from kerazoo.tasks.task import find_task

TABLES = (".csv", ".tsv", ".parquet")


def load_examples(data: str | Path | DataPart, *, hold_out: bool = True, **options: Any) -> Examples:
    """The examples in `data`: a path, a `tfds:NAME`, or the data part of a recipe; `options` are keys of that part.

    If the data has no validation split of its own, a share of train is held out (`splits.py`). If `hold_out` is False,
    data without splits becomes "test" as a whole, for evaluation. Raises DataError, which names the folder, class or
    file, if the data cannot be trained on.
    """
    from kerazoo.pipelines.data import manifest

    part = data if isinstance(data, DataPart) else data_part({"path": str(data), **options})
    examples = manifest.follow(read_examples(part), part, hold_out=hold_out)
    if not hold_out:
        whole = examples.split_names == ["train"]
        return replace(examples, splits=np.full(len(examples), "test")) if whole else examples
    return trainable(examples, part)


def trainable(examples: Examples, part: DataPart) -> Examples:
    """`examples` with the shares held out that `part` sets. Raises DataError if they cannot be trained on.

    Training and `kerazoo check` both call this, so that a check refuses the same data as training.
    """
    from kerazoo.pipelines.data import folds, splits

    check_classes(examples)
    examples = splits.hold_out(examples, part.validation, part.test)
    if part.folds is not None and part.fold is not None:
        examples = folds.with_fold(examples, part.folds, part.fold)
    check_classes(examples)
    return examples


def read_examples(part: DataPart) -> Examples:
    """All examples of the source that `part` names, without held-out splits and without a manifest.

    Raises DataError if the source cannot be read.
    """
    # imported here because the readers import Examples
    from kerazoo.pipelines.data import arrays as image_arrays
    from kerazoo.pipelines.data import folder as image_folder
    from kerazoo.pipelines.data import splits
    from kerazoo.pipelines.data import table as image_table
    from kerazoo.pipelines.data import tfds as public_data

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
    """Raise DataError if `part` does not name data that could be read. It reads nothing."""
    path = Path(part.path).expanduser()
    if part.path.startswith(TFDS):
        return
    if path.is_dir():
        with suppress(PermissionError), os.scandir(path) as entries:  # the reader reports a folder without permission
            if next(entries, None) is None:
                raise DataError(
                    f"the folder {part.path} is empty; use one that contains a folder of images for each class"
                )
        return
    if not path.exists():
        where = "" if path.is_absolute() else f" in the current folder (it would be {Path.cwd() / path})"
        raise DataError(f"there is no folder or file {part.path}{where}")
    if not path.is_file() or (path.suffix != ".npz" and path.suffix.lower() not in TABLES):
        raise DataError(f"{part.path} must be an image folder, an .npz file or a table ({', '.join(TABLES)})")


def check_classes(examples: Examples) -> None:
    """Raise DataError if there is only one class, or if a class has no images to train on."""
    check_choice(examples)
    if not find_task(examples.task).probabilities:
        return
    for name, count in examples.counts("train").items():
        if count == 0:
            raise DataError(f"class {name!r} in {examples.source} has no images to train on")
        if count == 1 and "val" not in examples.split_names:
            raise DataError(f"class {name!r} in {examples.source} has one image to train on; it needs at least two")


def check_choice(examples: Examples) -> None:
    """Raise DataError if there is only one class."""
    if find_task(examples.task).exclusive and len(examples.class_names) < 2:
        raise DataError(f"{examples.source} has only one class ({examples.class_names[0]!r}); it needs at least two")


def check_class_names(names: Sequence[str], expected: Sequence[str], source: str) -> None:
    """Raise DataError if the classes of `source` differ from the classes that a model was trained on."""
    if tuple(names) != tuple(expected):
        missing = sorted(set(expected) - set(names))
        unknown = sorted(set(names) - set(expected))
        detail = f"missing {missing}, unknown {unknown}" if missing or unknown else "their order differs"
        raise DataError(f"the classes in {source} differ from the model's: {detail}")
