"""The probe: stationarity of the objective it states, closed forms, cross-validation, folding, refusals."""

import threading
import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from kerazoo.errors import DataError, RecipeError
from kerazoo.tasks import linear
from kerazoo.tasks.task import find_task
from kerazoo.transfer import probe as probes
from kerazoo.transfer.probe import learn_probe

NAMES = ("a", "b", "c")


def data(count=90, width=6, classes=3, seed=0, noise=1.5):
    """Features of unlike scales and offsets, one of which never changes; (N,) labels."""
    draw = np.random.default_rng(seed)
    y = np.arange(count) % classes
    x = draw.normal(size=(count, width)) + noise * draw.normal(size=(classes, width))[y]
    x = x * np.geomspace(0.01, 100, width) + np.linspace(-5, 50, width)
    x[:, 2] = 7.0
    return x.astype(np.float32), y


def standardised(x):
    spread = x.std(axis=0, dtype=np.float64)
    spread[spread < 1e-6] = 1
    return (x - x.mean(axis=0, dtype=np.float64)) / spread, spread


def objective(kernel, bias, x, y, w, task, penalty):
    """What `Probe` says is minimised, of weights on standardised features."""
    losses = find_task(task).losses(x @ kernel + bias, y)
    per = losses * (y.shape[1] if task == "multilabel" else 1)  # one logistic regression a label
    return np.average(per, weights=w) + penalty / 2 * np.sum(kernel**2)


def steepest(found, x, y, w, task, penalty, step=1e-5):
    """The largest slope of the objective at the probe, over all its weights."""
    z, spread = standardised(x)
    kernel, bias = found.kernel * spread[:, None], found.bias + x.mean(axis=0, dtype=np.float64) @ found.kernel
    slopes = []
    for weights in (kernel, bias):
        for index in np.ndindex(weights.shape):
            sides = []
            for sign in (1, -1):
                weights[index] += sign * step
                sides.append(objective(kernel, bias, z, y, w, task, penalty))
                weights[index] -= sign * step
            slopes.append((sides[0] - sides[1]) / (2 * step))
    return np.abs(slopes).max()


@pytest.mark.parametrize("weighted", [False, True])
def test_the_probe_is_at_the_least_of_its_objective(weighted):
    x, y = data()
    w = np.where(y == 0, 3.0, 1.0) if weighted else None
    found = learn_probe(x, y, find_task("multiclass"), class_names=NAMES, penalties=[0.03], weights=w)
    used = np.ones(len(y)) if w is None else w
    assert steepest(found, x, y, used, "multiclass", 0.03) < 1e-3
    assert steepest(found, x, y, used, "multiclass", 0.06) > 3e-3  # of another penalty it is not


def test_several_labels_are_regressions_of_their_own():
    x, y = data()
    labels = np.stack([y == 0, y > 0, np.ones(len(y)), np.zeros(len(y))], axis=1).astype(np.float32)
    found = learn_probe(x, labels, find_task("multilabel"), class_names=("p", "q", "always", "never"), penalties=[0.03])
    some = np.array([0, 1])
    part = probes.Probe(found.kernel[:, some], found.bias[some], 0.03)
    assert steepest(part, x, labels[:, some], np.ones(len(y)), "multilabel", 0.03) < 1e-3
    assert not found.kernel[:, 2:].any()
    assert 1 / (1 + np.exp(-found.bias[2:])) == pytest.approx([90.5 / 91, 0.5 / 91])


def test_two_classes_are_told_apart_by_one_logit():
    x, y = data(classes=2)
    found = learn_probe(x, y, find_task("multiclass"), class_names=NAMES[:2], penalties=[0.03])
    np.testing.assert_allclose(found.kernel[:, 0], -found.kernel[:, 1])
    as_label = learn_probe(
        x, y[:, None].astype(np.float32), find_task("multilabel"), class_names=("b",), penalties=[0.03]
    )
    np.testing.assert_allclose(found.kernel[:, 1] - found.kernel[:, 0], as_label.kernel[:, 0], rtol=1e-6)


def test_numbers_are_ridge_regression_in_closed_form():
    x, y = data()
    numbers = np.stack([y * 3.0 + x[:, 0], -y + 100.0], axis=1).astype(np.float32)
    found = learn_probe(x, numbers, find_task("regression"), class_names=("u", "v"), penalties=[0.1])
    z, _ = standardised(x)
    centred = numbers - numbers.mean(axis=0, dtype=np.float64)
    kernel = np.linalg.solve(z.T @ z + 0.1 * len(z) * np.eye(z.shape[1]), z.T @ centred)
    np.testing.assert_allclose(found.logits(x), z @ kernel + numbers.mean(axis=0, dtype=np.float64), rtol=1e-5)


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_the_penalty_of_least_loss_over_folds_is_taken(task):
    x, y = data(noise=0.5)
    labels = y if task == "multiclass" else y[:, None].astype(np.float32)
    found = learn_probe(x, labels, find_task(task), class_names=NAMES, folds=3)
    penalties, losses, _ = zip(*found.path, strict=True)
    assert found.penalty == penalties[int(np.argmin(losses))]
    assert penalties == probes.PENALTIES[: len(penalties)]
    assert found.folds == 3
    again = learn_probe(x, labels, find_task(task), class_names=NAMES, folds=3)
    np.testing.assert_array_equal(again.kernel, found.kernel)
    # the loss of folds is of examples that were not learned from
    alone = learn_probe(x, labels, find_task(task), class_names=NAMES, penalties=[found.penalty])
    np.testing.assert_allclose(alone.kernel, found.kernel, rtol=0.01, atol=1e-8)  # as near as L-BFGS goes
    assert find_task(task).losses(found.logits(x), labels).mean() < min(losses)


