"""Folds: equal parts of the images to train and to validate on, each of which can be the validation split.

Each class is spread evenly over the folds. Examples of one group are in one fold, and so are identical files. The
folds depend only on the images' contents and groups, never on their order.
"""

from dataclasses import replace

import numpy as np

from kerazoo.errors import DataError
from kerazoo.pipelines.data.examples import Examples
from kerazoo.pipelines.data.splits import units_of
from kerazoo.tasks.task import find_task


def with_fold(examples: Examples, folds: int, fold: int) -> Examples:
    """`examples` with the fold number `fold`, from 1, as val and the other folds as train. Test stays as it is."""
    numbers = folds_of(examples, folds)
    splits = np.where(numbers == fold, "val", "train")
    return replace(examples, splits=np.where(numbers == 0, examples.splits, splits))


def folds_of(examples: Examples, folds: int) -> np.ndarray:
    """(N,) the fold of each example of train and val, from 1 to `folds`, and 0 for test. Raises DataError.

    Units, which stay together, are dealt from the largest to the smallest, those of one size by hash. Each goes to the
    fold that has the fewest examples of its class, among those to the smallest, and among those to the first.
    """
    rows = np.flatnonzero(examples.splits != "test")
    used = examples.take(rows)
    units, first, unit_of = units_of(used)
    if len(units) < folds:
        raise DataError(
            f"data.folds={folds}: {examples.source} has only {len(units)} images or groups to deal; use fewer folds"
        )
    sizes = np.bincount(unit_of)
    strata = np.unique(find_task(used.task).strata(used.labels)[first], return_inverse=True)[1]
    counts = np.zeros((folds, strata.max() + 1), np.int64)
    fold_of = np.empty(len(units), np.int64)
    for unit in np.lexsort((np.arange(len(units)), strata, -sizes)):
        order = np.lexsort((counts.sum(axis=1), counts[:, strata[unit]]))
        fold_of[unit] = order[0]
        counts[order[0], strata[unit]] += sizes[unit]
    numbers = np.zeros(len(examples), np.int64)
    numbers[rows] = 1 + fold_of[unit_of]
    return numbers
