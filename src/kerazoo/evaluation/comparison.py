"""Two runs on the same images: the paired difference, and whether it may be chance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kerazoo.errors import DataError
from kerazoo.evaluation.answers import Evaluation
from kerazoo.tasks.scores import Gain, gain


@dataclass(frozen=True)
class Comparison:
    """What `other` gains over `first` on the `images` that both have: in score, and in loss (`saved`, > 0 is better).

    `won` and `lost` are the images that only the second, and only the first, answers right as a whole; None for
    numbers. `chance` is the exact two-sided p-value of McNemar's test on them: how often a difference as large would
    come about if both were equally good.
    """

    split: str
    images: int
    first: float
    other: float
    gained: Gain
    saved: Gain
    won: int | None = None
    lost: int | None = None
    chance: float | None = None


def compare(first: Evaluation, other: Evaluation, *, choices: int = 1) -> Comparison:
    """Compare two evaluations on the examples with the same keys. The intervals hold for `choices` comparisons at once.

    Raises DataError if the evaluations have no examples in common, or not the same classes or labels.
    """
    if (first.task, first.class_names) != (other.task, other.class_names):
        raise DataError("the runs have other classes or another task, so their answers cannot be compared")
    place = {key: row for row, key in enumerate(other.keys)}
    shared = [key for key in first.keys if key in place]
    if not shared:
        raise DataError(f"the runs have no {first.split} images in common, so their answers cannot be compared")
    here = {key: row for row, key in enumerate(first.keys)}
    a, b = first.take([here[key] for key in shared]), other.take([place[key] for key in shared])
    if not np.array_equal(a.labels, b.labels):
        raise DataError("the labels of the same images differ, so the runs cannot be compared")
    scores = a.scores, b.scores
    gained = gain(*scores, choices=choices)
    saved = gain(-a.losses, -b.losses, choices=choices)
    result = Comparison(first.split, len(shared), float(scores[0].mean()), float(scores[1].mean()), gained, saved)
    if not first.has_probabilities:
        return result
    right = [_all_right(each) for each in (a, b)]
    won, lost = int((right[1] & ~right[0]).sum()), int((right[0] & ~right[1]).sum())
    return replace(result, won=won, lost=lost, chance=mcnemar(won, lost))


def mcnemar(won: int, lost: int) -> float:
    """The exact two-sided p-value of McNemar's test: of won + lost fair coins, as unequal or more (McNemar 1947)."""
    from scipy.stats import binomtest

    return float(binomtest(won, won + lost, 0.5).pvalue) if won + lost else 1.0


def matching(first: Sequence[Evaluation], other: Sequence[Evaluation]) -> list[tuple[Evaluation, Evaluation]]:
    """The evaluations of two runs to compare: those of the same split; and those on validation, whatever their name."""
    named = {each.split: each for each in other}
    pairs = [(each, named[each.split]) for each in first if each.split in named]
    return pairs or [(first[0], other[0])]


def difference_of(gained: Gain) -> str:
    """Whether the interval of a gain has 0 in it: "better", "worse" or "not clear"."""
    if not (math.isfinite(gained.low) and math.isfinite(gained.high)):
        return "not clear"
    return "better" if gained.low > 0 else "worse" if gained.high < 0 else "not clear"


def _all_right(result: Evaluation) -> np.ndarray:
    same = result.predicted == result.labels
    every: np.ndarray = same if same.ndim == 1 else same.all(axis=1)
    return every
