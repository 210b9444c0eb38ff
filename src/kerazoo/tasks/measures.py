"""Measures that several tasks share: agreement of answers, intervals, confusion matrices, calibration."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

TOLERANCE = 1e-4  # largest allowed difference of a probability; different batches round differently
BINS = 15  # bins of the expected calibration error


def near(answers: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """(N,) whether two (N, K) answers for an image differ by at most TOLERANCE, relative for numbers over 1."""
    each = np.abs(answers - recorded) <= TOLERANCE * np.maximum(1, np.abs(recorded))  # false for NaN
    same: np.ndarray = each.all(axis=1)
    return same


def differences(answers: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """(N,) the largest difference of two (N, K) answers for each image, relative for numbers over 1."""
    each: np.ndarray = (np.abs(answers - recorded) / np.maximum(1, np.abs(recorded))).max(axis=1)
    return each


def interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a `share` of `count` examples (Wilson 1927), within [0, 1]."""
    from scipy.stats import binomtest

    bounds = binomtest(round(share * count), count).proportion_ci(0.95, method="wilson")
    return float(bounds.low), float(bounds.high)


def intervals(successes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's 95 % intervals of many shares, (n,) `successes` of `counts`: the lower and the upper ends.

    As `interval`, for all at once. A share of no examples has 0 to 1.
    """
    z = NormalDist().inv_cdf(0.975)
    n = np.maximum(counts, 1).astype(np.float64)
    share = successes / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    known = counts > 0
    low = np.where(known & (successes > 0), middle - half, 0.0)
    high = np.where(known & (successes < counts), middle + half, 1.0)
    return np.clip(low, 0, 1), np.clip(high, 0, 1)


def mean_interval(values: np.ndarray, groups: Sequence[str] | None = None) -> tuple[float, float]:
    """The 95 % interval of the mean of (N,) `values`, of which those of one group belong together.

    It is Student's, with the variance over groups: G / (G - 1) sum_g (sum of the deviations in g)^2 / N^2. It is the
    whole line if there is only one group.
    """
    from scipy.stats import t

    names = np.arange(len(values)) if groups is None else np.unique(np.array(groups), return_inverse=True)[1]
    mean = float(values.mean())
    sums = np.bincount(names, weights=values - mean)
    count = len(sums)
    if count < 2:
        return -np.inf, np.inf
    half = float(t.ppf(0.975, count - 1)) * math.sqrt(count / (count - 1) * float((sums**2).sum())) / len(values)
    return mean - half, mean + half


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(K, K) counts; rows are true classes, columns answers."""
    from sklearn.metrics import confusion_matrix

    counts: np.ndarray = confusion_matrix(labels, predicted, labels=np.arange(classes))
    return counts


def average_precisions(labels: np.ndarray, answers: np.ndarray) -> list[float | None]:
    """The average precision of each of K labels; None for a label that does not occur."""
    from sklearn.metrics import average_precision_score

    columns = zip(labels.T, answers.T, strict=True)
    return [float(average_precision_score(y, p)) if y.any() else None for y, p in columns]


def calibration_gap(chances: np.ndarray, happened: np.ndarray) -> float:
    """The expected calibration error, in [0, 1]: sum over bins b of |B_b| / n * |share right - mean confidence|.

    15 bins of equal width. Source: Guo et al. 2017, arXiv:1706.04599, section 2.
    """
    _, happenings, confidences = calibration_bins(chances, happened)
    return float(np.abs(happenings - confidences).sum() / len(chances))


def calibration_bins(chances: np.ndarray, happened: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(15,) for bins of equal width of (n,) `chances`: how many there are, how often it `happened`, and their sum."""
    number = np.minimum((chances * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(number, minlength=BINS)
    sums = [np.bincount(number, weights=values, minlength=BINS) for values in (happened, chances)]
    return counts, sums[0], sums[1]
