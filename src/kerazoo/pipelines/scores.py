"""What a model gets of each example, its score and its loss, and what one model gains over another on the same ones.

| task       | score of an example            | loss of an example                            |
|------------|--------------------------------|-----------------------------------------------|
| multiclass | 1 where it is right, else 0    | cross-entropy of the softmax, nats            |
| multilabel | share of its labels right      | mean cross-entropy of its labels' sigmoids    |
| regression | minus the mean absolute error  | mean squared error                            |
"""

import math
from dataclasses import dataclass

import numpy as np

Z = 1.96  # of a 95 % interval


def scores_of(logits: np.ndarray, labels: np.ndarray, task: str) -> np.ndarray:
    """(N, K) logits and labels as in `Examples` -> (N,) scores."""
    if task == "multiclass":
        right: np.ndarray = (logits.argmax(axis=1) == labels).astype(np.float64)
        return right
    if task == "multilabel":
        shares: np.ndarray = ((logits >= 0) == (labels >= 0.5)).mean(axis=1)
        return shares
    errors: np.ndarray = -np.abs(logits - labels).mean(axis=1)
    return errors


def losses_of(logits: np.ndarray, labels: np.ndarray, task: str) -> np.ndarray:
    """(N, K) logits and labels as in `Examples` -> (N,) losses."""
    z = logits.astype(np.float64)
    if task == "multiclass":
        z = z - z.max(axis=1, keepdims=True)
        losses: np.ndarray = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), labels]
        return losses
    if task == "multilabel":
        each: np.ndarray = (np.maximum(z, 0) - z * labels + np.log1p(np.exp(-np.abs(z)))).mean(axis=1)
        return each
    squares: np.ndarray = ((z - labels) ** 2).mean(axis=1)
    return squares


def losses_of_answers(answers: np.ndarray, labels: np.ndarray, task: str) -> np.ndarray:
    """(N, K) float32 answers of a head, probabilities or numbers, and labels -> (N,) losses as of their logits.

    A probability that float32 rounds to 0 or 1 counts as the one next to it.
    """
    wide = answers.astype(np.float64)
    if task == "multiclass":
        return losses_of(np.log(np.maximum(wide, np.finfo(np.float32).smallest_subnormal)), labels, task)
    if task == "multilabel":
        least = np.finfo(np.float32).epsneg
        wide = np.clip(wide, np.finfo(np.float32).smallest_subnormal, 1 - least)
        return losses_of(np.log(wide) - np.log1p(-wide), labels, task)
    return losses_of(wide, labels, task)


@dataclass(frozen=True)
class Gain:
    """How much higher a mean is than before on the same examples, with the 95 % interval of it."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f} (95 % {self.low:+.4f} to {self.high:+.4f})"


def gain(before: np.ndarray, after: np.ndarray) -> Gain:
    """What `after` gains over `before`, (N,) each, of the same examples in the same order.

    Where both are 0 and 1: the interval of a difference of paired shares, half an example added to each of the four
    cells (Agresti & Min 2005, doi 10.1002/sim.1781). Else that of a mean of differences.
    """
    difference = after.astype(np.float64) - before
    count = len(difference)
    if np.isin(before, (0, 1)).all() and np.isin(after, (0, 1)).all():
        won, lost, n = (difference > 0).sum() + 0.5, (difference < 0).sum() + 0.5, count + 2
        centre, half = (won - lost) / n, Z * math.sqrt(won + lost - (won - lost) ** 2 / n) / n
        return Gain(float(difference.mean()), float(centre - half), float(centre + half))
    from scipy.stats import t

    mean = float(difference.mean())
    if count < 2:
        return Gain(mean, -math.inf, math.inf)
    half = float(t.ppf(0.975, count - 1)) * float(difference.std(ddof=1)) / math.sqrt(count)
    return Gain(mean, mean - half, mean + half)


@dataclass(frozen=True)
class Measured:
    """The (N,) scores and losses of one model on the examples of one split."""

    scores: np.ndarray
    losses: np.ndarray

    @classmethod
    def of(cls, logits: np.ndarray, labels: np.ndarray, task: str) -> "Measured":
        """Of (N, K) logits."""
        return cls(scores_of(logits, labels, task), losses_of(logits, labels, task))

    def gain_over(self, other: "Measured") -> Gain:
        """In score."""
        return gain(other.scores, self.scores)

    def saved_over(self, other: "Measured") -> Gain:
        """In loss: how much lower it is."""
        return gain(-other.losses, -self.losses)

    def helps_over(self, other: "Measured") -> bool:
        """Whether it is better by more than chance: a score that is not lower, and score or loss surely better.

        What answers with numbers that are not finite never is.
        """
        gained = self.gain_over(other)
        return (
            bool(np.isfinite(self.losses).all())
            and gained.mean >= 0
            and (gained.low > 0 or self.saved_over(other).low > 0)
        )
