"""Read labels from the columns of a table, and write them into one."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kerazoo.errors import DataError

BETWEEN = "|"  # separates the labels in one cell
WORDS = re.compile(r"(?:[^|\\]|\\.)+", re.DOTALL)  # the escaped names in a cell
FLOAT_MAX = float(np.finfo(np.float32).max)


def labels_in(value: Any) -> set[str]:
    """The labels in one cell: a list, or words separated by `|`."""
    words: Sequence[Any] = value if isinstance(value, list) else str(value).split(BETWEEN)
    return {str(word).strip() for word in words} - {""}


def in_order(words: Iterable[str]) -> tuple[str, ...]:
    """Each word once, sorted: by value if all are whole numbers, else alphabetically."""
    known = set(words)
    whole = all(word.isdecimal() and word.isascii() for word in known)
    return tuple(sorted(known, key=lambda word: (int(word) if whole else 0, word)))


def numbers(where: str, columns: Sequence[Sequence[Any]], names: Sequence[str]) -> np.ndarray:
    """(N, K) float64 numbers of K columns, finite in float32. Raises DataError, which names the row and the column."""
    return np.stack([_numbers(where, name, column) for name, column in zip(names, columns, strict=True)], axis=1)


def _numbers(where: str, name: str, column: Sequence[Any]) -> np.ndarray:
    values = np.empty(len(column))
    for row, value in enumerate(column):
        try:
            values[row] = float(value)
        except (TypeError, ValueError):
            values[row] = np.nan
        if not abs(values[row]) <= FLOAT_MAX:
            raise DataError(f"{where}, row {row + 1}: column {name} must be a finite number, got {value!r}")
    return values


def join_labels(given: Sequence[Any], names: Sequence[str]) -> str:
    """The names of the labels that are `given` (K,), in one cell: `a|b`.

    If one of the K `names` has a `|`, all of them are `escaped`: `b|c` is `b\\|c`.
    """
    return BETWEEN.join(word for word, on in zip(_written(names), given, strict=True) if on)


def split_labels(cells: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """(N, K) float32, 0 or 1, from N cells of `join_labels`. Raises ValueError for a label that is not known.

    Earlier versions did not escape names. Their cells are read, too; of several readings, the one with the first names.
    """
    written = _written(names)
    place = {word: number for number, word in enumerate(written)}
    try:
        chosen = [_numbers_in(cell, place) for cell in cells]
    except ValueError:
        if written == list(names):
            raise
        chosen = [_unescaped(cell, names) for cell in cells]
    labels = np.zeros((len(cells), len(names)), np.float32)
    for row, columns in zip(labels, chosen, strict=True):
        row[columns] = 1
    return labels


def _written(names: Sequence[str]) -> list[str]:
    """The names as they are written into a cell."""
    if not any(BETWEEN in name for name in names):
        return list(names)
    return list(map(escaped, names))


def escaped(name: str) -> str:
    """The name with a backslash before each `|` and each backslash."""
    return name.replace("\\", r"\\").replace(BETWEEN, rf"\{BETWEEN}")


def _numbers_in(cell: str, place: Mapping[str, int]) -> list[int]:
    """The numbers of the labels in a cell. `place` has the number of each name, as it is written."""
    escaped = any(BETWEEN in name for name in place)
    words = WORDS.findall(cell) if escaped else cell.split(BETWEEN) if cell else []
    columns = [place.get(word, -1) for word in words]
    if BETWEEN.join(words) != cell or -1 in columns or columns != sorted(set(columns)):
        raise ValueError(f"{cell!r:.60} has a label that is not known")
    return columns


def _unescaped(cell: str, names: Sequence[str]) -> list[int]:
    """The numbers of the labels in a cell of names that are not escaped, in the order of `names`."""
    text = f"{cell}{BETWEEN}" if cell else ""
    read: dict[int, list[int]] = {0: []}  # how many characters are read -> as which labels
    for number, name in enumerate(names):
        for start, columns in list(read.items()):
            if text.startswith(f"{name}{BETWEEN}", start):
                read.setdefault(start + len(name) + 1, [*columns, number])
    if len(text) not in read:
        raise ValueError(f"{cell!r:.60} has a label that is not known")
    return read[len(text)]
