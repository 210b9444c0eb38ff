"""For several labels an image: the average precision of each label, and the threshold that suits it best.

A threshold is the probability from which on a label is given. The best one has the largest F1 on validation. Its F1 is
measured by cross-fitting: each of five folds is answered with the threshold that the others choose, because the F1 on
the examples that chose it is too good.
"""

from dataclasses import dataclass

import numpy as np

from kerazoo.evaluation.answers import Evaluation
from kerazoo.tasks.measures import average_precisions

FOLDS = 5
HALF = 0.5  # the threshold of predictions


@dataclass(frozen=True)
class LabelResult:
    """A label: its examples, average precision (None without examples), and F1 with threshold 0.5 and with the best.

    `threshold` and `f1_best` are None where there are too few examples to choose.
    """

    name: str
    examples: int
    average_precision: float | None
    f1: float
    threshold: float | None
    f1_best: float | None


def label_results(result: Evaluation) -> list[LabelResult]:
    """The result of each label of an evaluation with several labels an example."""
    precisions = average_precisions(result.labels, result.probabilities)
    columns = zip(result.class_names, result.labels.T, result.probabilities.T, precisions, strict=True)
    rows = []
    for name, labels, chances, precision in columns:
        has = labels > 0
        enough = FOLDS <= has.sum() <= len(has) - FOLDS
        rows.append(
            LabelResult(
                name, int(has.sum()), precision, _f1(has, chances >= HALF),
                best_threshold(has, chances) if enough else None, _cross_fitted(has, chances) if enough else None,
            )
        )  # fmt: skip
    return rows


def best_threshold(has: np.ndarray, chances: np.ndarray) -> float:
    """The threshold with the largest F1, between two of the (N,) `chances`; of equal ones, the nearest to 0.5."""
    order = np.argsort(-chances, kind="stable")
    sorted_chances = chances[order].astype(np.float64)
    right = np.cumsum(has[order])
    scores = 2 * right / (np.arange(1, len(has) + 1) + has.sum())
    ends = np.append(sorted_chances[1:] < sorted_chances[:-1], True)  # equal chances get the same answer
    below = np.append(sorted_chances[1:], 0.0)
    thresholds = (sorted_chances + below) / 2
    best = scores[ends].max()
    candidates = thresholds[ends & (scores >= best - 1e-12)]
    return float(candidates[np.abs(candidates - HALF).argmin()])


def _cross_fitted(has: np.ndarray, chances: np.ndarray) -> float:
    """F1 of the answers of all folds, each with the threshold of the others; a fold has its share of the examples."""
    fold = np.zeros(len(has), np.int64)
    for group in (has, ~has):
        fold[group] = np.arange(group.sum()) % FOLDS
    given = np.zeros(len(has), bool)
    for number in range(FOLDS):
        out = fold == number
        given[out] = chances[out] >= best_threshold(has[~out], chances[~out])
    return _f1(has, given)


def _f1(has: np.ndarray, given: np.ndarray) -> float:
    right = np.logical_and(has, given).sum()
    whole = has.sum() + given.sum()
    return float(2 * right / whole) if whole else 0.0
