"""Averages of weights, and temperatures. Each is evaluated on validation examples that were not used to choose it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from kerazoo.tasks.base import Task
from kerazoo.tasks.scores import Measured

SHARES = (0.2, 0.4, 0.6, 0.8)  # shares of the fine-tuned weights in an average
KEPT = -1.0  # a pseudo-share that means the weights kept so far
RANGE = (0.05, 20.0)  # search range of the temperature
FOLDS = 5  # folds of the validation examples

Weights = list[np.ndarray]


def folds_of(labels: np.ndarray, task: Task) -> np.ndarray:
    """(N,) the fold of each example, from 0 to FOLDS - 1. Each class is spread evenly over the folds."""
    order = np.random.default_rng(0).permutation(len(labels))
    order = order[np.argsort(task.strata(labels)[order], kind="stable")]
    folds = np.empty(len(labels), np.int64)
    folds[order] = np.arange(len(labels)) % FOLDS
    return folds


def cross_fit(fit: Callable[[np.ndarray], float], folds: np.ndarray) -> np.ndarray:
    """(N,) for each example the result of `fit` on all folds except its own; `fit` takes a mask of examples."""
    values = np.empty(len(folds))
    for fold in np.unique(folds):
        others = folds != fold
        values[~others] = fit(others if others.any() else ~others)  # with only one example, nothing is kept anyway
    return values


@dataclass(frozen=True)
class Average:
    """An average of two sets of weights. `share` is that of the second set, or None if no average is better.

    `judged` is measured on each fold of validation with the share that the other folds choose. `measured` uses `share`,
    which is chosen on all folds.
    """

    share: float | None
    weights: Weights
    judged: Measured
    measured: Measured

    def helps_over(self, kept: Measured) -> bool:
        """Whether the average should be kept."""
        return self.share is not None and self.judged.helps_over(kept)


def best_average(
    before: Weights, after: Weights, measure: Callable[[Weights], Measured], kept: Measured, folds: np.ndarray
) -> Average:
    """The average (1 - a) * before + a * after with the lowest loss; no average if `kept` has a lower loss.

    A loss that is not finite is never chosen. Source: WiSE-FT, Wortsman et al. 2021, arXiv:2109.01903; here the first
    set is the pretrained network with the probe.
    """

    def average(share: float) -> Weights:
        return [_between(old, new, share) for old, new in zip(before, after, strict=True)]

    candidates = {KEPT: kept} | {share: measure(average(share)) for share in SHARES}

    def choose(rows: np.ndarray) -> float:
        losses = {share: float(one.losses[rows].mean()) for share, one in candidates.items()}
        return min(candidates, key=lambda share: losses[share] if np.isfinite(losses[share]) else np.inf)

    share = choose(np.ones(len(folds), bool))
    judged = _joined(candidates, cross_fit(choose, folds))
    if share == KEPT:
        return Average(None, [], judged, kept)
    return Average(share, average(share), judged, candidates[share])


def _joined(candidates: Mapping[float, Measured], shares: np.ndarray) -> Measured:
    """The measure of each example with the model of its own share."""
    first = next(iter(candidates.values()))
    scores = np.empty_like(first.scores)
    losses = np.empty_like(first.losses)
    doubts = None if first.doubts is None else np.empty_like(first.doubts)
    for share in np.unique(shares):
        rows = shares == share
        one = candidates[float(share)]
        scores[rows] = one.scores[rows]
        losses[rows] = one.losses[rows]
        if doubts is not None and one.doubts is not None:
            doubts[rows] = one.doubts[rows]
    return Measured(scores, losses, doubts)


def _between(old: np.ndarray, new: np.ndarray, share: float) -> np.ndarray:
    if not np.issubdtype(new.dtype, np.floating):
        return new
    wide = old.astype(np.float64)
    mixed: np.ndarray = (wide + share * (new - wide)).astype(new.dtype)  # equal values stay equal to the last bit
    return mixed


@dataclass(frozen=True)
class Temperature:
    """A temperature: `value` is fitted to all validation examples.

    `judged` and `error` (the expected calibration error) are measured on each fold with the temperature that is fitted
    to the other folds. `before` and `error_before` are measured without a temperature.
    """

    value: float
    before: Measured
    judged: Measured
    error_before: float
    error: float

    @property
    def at_end(self) -> bool:
        """Whether the minimum of the loss is outside RANGE. Then `value` is the nearer end, not an estimate."""
        return self.value in RANGE

    @property
    def helps(self) -> bool:
        """Whether the temperature should be kept."""
        return not self.at_end and self.judged.helps_over(self.before)


def best_temperature(logits: np.ndarray, labels: np.ndarray, task: Task, folds: np.ndarray) -> Temperature:
    """The T that minimizes the mean loss of logits / T, for classes or labels; `folds` come from `folds_of`.

    If all answers are right, the loss falls with T without a minimum, so T cannot be determined.
    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2.
    """
    each = cross_fit(lambda rows: _fitted(logits[rows], labels[rows], task), folds)[:, None]
    error_before = task.calibration_error(logits, labels)
    error = task.calibration_error(logits / each, labels)
    assert error_before is not None
    assert error is not None
    return Temperature(
        value=_fitted(logits, labels, task),
        before=Measured.of(logits, labels, task),
        judged=Measured.of(logits / each, labels, task),
        error_before=error_before,
        error=error,
    )


def _fitted(logits: np.ndarray, labels: np.ndarray, task: Task) -> float:
    """The root of the slope of the mean loss in 1 / T, which rises; an end of RANGE if there is no root inside."""
    from scipy.optimize import brentq

    slope = task.loss_slope(logits, labels)
    low, high = RANGE
    if slope(np.log(low)) <= 0:
        return low
    if slope(np.log(high)) >= 0:
        return high
    return float(np.exp(brentq(slope, *np.log(RANGE))))
