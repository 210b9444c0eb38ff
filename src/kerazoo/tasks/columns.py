"""Read labels from the columns of a table."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from kerazoo.errors import DataError

BETWEEN = "|"  # separates the labels in one cell
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
