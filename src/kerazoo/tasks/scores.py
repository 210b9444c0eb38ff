"""What a model gets of each example, its score and its loss, and what one model gains over another on the same ones.

| task       | score of an example            | loss of an example                            |
|------------|--------------------------------|-----------------------------------------------|
| multiclass | 1 where it is right, else 0    | cross-entropy of the softmax, nats            |
| multilabel | share of its labels right      | mean cross-entropy of its labels' sigmoids    |
| regression | minus the mean absolute error  | mean squared error                            |
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

BINS = 15  # of the expected calibration error


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


def doubts_of(logits: np.ndarray, labels: np.ndarray, task: str) -> np.ndarray | None:
    """(N,) losses had each example been answered wrong: its label the likeliest other class, or one of its labels (the
    mean over which) turned round. None for a regression, where no answer is wrong or right."""
    if task == "regression":
        return None
    z = logits.astype(np.float64)
    if task == "multiclass":
        z[np.arange(len(z)), labels] = -np.inf
        return losses_of(logits, z.argmax(axis=1), task)
    turned: np.ndarray = losses_of(logits, labels, task) + (z * (2 * labels - 1)).mean(axis=1) / z.shape[1]
    return turned


def calibration_error(logits: np.ndarray, labels: np.ndarray, task: str) -> float | None:
    """The expected calibration error, in [0, 1]: sum over bins b of |B_b| / n * |share right - mean confidence|.

    15 bins of equal width. Of classes, the confidence is the probability of the answer; of several labels, each label
    of each example counts, its probability beside whether it is there. None for a regression.
    Source: Guo et al. 2017, arXiv:1706.04599, section 2.
    """
    if task == "regression":
        return None
    z = logits.astype(np.float64)
    if task == "multiclass":
        chances = np.exp(-losses_of(z, z.argmax(axis=1), task))
        happened = scores_of(z, labels, task)
    else:
        chances = 0.5 * (1 + np.tanh(z.ravel() / 2))  # the sigmoid, without overflow
        happened = labels.ravel()
    number = np.minimum((chances * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(number, weights=happened - chances, minlength=BINS)
    return float(np.abs(gaps).sum() / len(chances))


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

    `doubts` are as `doubts_of` gives them, None where there are none.
    """

    scores: np.ndarray
    losses: np.ndarray
    doubts: np.ndarray | None = None

    @classmethod
    def of(cls, logits: np.ndarray, labels: np.ndarray, task: str) -> "Measured":
        """Of (N, K) logits."""
        return cls(scores_of(logits, labels, task), losses_of(logits, labels, task), doubts_of(logits, labels, task))

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
