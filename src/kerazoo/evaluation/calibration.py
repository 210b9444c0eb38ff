"""Whether probabilities are what they say: of answers with a probability of 0.8, 80 % should be right.

Source: Guo et al. 2017, arXiv:1706.04599, sections 2 and 4.
"""

from dataclasses import dataclass

import numpy as np

from kerazoo.evaluation.answers import Evaluation
from kerazoo.tasks.measures import BINS, calibration_bins, calibration_gap, intervals


@dataclass(frozen=True)
class Bin:
    """Answers whose probability is from `low` to `high`: how many, their mean, and the share that is right."""

    low: float
    high: float
    count: int
    confidence: float
    right: float
    right_low: float  # the 95 % interval
    right_high: float


@dataclass(frozen=True)
class Calibration:
    """The expected calibration error (ECE), and the bins that have answers."""

    error: float
    bins: tuple[Bin, ...]


def calibration_of(result: Evaluation) -> Calibration | None:
    """The calibration of the answers; None for numbers.

    For classes it compares the probability of the answer with whether it is right; for labels, the probability of each
    label of each example with whether the example has it.
    """
    if not result.has_probabilities:
        return None
    if result.is_exclusive:
        chances = result.probabilities.max(axis=1).astype(np.float64)
        happened = (result.predicted == result.labels).astype(np.float64)
    else:
        chances = result.probabilities.ravel().astype(np.float64)
        happened = result.labels.ravel().astype(np.float64)
    counts, happenings, confidences = calibration_bins(chances, happened)
    low, high = intervals(happenings, counts)
    bins = tuple(
        Bin(n / BINS, (n + 1) / BINS, int(counts[n]), float(confidences[n] / counts[n]),
            float(happenings[n] / counts[n]), float(low[n]), float(high[n]))
        for n in np.flatnonzero(counts)
    )  # fmt: skip
    return Calibration(calibration_gap(chances, happened), bins)
