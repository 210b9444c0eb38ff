"""What one model gains over another on the same examples, in score and in loss (`base.py` says what these are)."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from kerazoo.tasks.base import Task


@dataclass(frozen=True)
class Gain:
    """How much higher a mean is than before on the same examples, with the 95 % interval of it."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f} (95 % {self.low:+.4f} to {self.high:+.4f})"


def gain(before: np.ndarray, after: np.ndarray, *, unseen: float | None = None, choices: int = 1) -> Gain:
    """What `after` gains over `before`, (N,) each, of the same examples in the same order.

    Where both are 0 and 1: the interval of a difference of paired shares, half an example added to each of the four
    cells (Agresti & Min 2005, doi 10.1002/sim.1781). Else that of a mean of differences, `unseen` added as one more
    of them. Where `after` is the best of several `choices` on these examples, the interval holds for all of them
    at once (Bonferroni).
    """
    difference = after.astype(np.float64) - before
    side = 1 - 0.025 / choices
    if unseen is None and np.isin(before, (0, 1)).all() and np.isin(after, (0, 1)).all():
        won = (difference > 0).sum() + 0.5
        lost = (difference < 0).sum() + 0.5
        n = len(difference) + 2
        centre = (won - lost) / n
        half = NormalDist().inv_cdf(side) * math.sqrt(won + lost - (won - lost) ** 2 / n) / n
        return Gain(float(difference.mean()), float(centre - half), float(centre + half))
    from scipy.stats import t

    mean = float(difference.mean())
    if len(difference) < 2:
        return Gain(mean, -math.inf, math.inf)
    counted = difference if unseen is None else np.append(difference, unseen)
    half = float(t.ppf(side, len(counted) - 1)) * float(counted.std(ddof=1)) / math.sqrt(len(counted))
    return Gain(mean, float(counted.mean()) - half, float(counted.mean()) + half)


@dataclass(frozen=True)
class Measured:
    """The (N,) scores and losses of one model on the examples of one split, and its losses had it been wrong on each.

    `doubts` are as `Task.doubts` gives them, None where there are none.
    """

    scores: np.ndarray
    losses: np.ndarray
    doubts: np.ndarray | None = None

    @classmethod
    def of(cls, logits: np.ndarray, labels: np.ndarray, task: Task) -> "Measured":
        """Of (N, K) logits."""
        return cls(task.scores(logits, labels), task.losses(logits, labels), task.doubts(logits, labels))

    def gain_over(self, other: "Measured", *, choices: int = 1) -> Gain:
        """In score."""
        return gain(other.scores, self.scores, choices=choices)

    def saved_over(self, other: "Measured", *, choices: int = 1) -> Gain:
        """In loss: how much lower it is.

        A rare wrong answer that these examples happen not to show can cost more than all others save: where all are
        right, the surer model always seems the better. So one example more, answered wrong, is counted against it.
        """
        unseen = None
        if self.doubts is not None and other.doubts is not None:
            unseen = min(0.0, float((other.doubts - self.doubts).mean()))
        return gain(-other.losses, -self.losses, unseen=unseen, choices=choices)

    def helps_over(self, other: "Measured", *, choices: int = 1) -> bool:
        """Whether it is better by more than chance: its loss is surely lower, and its score is not lower.

        What answers with numbers that are not finite never is better. `choices` is of how many it is the best on these
        examples.
        """
        if not np.isfinite(self.losses).all():
            return False
        return self.gain_over(other).mean >= 0 and self.saved_over(other, choices=choices).low > 0
