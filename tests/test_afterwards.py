"""What is fitted to validation: averages and temperatures, judged by cross-fitting."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from conftest import log_lines

from kerazoo.tasks.scores import Measured
from kerazoo.tasks.task import find_task
from kerazoo.transfer.cross_fitting import FOLDS, RANGE, SHARES, best_average, best_temperature, cross_fit, folds_of
from kerazoo.transfer.phases import Phases


def drawn(count, margin=4.0, seed=0, classes=4):
    """Logits, and labels drawn by them: a calibrated model."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(count, classes))
    logits[np.arange(count), draw.integers(classes, size=count)] += margin
    return logits, (logits + draw.gumbel(size=logits.shape)).argmax(axis=1)


def judged(logits, labels, task="multiclass"):
    """The temperature as a run judges it, its stage and its line."""
    phases = Phases(find_task(task))
    best = best_temperature(logits, labels, find_task(task), folds_of(labels, find_task(task)))
    with log_lines() as lines:
        assert phases.temperature(best, 0.1) is best.helps
    return best, phases.phases[0], lines[0]


def test_where_all_are_right_no_temperature_is_kept():
    """It runs to its bound, 0.05, where their loss is least, and that of other images many times higher."""
    logits, labels = drawn(4000, margin=5.0)
    right = np.flatnonzero(logits.argmax(axis=1) == labels)[:60]
    rest = np.setdiff1d(np.arange(4000), right)
    at_bound = [find_task("multiclass").losses(logits / t, labels) for t in (1, RANGE[0])]
    assert at_bound[1][right].mean() < at_bound[0][right].mean()
    assert at_bound[1][rest].mean() > 5 * at_bound[0][rest].mean()
    for scale in (1, 100):  # of huge logits the loss is exactly 0 long before the bound
        best, stage, line = judged(scale * logits[right], labels[right])
        assert best.value == RANGE[0]
        assert not best.helps
        assert not stage.kept
        assert "dropped: the best value is at the end of the search range, 0.05" in line
    alike, _, _ = judged(np.zeros((30, 3)), np.arange(30) % 3)  # any temperature does as well
    assert not alike.helps


