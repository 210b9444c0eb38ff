"""Scores, losses, and the gain of one model over another on the same examples."""

import math

import numpy as np
import pytest

from kerazoo.tasks.scores import Measured, gain
from kerazoo.tasks.task import find_task


def test_scores_and_losses_by_hand():
    logits = np.array([[0.0, math.log(3.0)], [2.0, 0.0]])
    assert find_task("multiclass").scores(logits, np.array([1, 1])).tolist() == [1, 0]
    np.testing.assert_allclose(
        find_task("multiclass").losses(logits, np.array([1, 1])), [-math.log(0.75), math.log(1 + math.exp(2))]
    )
    several = np.array([[1.0, 0.0], [1.0, 1.0]])
    assert find_task("multilabel").scores(logits, several).tolist() == [0.5, 1.0]  # a logit of 0 is p = 0.5, a yes
    expected = [(math.log(2) + math.log(4)) / 2, (math.log(1 + math.exp(-2)) + math.log(2)) / 2]
    np.testing.assert_allclose(find_task("multilabel").losses(logits, several), expected)
    numbers = np.array([[0.0, 0.0], [1.0, 3.0]])
    np.testing.assert_allclose(find_task("regression").scores(logits, numbers), [-math.log(3) / 2, -2.0])
    np.testing.assert_allclose(find_task("regression").losses(logits, numbers), [math.log(3) ** 2 / 2, 5.0])


def test_losses_of_huge_logits_are_finite():
    assert np.isfinite(find_task("multiclass").losses(np.array([[1e4, -1e4]], np.float32), np.array([1]))).all()
    assert np.isfinite(find_task("multilabel").losses(np.array([[1e4, -1e4]], np.float32), np.array([[0, 1]]))).all()


def test_the_gain_of_paired_shares():
    """By hand, b = 12 won and c = 4 lost of 100: (12.5 - 4.5) / 102 and its variance."""
    before, after = np.zeros(100), np.zeros(100)
    after[:12], before[12:16] = 1, 1
    found = gain(before, after)
    half = 1.959964 * math.sqrt(17 - 64 / 102) / 102
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
        (130, 0.9, True),
        (100, 0.9, True),  # as many are right, and the loss is surely lower
        (99, 0.5, False),  # fewer are right, whatever the loss
        (100, 1.0, False),
        (130, 1.0, False),  # surely more are right, but the loss may be higher
        (130, 2.0, False),
    ],
)
def test_what_helps(right, loss, helps):
    draw = np.random.default_rng(2)
    before = Measured((np.arange(200) < 100).astype(float), 1.0 + 0.1 * draw.normal(size=200))
    assert measured(right, loss).helps_over(before) is helps


def test_the_best_of_several_is_judged_by_a_wider_interval():
    """Bonferroni: of 8 models that are as good as the first, one is surely better in at most 2.5 % of cases."""
    from scipy.stats import norm

    before, after = np.zeros(100), np.zeros(100)
    after[:12], before[12:16] = 1, 1
    one, eight = gain(before, after), gain(before, after, choices=8)
    assert eight.mean == one.mean
    assert (eight.high - eight.low) / (one.high - one.low) == pytest.approx(norm.ppf(1 - 0.025 / 8) / norm.ppf(0.975))

    draw, wins = np.random.default_rng(0), 0
    for _ in range(200):
        first, *others = (Measured(np.ones(60), draw.normal(1, 0.3, 60)) for _ in range(9))
        best = min(others, key=lambda one: one.losses.mean())
        wins += best.helps_over(first, choices=8)
    assert wins / 200 <= 0.05  # without `choices`: 0.115


def test_where_all_are_right_the_surer_model_is_not_surely_better():
    """Of 20 such images the surer model has a lower loss on each; a wrong one may not have come up yet."""
    draw = np.random.default_rng(0)
    labels = np.arange(20) % 3
    logits = 6 * np.eye(3)[labels] + draw.normal(size=(20, 3))
    before, after = (Measured.of(factor * logits, labels, find_task("multiclass")) for factor in (1, 3))
    plain = Measured(after.scores, after.losses).saved_over(Measured(before.scores, before.losses))
    assert plain.low > 0
    assert after.saved_over(before).low < 0
    assert not after.helps_over(before)
    less = before.saved_over(after)  # what is less sure gets nothing for it
    assert less.mean == pytest.approx(-plain.mean)
    assert less.high < 0.01


def test_the_loss_of_a_wrong_answer_by_hand():
    logits = np.array([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0]])
    np.testing.assert_allclose(  # the second class of the first, the likeliest wrong one of the second
        find_task("multiclass").doubts(logits, np.array([0, 0])),
        find_task("multiclass").losses(logits, np.array([2, 1])),
    )
    several = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    turned = []
    for label in range(3):
        other = several.copy()
        other[:, label] = 1 - other[:, label]
        turned.append(find_task("multilabel").losses(logits, other))
    np.testing.assert_allclose(find_task("multilabel").doubts(logits, several), np.mean(turned, axis=0))
    assert find_task("regression").doubts(logits, several) is None


def test_the_calibration_error_by_hand():
    chances = np.array([[0.65, 0.35], [0.65, 0.35], [0.9, 0.1], [0.9, 0.1], [1 - 1e-12, 1e-12]])
    found = find_task("multiclass").calibration_error(np.log(chances), np.array([0, 1, 0, 0, 0]))
    assert found == pytest.approx((2 * abs(0.5 - 0.65) + 2 * abs(1 - 0.9)) / 5)  # bins of 1 / 15
    logits = np.array([[800.0, -800.0], [np.log(3), -np.log(3)]])
    labels = np.array([[1.0, 0.0], [0.0, 0.0]])
    assert find_task("multilabel").calibration_error(logits, labels) == pytest.approx((0.75 + 0.25) / 4)
    assert find_task("regression").calibration_error(logits, labels) is None
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 2, (20_000, 4))
    labels = (logits + draw.gumbel(size=logits.shape)).argmax(axis=1)
    assert find_task("multiclass").calibration_error(logits, labels) < 0.015
    assert find_task("multiclass").calibration_error(3 * logits, labels) > 0.1
