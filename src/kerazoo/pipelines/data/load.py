"""Reading data: chooses the reader, holds a share out, and refuses what cannot be trained on."""

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

    Where the data has no validation split of its own, a share of train is held out (`splits.py`), unless `hold_out` is
    False: then what has no splits is all "test", to evaluate on. Raises DataError, naming the folder, class or file,
    for anything that cannot be trained on.
    """
    from kerazoo.pipelines.data import manifest

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
    from kerazoo.pipelines.data import splits

    check_classes(examples)
    examples = splits.hold_out(examples, part.validation, part.test)
    check_classes(examples)
    return examples


def read_examples(part: DataPart) -> Examples:
    """All examples of the source that `part` names, as they are there: nothing held out, no manifest followed.

    Raises DataError where it cannot be read.
    """
    # the readers make Examples, hence they are imported here
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
    """Raise DataError where there is nothing to tell apart, or a class is without images to train on."""
    check_choice(examples)
    if not find_task(examples.task).probabilities:
        return
    for name, count in examples.counts("train").items():
        if count == 0:
            raise DataError(f"class {name!r} in {examples.source} has no images to train on")
        if count == 1 and "val" not in examples.split_names:
            raise DataError(f"class {name!r} in {examples.source} has one image to train on; it takes at least two")


def check_choice(examples: Examples) -> None:
    """Raise DataError where there is one class only, and so nothing to tell apart."""
    if find_task(examples.task).exclusive and len(examples.class_names) < 2:
        raise DataError(f"{examples.source} has one class only ({examples.class_names[0]!r}); it takes at least two")


def check_class_names(found: Sequence[str], expected: Sequence[str], source: str) -> None:
    """Raise DataError where the classes of `source` are not those a model was trained on."""
    if tuple(found) != tuple(expected):
        missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
        detail = f"missing {missing}, unknown {extra}" if missing or extra else "in another order"
        raise DataError(f"the classes in {source} are not the model's: {detail}")
