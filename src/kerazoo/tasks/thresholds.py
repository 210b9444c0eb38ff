"""The probability from which on a label is given: one threshold for each label, chosen by F1.

F1 = 2 TP / (2 TP + FP + FN). The threshold of a label is the one with the largest F1 on validation. It is kept only if
its F1 by cross-fitting is higher than F1 at 0.5: each of five folds is answered with the threshold that the others
choose, because the F1 on the examples that chose it is too good. Otherwise the threshold is 0.5. Source of thresholds
by F1: Lipton et al. 2014, arXiv:1402.1892.

Shape letters: N examples, K labels.
"""

from collections.abc import Callable, Sequence

import numpy as np

FOLDS = 5
HALF = 0.5  # the threshold of predictions that have none of their own, and of every metric but one
SAME = 1e-12  # scores that differ by less are equal


def given_labels(answers: np.ndarray, thresholds: Sequence[float] = ()) -> np.ndarray:
    """(N, K) bool: whether a probability is at least the threshold of its label; without `thresholds`, at least 0.5.

    Compared in float64, so that no threshold is rounded to a probability.
    """
    limits = np.array(thresholds or HALF, np.float64)
    given: np.ndarray = answers.astype(np.float64) >= limits
    return given


def macro_f1(labels: np.ndarray, given: np.ndarray) -> float | None:
    """The mean F1, in [0, 1], of the labels that occur in (N, K) `labels`; None if none does."""
    scores = [f1(has, answered) for has, answered in zip(labels.T > 0, given.T, strict=True) if has.any()]
    return float(np.mean(scores)) if scores else None


def f1(has: np.ndarray, given: np.ndarray) -> float:
    """F1, in [0, 1], of (N,) bools: whether an example has the label, and whether it was given; 0 for none of both."""
    right = np.logical_and(has, given).sum()
    whole = has.sum() + given.sum()
    return float(2 * right / whole) if whole else 0.0


def kept_thresholds(labels: np.ndarray, answers: np.ndarray) -> tuple[float, ...]:
    """The threshold of each of K labels, in (0, 1), from (N, K) labels and probabilities; () if each is 0.5."""
    columns = zip(labels.T > 0, answers.T.astype(np.float64), strict=True)
    kept = tuple(kept_threshold(has, chances) for has, chances in columns)
    return () if all(threshold == HALF for threshold in kept) else kept


def cross_fitted_labels(labels: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """(N, K) bool: the labels that are given if the examples of each fold get the thresholds that the others keep.

    Whether a threshold is kept is decided by the others, too. So this shows what thresholds are worth for other
    examples; the answers with the thresholds of all examples would be too good.
    """
    columns = zip(labels.T > 0, answers.T.astype(np.float64), strict=True)
    return np.stack([_cross_fitted(has, chances, kept_threshold) for has, chances in columns], axis=1)


def kept_threshold(has: np.ndarray, chances: np.ndarray) -> float:
    """The best threshold of a label if its F1 by cross-fitting is higher than F1 at 0.5, else 0.5."""
    score = cross_fitted_f1(has, chances)
    return best_threshold(has, chances) if score is not None and score > f1(has, chances >= HALF) else HALF


def cross_fitted_f1(has: np.ndarray, chances: np.ndarray) -> float | None:
    """F1 of the answers of all folds, each with the best threshold of the others.

    None if fewer than 5 examples have the label, or fewer than 5 do not.
    """
    if not FOLDS <= has.sum() <= len(has) - FOLDS:
        return None
    return f1(has, _cross_fitted(has, chances, best_threshold))


def best_threshold(has: np.ndarray, chances: np.ndarray) -> float:
    """The threshold in (0, 1) with the largest F1: 0.5 if it is one, else midway between two of the (N,) `chances`.

    Of several, the one nearest to 0.5.
    """
    chances = chances.astype(np.float64)
    order = np.argsort(-chances, kind="stable")
    sorted_chances = chances[order]
    right = np.cumsum(has[order])
    scores = 2 * right / (np.arange(1, len(has) + 1) + has.sum())
    below = np.append(sorted_chances[1:], 0.0)
    ends = below < sorted_chances  # equal chances get the same answer, and a chance of 0 is never enough
    if not ends.any():
        return HALF
    best = scores[ends].max()
    if f1(has, chances >= HALF) >= best - SAME:
        return HALF
    thresholds = (sorted_chances + below) / 2
    candidates = thresholds[ends & (scores >= best - SAME)]
    return float(candidates[np.abs(candidates - HALF).argmin()])


def _cross_fitted(
    has: np.ndarray, chances: np.ndarray, choose: Callable[[np.ndarray, np.ndarray], float]
) -> np.ndarray:
    """(N,) whether the label is given, with what the other folds `choose`; a fold has its share of the examples."""
    chances = chances.astype(np.float64)
    fold = np.zeros(len(has), np.int64)
    for group in (has, ~has):
        fold[group] = np.arange(group.sum()) % FOLDS
    given = np.zeros(len(has), bool)
    for number in range(FOLDS):
        out = fold == number
        given[out] = chances[out] >= choose(has[~out], chances[~out])
    return given