def test_the_views_of_a_image_stay_together():
    """Two equal views change nothing: parted over folds, the held-out image would have been learned by heart."""
    x, y = data(count=40, width=30, noise=0.3)
    one = learn_probe(x, y, find_task("multiclass"), class_names=NAMES)
    two = learn_probe(np.concatenate([x, x]), y, find_task("multiclass"), class_names=NAMES, views=2)
    assert two.penalty == one.penalty
    np.testing.assert_allclose([row[1] for row in two.path], [row[1] for row in one.path], rtol=1e-3)


def test_weights_count_as_repeated_examples():
    x, y = data(count=60)
    w = np.where(y == 1, 2.0, 1.0)
    rows = np.concatenate([np.arange(60), np.flatnonzero(y == 1)])
    z, _ = standardised(x)
    weighted = learn_probe(
        z.astype(np.float32), y, find_task("multiclass"), class_names=NAMES, penalties=[0.1], weights=w
    )
    kernel, bias, _ = next(find_task("multiclass").solutions(z[rows], y[rows], np.ones(len(rows)), [0.1]))
    np.testing.assert_allclose(weighted.logits(z), z @ kernel + bias, atol=2e-3)


def test_a_class_of_one_image_is_named():
    x, y = data(count=10)
    y = np.where(np.arange(10) == 0, 0, 1 + np.arange(10) % 2)
    with pytest.raises(DataError, match=r"class 'a' has 1 image to train on, .* transfer.penalties=\[0.01\]"):
        learn_probe(x, y, find_task("multiclass"), class_names=NAMES)
    assert learn_probe(x, y, find_task("multiclass"), class_names=NAMES, penalties=[0.01]).folds == 0
    y = np.array([0, 0, 1, 1, 1, 2, 2, 2, 2, 2])
    assert learn_probe(x, y, find_task("multiclass"), class_names=NAMES).folds == 2


def test_a_path_that_does_not_converge_is_named(monkeypatch):
    x, y = data()
    monkeypatch.setattr(linear, "ITERATIONS", 2)
    with pytest.raises(
        RecipeError, match=r"transfer.penalties: L-BFGS does not converge in 2 iterations .*0.01, 0.001"
    ):
        learn_probe(x, y, find_task("multiclass"), class_names=NAMES, penalties=[0.001, 0.01])
    with pytest.raises(RecipeError, match=r"add larger ones, such as 0.01"):
        learn_probe(x, y, find_task("multiclass"), class_names=NAMES, penalties=[0.001])


@pytest.mark.parametrize("factor", [1e-12, 1.0, 1e6])
def test_the_scale_of_the_features_does_not_matter(factor):
    """Random deep networks give features of 1e-12; what differs by rounding alone is no feature."""
    x, y = data(noise=3.0)
    x[:, 2] += np.linspace(0, 1e-6, len(x))
    found = learn_probe(
        (x * factor).astype(np.float32), y, find_task("multiclass"), class_names=NAMES, penalties=[0.01]
    )
    expected = learn_probe(x, y, find_task("multiclass"), class_names=NAMES, penalties=[0.01])
    np.testing.assert_allclose(found.logits((x * factor).astype(np.float32)), expected.logits(x), atol=0.05)
    assert not found.kernel[2].any()


def test_penalties_that_do_not_converge_are_left_out(monkeypatch):
    x, y = data(noise=5.0)
    monkeypatch.setattr(linear, "ITERATIONS", 15)
    found = learn_probe(x, y, find_task("multiclass"), class_names=NAMES, penalties=[10.0, 1e-7])
    assert found.unsolved == (1e-7,)
    assert found.penalty == 10.0


def test_warnings_of_other_threads_are_theirs():
    """scikit-learn warns of no convergence; what other threads warn of meanwhile is shown as before."""
    shown = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *place, **more: shown.append(str(message))
        with linear.SOLVING:
            warnings.warn("no end", ConvergenceWarning, stacklevel=1)
            other = threading.Thread(target=warnings.warn, args=("other",))
            other.start()
            other.join()
            assert not linear.SOLVING.converged
            with linear.SOLVING:
                assert linear.SOLVING.converged
        assert shown == ["other"]


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_the_solver_runs_on_one_blas_thread_and_leaves_the_rest_as_they_were(monkeypatch, task):
    """Several threads wait for each other in small products: flowers240 took 17.9 s with two and 2.3 s with one."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from threadpoolctl import ThreadpoolController, threadpool_limits

    def threads():
        return {(one["filepath"], one["num_threads"]) for one in blas.info()}

    solver = LogisticRegression if task == "multiclass" else Ridge
    seen, fit = [], solver.fit
    x, y = data()
    labels = y if task == "multiclass" else y[:, None].astype(np.float32)
    with threadpool_limits(2, user_api="blas"):
        blas = ThreadpoolController().select(user_api="blas")
        before = threads()
        monkeypatch.setattr(solver, "fit", lambda *a, **k: (seen.append(threads()), fit(*a, **k))[1])
        learn_probe(x, labels, find_task(task), class_names=NAMES, folds=2)
        assert {count for each in seen for _, count in each} == {1}
        monkeypatch.setattr(linear, "LARGE", 1)
        seen.clear()
        linear.ridge(x, labels.reshape(-1, 1) * 1.0, np.ones(len(x)), 0.1)
        assert threads() == before
    assert {count for _, count in before} == {2}
    assert task == "multiclass" or seen == [before]  # large products keep their threads