def test_one_wrong_answer_does_not_make_a_temperature():
    """The fold that holds it is judged by what the others say: 0.05."""
    logits, labels = drawn(4000, margin=5.0)
    right = logits.argmax(axis=1) == labels
    rows = np.append(np.flatnonzero(right)[:59], np.flatnonzero(~right)[:1])
    best, stage, line = judged(logits[rows], labels[rows])
    assert RANGE[0] < best.value < 1
    assert best.judged.losses.max() > 5 * best.before.losses.max()
    assert not stage.kept
    assert f"its loss on 60 val images is higher, {stage.loss:.4f} against " in line


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_was_done_to_the_logits(task, factor):
    draw = np.random.default_rng(0)
    logits, labels = drawn(8000, margin=0.0)
    if task == "multilabel":
        labels = (draw.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    best, stage, line = judged(logits * factor, labels, task)
    assert best.value == pytest.approx(factor, rel=0.06)
    least = find_task(task).losses(logits * factor / best.value, labels).mean()
    for nudge in (0.99, 1.01):
        assert find_task(task).losses(logits * factor / best.value / nudge, labels).mean() > least
    assert stage.kept is (factor != 1)
    assert stage.ece_before == find_task(task).calibration_error(logits * factor, labels)
    if factor != 1:
        assert stage.ece < stage.ece_before / 2
        assert f"ECE {stage.ece_before:.4f} -> {stage.ece:.4f}; kept" in line


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_handful_of_examples_keeps_nothing(count):
    logits, labels = drawn(count)
    for scale in (0.2, 1, 5):
        assert not judged(scale * logits, labels)[0].helps


def test_folds_hold_all_classes_and_every_example_once():
    labels = np.repeat([0, 1, 2], [40, 10, 3])
    folds = folds_of(labels, find_task("multiclass"))
    assert np.bincount(folds).tolist() == [11, 11, 11, 10, 10]
    for label, least in ((0, 8), (1, 2), (2, 0)):
        counts = np.bincount(folds[labels == label], minlength=FOLDS)
        assert least <= counts.min() <= counts.max() <= least + 1
    several = folds_of(np.zeros((12, 2)), find_task("multilabel"))
    assert np.bincount(several).tolist() == [3, 3, 2, 2, 2]
    asked = []
    values = cross_fit(lambda rows: (asked.append(rows), len(asked))[1], folds)
    for number, rows in enumerate(asked, start=1):
        np.testing.assert_array_equal(rows, values != number)  # never one's own fold


def averages(losses_of_share, kept, folds=None):
    """`best_average` of two scalars 0 and 10, where share a gets the (N,) losses `losses_of_share(a)`."""
    before, after = [np.zeros(2, np.float32)], [np.full(2, 10, np.float32)]

    def measure(weights):
        losses = losses_of_share(round(float(weights[0][0]) / 10, 3))
        return Measured(np.ones(len(losses)), losses)

    folds = np.arange(len(kept)) % FOLDS if folds is None else folds
    return best_average(before, after, measure, Measured(np.ones(len(kept)), kept), folds)


def test_the_share_of_least_loss_is_taken_and_judged_on_the_other_folds():
    noise = np.random.default_rng(0).normal(0, 0.01, 50)
    best = averages(lambda share: 1 + abs(share - 0.4) + noise, 2 + noise)
    assert best.share == 0.4
    np.testing.assert_allclose(best.weights[0], 4)
    np.testing.assert_allclose(best.judged.losses, 1 + noise)

    lucky = {share: np.where(np.arange(50) % FOLDS == number, 0.0, 1.1) for number, share in enumerate(SHARES)}
    best = averages(lambda share: lucky[share], np.ones(50))  # each share shines in one fold, and is bad in the others
    assert best.measured.losses.mean() < 1
    assert best.judged.losses.mean() > 1  # what is good in a fold was not chosen by the others
    assert not best.helps_over(Measured(np.ones(50), np.ones(50)))


def test_what_is_kept_stays_where_no_average_beats_it(said):
    best = averages(lambda share: np.full(20, np.nan if share == 0.2 else 2.0), np.ones(20))
    assert best.share is None
    phases = Phases(find_task("multiclass"))
    phases.best = Measured(np.ones(20), np.ones(20))
    assert not phases.average(best, 0.1)
    assert said == ["average: dropped: no average is better on validation; 0.1 s"]


@pytest.mark.parametrize(
    ("task", "said_of_it"),
    [
        ("multiclass", "its accuracy on 20 val images is lower, 0.8000 against 0.9000"),
        ("regression", "its mae on 20 val images is higher, 0.3000 against 0.2000"),
    ],
)
def test_a_dropped_phase_says_what_is_worse(said, task, said_of_it):
    scores = {"multiclass": (0.9, 0.8), "regression": (-0.2, -0.3)}[task]
    before, after = (Measured(np.where(np.arange(20) < 20 * score, 1.0, 0.0) if score > 0 else np.full(20, score),
                              np.ones(20)) for score in scores)  # fmt: skip
    phases = Phases(find_task(task))
    phases.best = before
    assert not phases.keep_if_better("fine-tuning", after, 0.1)
    assert f"dropped: {said_of_it}; 0.1 s" in said[0]
    assert "loss 1.0000, lower by 0.0000 (95 % " in said[0]
    assert phases.to_json()[0]["line"] == said[0]


def test_what_did_not_move_is_bit_equal_in_every_average():
    frozen = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    tried = []

    def measure(weights):
        tried.append(weights[0])
        return Measured(np.ones(1), np.ones(1))

    best_average([frozen], [frozen.copy()], measure, Measured(np.ones(1), np.ones(1)), np.zeros(1, int))
    assert len(tried) == len(SHARES)
    assert all(array.tobytes() == frozen.tobytes() for array in tried)


def test_no_phase_is_kept_that_makes_the_expected_loss_worse():
    """A small part of benchmarks/phase_selection.py: in more than 5 % of cases, of each kind of cell."""
    simulate = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "phase_selection.py"))["simulate"]
    found = {}
    for row in simulate(sizes=(20, 100), repetitions=25, accuracies=(0.99, 0.9), noises=(0.0,)):
        kind = "regression" if row["state"].startswith("regression") else "classes or labels"
        cell = found.setdefault((row["phase"], kind, row["size"]), [0, 0, 0])
        for index, field in enumerate(("repetitions", "harm", "kept")):
            cell[index] += 1 if field == "repetitions" else float(row[field])
    assert len(found) == 10
    for cell, (rows, harm, _) in found.items():
        assert harm / rows <= 0.05, cell
    assert found["temperature", "classes or labels", 100][2] > 1  # and what helps is found
    assert found["average", "classes or labels", 100][2] > 1
    assert found["average", "regression", 100][2] > 1
