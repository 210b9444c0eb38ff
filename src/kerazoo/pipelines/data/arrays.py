"""Read an `.npz` file: `x_train` and `y_train`; optionally the same for `val` and `test`, and `class_names`."""

from pathlib import Path

import numpy as np

from kerazoo.arrays import read_archive
from kerazoo.errors import DataError
from kerazoo.files import DamagedError
from kerazoo.pipelines.data.examples import SPLITS, Examples
from kerazoo.tasks.task import MULTICLASS, MULTILABEL, REGRESSION, find_task

MAX_CLASSES = 100_000
FEW = 16  # an array with at most this height, and more channels than this, probably has its channels first


def read(path: Path) -> Examples:
    """The examples in `path`: x is (N, H, W) or (N, H, W, C) uint8, with any number of channels.

    y is (N,) class numbers from 0; or (N, K) of 0 and 1 for several labels per image; or (N,) or (N, K) floats, which
    are numbers to predict. Raises DataError, which names the array.
    """
    arrays = _by_split(path, _arrays(path))
    splits = [name for name in ("train", "val", "test") if f"x_{name}" in arrays]
    if "train" not in splits:
        raise DataError(f"{path} has no x_train; it has {', '.join(sorted(arrays)) or 'nothing'}")
    pixels, labels, tasks, keys = [], [], [], []
    for split in splits:
        x = arrays[f"x_{split}"]
        if x.dtype != np.uint8 or x.ndim not in (3, 4) or 0 in x.shape[1:]:
            wanted = "uint8 images of shape (N, H, W) or (N, H, W, C)"
            raise DataError(f"{path}: x_{split} must be {wanted}, got {x.shape} {x.dtype}")
        if x.ndim == 4 and x.shape[1] <= FEW < x.shape[3]:
            raise DataError(
                f"{path}: x_{split} must be (N, H, W, C), got {x.shape}, which looks like channels first; "
                f"np.moveaxis(x, 1, -1) changes it to {(len(x), *x.shape[2:], x.shape[1])}"
            )
        if not len(x):
            raise DataError(f"{path}: x_{split} contains no images")
        y, task = _labels(path, split, len(x), arrays.get(f"y_{split}"))
        pixels.append(x[..., None] if x.ndim == 3 else x)
        labels.append(y)
        tasks.append(task)
        keys += [f"x_{split}[{i}]" for i in range(len(x))]
    if len({x.shape[1:] for x in pixels}) > 1:
        raise DataError(f"{path}: the splits have images of different shapes: {[x.shape[1:] for x in pixels]}")
    if len({(task, y.shape[1:]) for task, y in zip(tasks, labels, strict=True)}) > 1:
        raise DataError(f"{path}: the splits have labels for different tasks: {[(y.shape, y.dtype) for y in labels]}")
    every = np.concatenate(labels)
    return Examples(
        str(path), tuple(keys), every, np.repeat(splits, [len(x) for x in pixels]),
        _names(path, arrays.get("class_names"), every, tasks[0]), tasks[0], pixels=np.concatenate(pixels),
    )  # fmt: skip


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_archive(path)
    except DamagedError as error:
        raise DataError(f"{path} cannot be read as .npz: {error}; write it again with np.savez") from error


def _by_split(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`arrays` with standard names: x_valid becomes x_val, y_validation becomes y_val, and so on."""
    named: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        axis, _, split = name.partition("_")
        usual = f"{axis}_{SPLITS.get(split.lower(), split)}" if axis in ("x", "y") else name
        if usual in named:
            raise DataError(f"{path} has two arrays for {usual}; remove one")
        named[usual] = array
    return named


def _labels(path: Path, split: str, count: int, y: np.ndarray | None) -> tuple[np.ndarray, str]:
    if y is not None and y.ndim in (1, 2) and len(y) == count:
        if y.dtype.kind == "f" and y.ndim == 2 and y.shape[1] > 1 and np.isin(y, (0, 1)).all():
            raise DataError(
                f"{path}: y_{split} contains 0 and 1 as floats; use class numbers, or integers for several labels"
            )
        if y.dtype.kind == "f" and (np.abs(y) <= np.finfo(np.float32).max).all():
            return y.reshape(count, -1).astype(np.float32), REGRESSION.name
        if y.ndim == 2 and y.shape[1] > 1 and y.dtype.kind in "iub" and np.isin(y, (0, 1)).all():
            return y.astype(np.float32), MULTILABEL.name
        if y.size == count and y.dtype.kind in "iu" and y.min(initial=0) >= 0 and y.max(initial=0) < 1 << 62:
            return y.reshape(-1).astype(np.int64), MULTICLASS.name
    raise DataError(
        f"{path}: y_{split} must be {count} class numbers from 0, or ({count}, K) of 0 and 1, or finite floats"
    )


def _names(path: Path, names: np.ndarray | None, labels: np.ndarray, task: str) -> tuple[str, ...]:
    found_task = find_task(task)
    count = found_task.unit_count(labels)
    if names is not None and names.ndim != 1:
        raise DataError(f"{path}: class_names must be a list of names, got shape {names.shape}")
    if names is None and count > MAX_CLASSES:
        raise DataError(
            f"{path}: labels must be at most {MAX_CLASSES - 1:,}, got {count - 1}; number classes from 0 without gaps"
        )
    if names is None:
        return tuple(map(str, range(count)))
    try:
        names = names.astype(str)
    except ValueError as error:  # bytes that are not ASCII
        raise DataError(f"{path}: class_names cannot be read as text ({error}); write them as str") from error
    problem = found_task.naming_problem(count, len(names))
    if problem:
        raise DataError(f"{path}: {problem}")
    return tuple(names.tolist())
