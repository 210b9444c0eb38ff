"""A table of images: CSV, TSV or Parquet, one row an image.

| column                              | holds                                                                        |
|-------------------------------------|------------------------------------------------------------------------------|
| `path` (or file, filename, image)   | the image's file, from the table's folder                                  |
| `label`                             | its class                                                                    |
| `labels`, instead                   | its labels, any number, with `|` between them                                |
| `target`, instead                   | the number to predict                                                        |
| `split`, by choice                  | train, val or test, or another usual name of one; empty is train             |
| `group`, by choice                  | what belongs together and must not be parted by a split                      |

`data.label` names other columns: one with classes, one with numbers (`data.task = "regression"`), one with `|` between
labels (`data.task = "multilabel"`), or several, separated by commas, of 0 and 1 or of numbers.
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
    """The images in the table at `path`. Raises DataError that names the table, the row and the column."""
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
            raise DataError(f"{path}, row {row}: column {where} holds a NUL byte, which no path has; mend the row")
        if (first := rows.setdefault(file, row)) != row:
            raise DataError(f"{path}, row {row}: {one_line(file)} stands in row {first} already; an image has one row")
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
            raise DataError(f"{path}, row {number}: {len(row)} values for {len(header)} columns")
    if len(set(header)) < len(header):
        raise DataError(f"{path} has two columns of one name: {_listed(header)}")
    return {name: [row[at] for row in rows[1:]] for at, name in enumerate(header)}


def _parquet(path: Path) -> dict[str, list[Any]]:
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
        if len(set(table.column_names)) < len(table.column_names):
            raise ValueError(f"two columns have one name: {_listed(table.column_names)}")
        return {name: [_plain(value) for value in table[name].to_pylist()] for name in table.column_names}
    except Exception as error:  # damaged text, dates out of range and more are found as the values are taken
        raise DataError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from error


def _listed(columns: Iterable[str]) -> str:
    """The names of columns for a message, which a damaged file would make very long."""
    names = ", ".join(columns)
    return names if len(names) <= LISTED else f"{names[:LISTED]}..."


def _plain(value: Any) -> Any:
    """A value of Parquet as a text file would have it: nothing for what is missing, names for bytes."""
    if isinstance(value, list):
        return [_plain(item) for item in value if item is not None]
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return os.fsdecode(value) if isinstance(value, bytes) else value


def _label_columns(path: Path, part: DataPart, columns: dict[str, list[Any]]) -> tuple[list[str], str]:
    """The columns that hold the labels, and the task."""
    if part.label is None:
        known = [name for name in LABELS if name in columns]
        if len(known) != 1:
            has = f"it has {_listed(columns)}" if not known else f"it has {' and '.join(known)}"
            raise DataError(f"{path} must have one column of {', '.join(LABELS)}, or data.label names another; {has}")
        return known, part.task or LABELS[known[0]]
    names = [name.strip() for name in part.label.split(",")]
    for name in names:
        if name not in columns:
            raise DataError(f"data.label={part.label!r}: {path} has no column {name!r}; it has {_listed(columns)}")
    return names, part.task or (MULTILABEL.name if len(names) > 1 else LABELS.get(names[0], MULTICLASS.name))


def _splits(path: Path, column: list[Any]) -> list[str]:
    """The split of each row. Raises DataError for a name that is none, and for two names of one split."""
    splits: list[str] = []
    names: dict[str, str] = {}
    for row, value in enumerate(column, start=1):
        name = str(value).strip().lower() or "train"
        if name not in SPLITS:
            raise DataError(f"{path}, row {row}: split {value!r} is not one of {', '.join(SPLITS)}")
        split = SPLITS[name]
        if (other := names.setdefault(split, name)) != name and str(value).strip():
            raise DataError(
                f"{path}, row {row}: split {value!r}, and {other!r} in rows before; use one name for {split}"
            )
        splits.append(split)
    return splits
