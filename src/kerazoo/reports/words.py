"""Results in words."""

import math

from kerazoo.evaluation.answers import FOLDS, Evaluation
from kerazoo.reports.html import percent

SPLITS = {"val": "validation", "test": "test", FOLDS: "training and validation"}


def split_words(split: str) -> str:
    """The name of a split in words."""
    return SPLITS.get(split, split)


def headline(result: Evaluation) -> str:
    """The answer in one sentence: how good the network is on the images of a split."""
    metrics = result.metrics()
    images = f"{len(result.keys):,} {split_words(result.split)} images"
    own = " that the answering network had not seen" if result.split == FOLDS else ""
    if result.is_exclusive:
        return f"Right for {percent(metrics['accuracy'])} of {images}{own}."
    if result.has_probabilities:
        return f"All labels right for {percent(metrics['exact_match'])} of {images}{own}."
    return f"Off by {metrics['mae']:.4g} on average, for {images}{own}."


def interval_words(result: Evaluation) -> str:
    """What the number of images allows to say about other images of the same kind."""
    if result.has_probabilities:
        low, high = result.interval()
        return f"For other images of the same kind, expect {percent(low)} to {percent(high)} (95 % interval)."
    low, high = result.score_interval()
    if not math.isfinite(low):
        return "One image is too few to say what to expect of others."
    return f"For other images of the same kind, expect an average of {-high:.4g} to {-low:.4g} (95 % interval)."


def scale_words(result: Evaluation) -> str:
    """How much better than a guess, in words."""
    if result.is_exclusive:
        counts = result.confusion().sum(axis=1)
        guess = counts.max() / max(counts.sum(), 1)
        return f"Always answering the most frequent class would be right for {percent(float(guess))}."
    metrics = result.metrics()
    if result.has_probabilities:
        words = f"Of all labels of all images, {percent(metrics['accuracy'])} are right."
        precision = metrics["mean_average_precision"]
        more = "" if precision is None else f" The mean average precision is {precision:.3f} (1 is perfect)."
        return words + more
    if metrics["r2"] is None:
        return "All true numbers are equal, so there is nothing to explain."
    if metrics["r2"] < 0:
        return f"That is worse than always answering the mean of the true numbers (R2 {metrics['r2']:.3f})."
    return (
        f"The network explains {percent(metrics['r2'])} of the variance of the true numbers (R2 {metrics['r2']:.3f})."
    )
