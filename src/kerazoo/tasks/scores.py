"""The gain of one model over another on the same examples, in score and in loss (see `base.py`)."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from kerazoo.tasks.base import Task


@dataclass(frozen=True)
class Gain:
    """The increase of a mean on the same examples, with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f} (95 % {self.low:+.4f} to {self.high:+.4f})"


def gain(before: np.ndarray, after: np.ndarray, *, unseen: float | None = None, choices: int = 1) -> Gain:
    """The gain of `after` over `before`, (N,) each, on the same examples in the same order.

    If both are 0 and 1, it has the interval of a difference of paired shares, with half an example added to each of the
    four cells (Agresti & Min 2005, doi 10.1002/sim.1781). Otherwise it has the interval of a mean of differences, with
    `unseen` added as one more difference. If `after` is the best of several `choices` on these examples, the interval
    is valid for all of them at once (Bonferroni).
    """
    difference = after.astype(np.float64) - before
    side = 1 - 0.025 / choices
    if unseen is None and np.isin(before, (0, 1)).all() and np.isin(after, (0, 1)).all():
        won = (difference > 0).sum() + 0.5
        lost = (difference < 0).sum() + 0.5
        n = len(difference) + 2
        center = (won - lost) / n
        half = NormalDist().inv_cdf(side) * math.sqrt(won + lost - (won - lost) ** 2 / n) / n
        return Gain(float(difference.mean()), float(center - half), float(center + half))
    from scipy.stats import t

    mean = float(difference.mean())
    if len(difference) < 2:
        return Gain(mean, -math.inf, math.inf)
    counted = difference if unseen is None else np.append(difference, unseen)
    half = float(t.ppf(side, len(counted) - 1)) * float(counted.std(ddof=1)) / math.sqrt(len(counted))
    return Gain(mean, float(counted.mean()) - half, float(counted.mean()) + half)


@dataclass(frozen=True)
class Measured:
    """The (N,) scores and losses of one model on the examples of one split.

    `doubts` are the losses if each answer had been wrong, from `Task.doubts`, or None.
    """

    scores: np.ndarray
    losses: np.ndarray
    doubts: np.ndarray | None = None

    @classmethod
    def of(cls, logits: np.ndarray, labels: np.ndarray, task: Task) -> "Measured":
        """The measure for (N, K) logits."""
        return cls(task.scores(logits, labels), task.losses(logits, labels), task.doubts(logits, labels))

    def gain_over(self, other: "Measured", *, choices: int = 1) -> Gain:
        """The gain in score."""
        return gain(other.scores, self.scores, choices=choices)

    def saved_over(self, other: "Measured", *, choices: int = 1) -> Gain:
        """The reduction of the loss.

        If all answers on these examples are right, the more confident model always seems better, although a rare wrong
        answer could cost more than it saves on the others. So one more example, with a wrong answer, is added.
        """
        unseen = None
        if self.doubts is not None and other.doubts is not None:
            unseen = min(0.0, float((other.doubts - self.doubts).mean()))
        return gain(-other.losses, -self.losses, unseen=unseen, choices=choices)

    def helps_over(self, other: "Measured", *, choices: int = 1) -> bool:
        """Whether this is significantly better: the loss is significantly lower, and the score is not lower.

        A model with answers that are not finite is never better. `choices` is the number of models from which this one
        was chosen as the best on these examples.
        """
        if not np.isfinite(self.losses).all():
            return False
        return self.gain_over(other).mean >= 0 and self.saved_over(other, choices=choices).low > 0
