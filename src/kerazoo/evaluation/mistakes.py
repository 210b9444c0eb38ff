"""The examples to look at first: those with the largest losses, and those whose label may be wrong."""

import numpy as np

from kerazoo.evaluation.answers import Evaluation


def top_losses(result: Evaluation, count: int) -> list[int]:
    """The rows of at most `count` examples with the largest losses, the largest first; right answers are left out."""
    losses = result.losses
    order = np.argsort(-losses, kind="stable")
    if result.has_probabilities:
        predicted = result.predicted
        same = predicted == result.labels
        order = order[~(same if same.ndim == 1 else same.all(axis=1))[order]]
    return [int(row) for row in order[:count]]


def likely_label_errors(result: Evaluation) -> list[int]:
    """The rows of examples whose label is probably wrong, the surest first; for one class an example only.

    The network did not learn from these examples. An example counts if the network gives another class a probability of
    at least t_j, the mean probability of class j among the examples that have it, and does not do so for the class of
    the label; and if the other class is the more probable one. They are ordered by the probability of their label minus
    that of the answer. Source: confident learning, Northcutt et al. 2021, arXiv:1911.00068, section 3.1.
    """
    answers, labels = result.probabilities, result.labels
    if not result.is_exclusive or result.accuracy <= 0.5:
        return []  # what has not been learned cannot contradict a label
    count, classes = answers.shape
    own = answers[np.arange(count), labels].astype(np.float64)
    sizes = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, weights=own, minlength=classes)
    limits = np.where(sizes > 0, sums / np.maximum(sizes, 1), np.inf)
    rows = np.flatnonzero(result.predicted != labels)
    chosen = result.predicted[rows]
    highest = answers[rows, chosen]
    sure = (highest >= limits[chosen]) & (own[rows] < limits[labels[rows]])
    rows, margins = rows[sure], own[rows[sure]] - highest[sure]
    return [int(row) for row in rows[np.argsort(margins, kind="stable")]]
