"""Read a table of images: CSV, TSV or Parquet, with one row for each image.

| column                              | contains                                                                     |
|-------------------------------------|------------------------------------------------------------------------------|
| `path` (or file, filename, image)   | the path of the image file, relative to the table's folder                   |
| `label`                             | the class                                                                    |
| `labels`, instead                   | any number of labels, separated by `|`                                       |
| `target`, instead                   | the number to predict                                                        |
| `split`, optional                   | train, val or test, or another usual name of one; empty means train          |
| `group`, optional                   | a name; images with the same group stay in one split                         |

`data.label` names other columns: one with classes, one with numbers (`data.task = "regression"`), one with labels
separated by `|` (`data.task = "multilabel"`), or several, separated by commas, with 0 and 1 or with numbers.
"""

import csv
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from kerazoo.errors import DataError
from kerazoo.pipelines.data.examples import SPLITS, Examples
from kerazoo.pipelines.data.file_names import one_line, readable
from kerazoo.recipes.parts import DataPart
from kerazoo.tasks.task import MULTICLASS, MULTILABEL, TASKS, find_task

PATHS = ("path", "file", "filename", "image")
LABELS = {task.column: task.name for task in TASKS.values()}
LISTED = 300  # characters


def read(path: Path, part: DataPart) -> Examples:
    """The images in the table at `path`. Raises DataError, which names the table, the row and the column."""
    columns = _parquet(path) if path.suffix.lower() == ".parquet" else _text(path)
    where = next((name for name in PATHS if name in columns), None)
    if where is None:
        raise DataError(f"{path} has no column {' or '.join(PATHS)}; it has {_listed(columns) or 'none'}")
    if not columns[where]:
        raise DataError(f"{path} has no rows")
    names, task = _label_columns(path, part, columns)
    labels, class_names = find_task(task).read_columns(str(path), [columns[name] for name in names], names)
    files = [str(name) for name in columns[where]]
    rows: dict[str, int] = {}
    for row, file in enumerate(files, start=1):
        if not file:
            raise DataError(f"{path}, row {row}: column {where} is empty")
        if "\0" in file:
            raise DataError(f"{path}, row {row}: column {where} contains a NUL byte; correct the path")
        first = rows.setdefault(file, row)
        if first != row:
            raise DataError(f"{path}, row {row}: {one_line(file)} is already in row {first}; remove one of the rows")
    splits = _splits(path, columns.get("split", [""] * len(files)))
    groups = columns.get("group")
    return Examples(
        str(path), tuple(map(readable, files)), labels, np.array(splits), class_names, task,
        paths=tuple(str(path.parent / file) for file in files),
        groups=None if groups is None else tuple(str(value) or key for value, key in zip(groups, files, strict=True)),
    )  # fmt: skip


def _text(path: Path) -> dict[str, list[Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    rows = [row for row in rows if row]
    header = [name.strip() for name in rows[0]] if rows else []
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(header):
            raise DataError(f"{path}, row {number} must have {len(header)} values, one for each column, got {len(row)}")
    if len(set(header)) < len(header):
        raise DataError(f"{path} has two columns with the same name: {_listed(header)}")
    return {name: [row[at] for row in rows[1:]] for at, name in enumerate(header)}


def _parquet(path: Path) -> dict[str, list[Any]]:
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
        if len(set(table.column_names)) < len(table.column_names):
            raise ValueError(f"two columns have the same name: {_listed(table.column_names)}")
        return {name: [_plain(value) for value in table[name].to_pylist()] for name in table.column_names}
    except Exception as error:  # reading the values can fail in many ways: damaged text, dates out of range and more
        raise DataError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from error


def _listed(columns: Iterable[str]) -> str:
    """The names of columns for a message, cut because a damaged file can have very long ones."""
    names = ", ".join(columns)
    return names if len(names) <= LISTED else f"{names[:LISTED]}..."


def _plain(value: Any) -> Any:
    """A Parquet value as in a text file: "" for missing values, and text for bytes."""
    if isinstance(value, list):
        return [_plain(item) for item in value if item is not None]
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return os.fsdecode(value) if isinstance(value, bytes) else value


def _label_columns(path: Path, part: DataPart, columns: dict[str, list[Any]]) -> tuple[list[str], str]:
    """The label columns and the task."""
    if part.label is None:
        known = [name for name in LABELS if name in columns]
        if len(known) != 1:
            has = f"it has {_listed(columns)}" if not known else f"it has {' and '.join(known)}"
            raise DataError(f"{path} must have one column of {', '.join(LABELS)}, or set data.label; {has}")
        return known, part.task or LABELS[known[0]]
    names = [name.strip() for name in part.label.split(",")]
    for name in names:
        if name not in columns:
            raise DataError(f"data.label={part.label!r}: {path} has no column {name!r}; it has {_listed(columns)}")
    return names, part.task or (MULTILABEL.name if len(names) > 1 else LABELS.get(names[0], MULTICLASS.name))


def _splits(path: Path, column: list[Any]) -> list[str]:
    """The split of each row. Raises DataError for an unknown name, and for two names of the same split."""
    splits: list[str] = []
    names: dict[str, str] = {}
    for row, value in enumerate(column, start=1):
        name = str(value).strip().lower() or "train"
        if name not in SPLITS:
            raise DataError(f"{path}, row {row}: split must be one of {', '.join(SPLITS)}, got {value!r}")
        split = SPLITS[name]
        other = names.setdefault(split, name)
        if other != name and str(value).strip():
            raise DataError(
                f"{path}, row {row}: split is {value!r}, but {other!r} in earlier rows; use one name for {split}"
            )
        splits.append(split)
    return splits
