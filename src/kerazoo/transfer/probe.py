"""The probe: a linear model on frozen features, by convex optimization; cross-validation chooses its penalty.

It is multinomial logistic regression by L-BFGS for classes, one logistic regression for each of several labels, and
ridge regression by Cholesky decomposition for numbers. Features are standardized. The standardization is folded into
the weights, so the probe can be the head of the network. It uses only training examples.

Source: Kornblith et al. 2018, arXiv:1805.08974, appendix A.4 (logistic regression by L-BFGS over a path of penalties).
"""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from kerazoo.errors import RecipeError
from kerazoo.tasks import linear
from kerazoo.tasks.base import Task
from kerazoo.tasks.linear import Solution

PENALTIES = tuple(float(f"{10 ** (power / 2):.3g}") for power in range(2, -11, -1))  # 10 to 1e-5, strong to weak
FOLDS = 5
WORSE = 2  # stop after this many penalties in a row that are worse than the best
COPIES = 1_000_000_000  # bytes of features in all threads, each of which copies those of its fold
NEVER = 1e-6  # a feature counts as constant if its standard deviation is at most this share of its largest value


@dataclass(frozen=True)
class Probe:
    """A head: `kernel` (F, K) and `bias` (K,), float64, for the features as the network gives them.

    `penalty` is the L2 strength d in mean loss + d / 2 * |W|^2, on standardized features. With two classes, W is the
    difference of their weights. Numbers are in units of their standard deviation, and their loss is half the squared
    error. `path` has (penalty, mean loss, mean score) of cross-validation over `folds`, or is () if only one penalty
    was given. `unsolved` has the penalties that did not converge.
    """

    kernel: np.ndarray
    bias: np.ndarray
    penalty: float
    path: tuple[tuple[float, float, float], ...] = ()
    folds: int = 0
    unsolved: tuple[float, ...] = ()

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(N, F) -> (N, K) float64 logits; for regression, the predicted numbers."""
        values: np.ndarray = features.astype(np.float64) @ self.kernel + self.bias
        return values

    @property
    def score(self) -> float | None:
        """The cross-validated score of the chosen penalty: accuracy, or minus the mean absolute error."""
        return next((score for penalty, _, score in self.path if penalty == self.penalty), None)


def learn_probe(
    features: np.ndarray,
    labels: np.ndarray,
    task: Task,
    *,
    class_names: Sequence[str],
    penalties: Sequence[float] | None = None,
    folds: int = FOLDS,
    weights: np.ndarray | None = None,
    views: int = 1,
    seed: int = 0,
) -> Probe:
    """The probe for (N * views, F) float32 `features` of N examples, view after view, and their (N, ...) `labels`.

    `labels` are as in `Examples`; `weights` (N,) are weights of the examples. All views of an example are in the same
    fold, and only first views are used to evaluate a fold. It uses the penalty with the lowest loss over stratified
    folds, or the only one in `penalties`. Raises DataError if a class has fewer than 2 examples, and RecipeError if no
    penalty converges.
    """
    path = sorted(PENALTIES if penalties is None else penalties, reverse=True)
    mean = features.mean(axis=0, dtype=np.float64)
    spread = features.std(axis=0, dtype=np.float64)
    spread[spread <= NEVER * np.abs(features).max(axis=0)] = (
        np.inf
    )  # a constant feature, except for rounding, gets no weight
    x = (features - mean) / spread
    y = np.tile(labels, (views, *(1,) * (labels.ndim - 1)))
    w = np.ones(len(y)) if weights is None else np.tile(weights / weights.mean(), views)
    results: list[tuple[float, float, float]] = []
    unsolved: list[float] = []
    if len(path) > 1:
        folds = task.fold_count(labels, class_names, folds)
        results, unsolved, solutions = _cross_validate(x, y, w, task, path, len(labels), folds, seed)
        penalty = min(results, key=lambda row: row[1])[0] if results else path[0]
        kernel, bias, converged = solutions[path.index(penalty)]
    else:
        penalty = path[0]
        folds = 0
        kernel, bias, converged = next(task.solutions(x, y, w, path))
    if not converged or (len(path) > 1 and not results):
        raise RecipeError(
            f"transfer.penalties: L-BFGS does not converge in {linear.ITERATIONS} iterations for any of "
            f"{', '.join(f'{p:g}' for p in path)}; add larger ones, such as {10 * max(path):g}"
        )
    kernel = kernel / spread[:, None]
    return Probe(kernel, bias - mean @ kernel, penalty, tuple(results), folds, tuple(unsolved))


def _cross_validate(
    x: np.ndarray, y: np.ndarray, w: np.ndarray, task: Task, path: list[float], count: int, folds: int, seed: int
) -> tuple[list[tuple[float, float, float]], list[float], list[Solution]]:
    """(penalty, mean loss, mean score) from large to small until it gets worse; the penalties that did not converge;
    and the solution of all rows for each penalty so far.

    All folds are solved for a penalty before the next, each from its own solution for the last penalty: with a small
    penalty, it may not converge from a cold start.
    """
    parts = list(task.splitter(folds, seed).split(x[:count], y[:count]))
    example = np.arange(len(y)) % count  # the example of each row, for all views
    learners = [task.solutions(x, y, w, path, np.isin(example, train)) for train, _ in parts]
    learners.append(task.solutions(x, y, w, path))
    results: list[tuple[float, float, float]] = []
    unsolved: list[float] = []
    of_all: list[Solution] = []
    threads = min(os.cpu_count() or 1, len(learners), max(COPIES // x.nbytes, 1))
    with ExitStack() as stack:
        each: Callable[..., Iterable[Solution]] = map
        if threads > 1:
            stack.enter_context(linear.SOLVING)  # OpenBLAS does not always take its limit from another thread
            each = stack.enter_context(ThreadPoolExecutor(threads)).map
        for penalty in path:
            *solutions, whole = each(next, learners)
            of_all.append(whole)
            if not all(converged for _, _, converged in solutions):
                unsolved.append(penalty)
                continue
            losses = np.empty(count)
            scores = np.empty(count)
            for (kernel, bias, _), (_, rows) in zip(solutions, parts, strict=True):
                logits = x[rows] @ kernel + bias
                losses[rows] = task.losses(logits, y[rows])
                scores[rows] = task.scores(logits, y[rows])
            results.append((penalty, float(np.average(losses, weights=w[:count])), float(scores.mean())))
            best = int(np.argmin([loss for _, loss, _ in results]))
            if len(results) - 1 - best >= WORSE:
                break
    return results, unsolved, of_all
