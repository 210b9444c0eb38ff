"""How well each class is recognized, and which classes are taken for which others.

Precision and recall are shares of examples, and have Wilson's 95 % intervals. F1 = 2 TP / (2 TP + FP + FN) = 2 J / (1 +
J) with J = TP / (TP + FP + FN). Of independent examples that have the class or got it as an answer, a share J has both,
so J has Wilson's interval, and F1, which rises with J, the interval that follows from it.
"""

from dataclasses import dataclass

import numpy as np

from kerazoo.tasks.measures import intervals


@dataclass(frozen=True)
class Share:
    """A share in [0, 1] with its 95 % interval; NaN with 0 to 1 where there are no examples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassResult:
    """The result of a class: the number of its examples, and of the examples that got it as an answer."""

    name: str
    examples: int
    answers: int
    precision: Share
    recall: Share
    f1: Share


@dataclass(frozen=True)
class Pair:
    """Examples of class `true` that were answered with class `answer`, and their share of the class."""

    true: int
    answer: int
    count: int
    share: float


def class_results(labels: np.ndarray, answers: np.ndarray, names: tuple[str, ...]) -> list[ClassResult]:
    """The result of each class from (N, K) true labels and answers, both 0 or 1."""
    right = np.logical_and(labels, answers).sum(axis=0)
    return _results(right, labels.sum(axis=0).astype(np.int64), answers.sum(axis=0).astype(np.int64), names)


def class_results_of(confusion: np.ndarray, names: tuple[str, ...]) -> list[ClassResult]:
    """The result of each class from (K, K) counts, whose rows are true classes and columns answers."""
    return _results(confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0), names)


def _results(right: np.ndarray, true: np.ndarray, answered: np.ndarray, names: tuple[str, ...]) -> list[ClassResult]:
    either = true + answered - right
    precision, recall, both = (_shares(right, count) for count in (answered, true, either))
    rows = zip(names, true.tolist(), answered.tolist(), precision, recall, both, strict=True)
    return [
        ClassResult(name, examples, answers, p, r, Share(_f1(j.value), _f1(j.low), _f1(j.high)))
        for name, examples, answers, p, r, j in rows
    ]


def _shares(part: np.ndarray, whole: np.ndarray) -> list[Share]:
    low, high = intervals(part, whole)
    values = np.where(whole > 0, part / np.maximum(whole, 1), np.nan)
    return [Share(*each) for each in zip(values.tolist(), low.tolist(), high.tolist(), strict=True)]


def _f1(jaccard: float) -> float:
    return 2 * jaccard / (1 + jaccard)


def most_confused(confusion: np.ndarray, most: int) -> list[Pair]:
    """At most `most` pairs of classes with the most wrong answers; among equal counts, the largest share first."""
    sizes = confusion.sum(axis=1)
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    rows, columns = np.nonzero(wrong)
    counts = wrong[rows, columns]
    shares = counts / sizes[rows]
    order = np.lexsort((columns, rows, -shares, -counts))[:most]
    return [Pair(int(rows[n]), int(columns[n]), int(counts[n]), float(shares[n])) for n in order]
