"""Scores, losses, and the gain of one model over another on the same examples."""

import math

import numpy as np
import pytest

from kerazoo.pipelines.scores import Measured, gain, losses_of, scores_of


def test_scores_and_losses_by_hand():
    logits = np.array([[0.0, math.log(3.0)], [2.0, 0.0]])
    assert scores_of(logits, np.array([1, 1]), "multiclass").tolist() == [1, 0]
    np.testing.assert_allclose(
        losses_of(logits, np.array([1, 1]), "multiclass"), [-math.log(0.75), math.log(1 + math.exp(2))]
    )
    several = np.array([[1.0, 0.0], [1.0, 1.0]])
    assert scores_of(logits, several, "multilabel").tolist() == [0.5, 1.0]  # a logit of 0 is p = 0.5, a yes
    expected = [(math.log(2) + math.log(4)) / 2, (math.log(1 + math.exp(-2)) + math.log(2)) / 2]
    np.testing.assert_allclose(losses_of(logits, several, "multilabel"), expected)
    numbers = np.array([[0.0, 0.0], [1.0, 3.0]])
    np.testing.assert_allclose(scores_of(logits, numbers, "regression"), [-math.log(3) / 2, -2.0])
    np.testing.assert_allclose(losses_of(logits, numbers, "regression"), [math.log(3) ** 2 / 2, 5.0])


def test_losses_of_huge_logits_are_finite():
    assert np.isfinite(losses_of(np.array([[1e4, -1e4]], np.float32), np.array([1]), "multiclass")).all()
    assert np.isfinite(losses_of(np.array([[1e4, -1e4]], np.float32), np.array([[0, 1]]), "multilabel")).all()


def test_the_gain_of_paired_shares():
    """By hand, b = 12 won and c = 4 lost of 100: (12.5 - 4.5) / 102 and its variance."""
    before, after = np.zeros(100), np.zeros(100)
    after[:12], before[12:16] = 1, 1
    found = gain(before, after)
    half = 1.96 * math.sqrt(17 - 64 / 102) / 102
    assert found.mean == pytest.approx(0.08)
    assert (found.low, found.high) == pytest.approx((8 / 102 - half, 8 / 102 + half))
    assert str(found) == f"+0.0800 (95 % {found.low:+.4f} to {found.high:+.4f})"
    same = gain(before, before)
    assert same.mean == 0
    assert same.low < 0 < same.high  # nothing seen is not nothing there


def test_the_gain_of_numbers_is_that_of_paired_differences():
    from scipy.stats import ttest_rel

    draw = np.random.default_rng(0)
    before = draw.normal(size=30)
    after = before + draw.normal(0.3, 0.5, size=30)
    expected = ttest_rel(after, before).confidence_interval(0.95)
    found = gain(before, after)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert gain(np.array([1.5]), np.array([2.5])).low == -math.inf


def measured(right, loss, count=200, noise=0.1):
    draw = np.random.default_rng(1)
    scores = (np.arange(count) < right).astype(float)
    return Measured(scores, loss + noise * draw.normal(size=count))


@pytest.mark.parametrize(
    ("right", "loss", "helps"),
    [
        (130, 1.0, True),  # surely more are right
        (101, 1.0, False),  # one more, which may be chance
        (100, 0.9, True),  # as many, and the loss is surely lower
        (99, 0.5, False),  # fewer are right, whatever the loss
        (100, 1.0, False),
        (130, 2.0, True),
    ],
)
def test_what_helps(right, loss, helps):
    draw = np.random.default_rng(2)
    before = Measured((np.arange(200) < 100).astype(float), 1.0 + 0.1 * draw.normal(size=200))
    assert measured(right, loss).helps_over(before) is helps
