"""The probe: a linear model on frozen features, by convex optimisation, its penalty chosen by cross-validation.

Multinomial logistic regression by L-BFGS for classes, one logistic regression a label for several labels, ridge
regression by Cholesky decomposition for numbers. Features are standardised; the standardisation is folded into the
weights, so that the probe is a head for the network itself. Only training examples take part.

Source: Kornblith et al. 2018, arXiv:1805.08974, appendix A.4 (logistic regression by L-BFGS over a path of penalties).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kerazoo.errors import RecipeError
from kerazoo.tasks import linear
from kerazoo.tasks.base import Task

PENALTIES = tuple(float(f"{10 ** (power / 2):.3g}") for power in range(2, -11, -1))  # 10 to 1e-5, strong to weak
FOLDS = 5
WORSE = 2  # steps down the path that lose against the best before it is left
NEVER = 1e-6  # standard deviation of a feature that does not change, of its largest value


@dataclass(frozen=True)
class Probe:
    """A head: `kernel` (F, K) and `bias` (K,), float64, of features as the network gives them.

    `penalty` is the L2 strength d of: mean loss + d / 2 * |W|^2, on standardised features; of two classes W is the
    difference of theirs, and numbers are in units of their spread, their loss half the squared error. `path` holds
    (penalty, mean loss, mean score) of cross-validation over `folds`, () where one penalty was given; `unsolved` the
    penalties that did not converge.
    """

    kernel: np.ndarray
    bias: np.ndarray
    penalty: float
    path: tuple[tuple[float, float, float], ...] = ()
    folds: int = 0
    unsolved: tuple[float, ...] = ()

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(N, F) -> (N, K) float64; the numbers themselves, for a regression."""
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
    """The probe of (N * views, F) float32 `features` of N examples, view after view, and their (N, ...) `labels`.

    `labels` are as in `Examples`; `weights` (N,) weigh the examples. The views of one example are never in
    different folds, and a fold is judged by its first view. Of `penalties` the one with the least loss over stratified
    folds is taken; one alone is taken as it is. Raises DataError where a class has fewer than 2 examples to part, and
    RecipeError where no penalty converges.
    """
    path = sorted(PENALTIES if penalties is None else penalties, reverse=True)
    mean = features.mean(axis=0, dtype=np.float64)
    spread = features.std(axis=0, dtype=np.float64)
    spread[spread <= NEVER * np.abs(features).max(axis=0)] = np.inf  # rounding is no feature: no weight
    x = (features - mean) / spread
    y = np.tile(labels, (views, *(1,) * (labels.ndim - 1)))
    w = np.ones(len(y)) if weights is None else np.tile(weights / weights.mean(), views)
    found: list[tuple[float, float, float]] = []
    unsolved: list[float] = []
    if len(path) > 1:
        folds = task.fold_count(labels, class_names, folds)
        found, unsolved = _cross_validate(x, y, w, task, path, len(labels), folds, seed)
        penalty = min(found, key=lambda row: row[1])[0] if found else path[0]
    else:
        penalty, folds = path[0], 0
    # down the path again, as in the folds: from a cold start the last one may not converge
    way = [*(p for p in path if p > penalty and p not in unsolved), penalty]
    *_, (kernel, bias, converged) = task.solutions(x, y, w, way)
    if not converged or (len(path) > 1 and not found):
        raise RecipeError(
            f"transfer.penalties: L-BFGS does not converge in {linear.ITERATIONS} iterations for any of "
            f"{', '.join(f'{p:g}' for p in path)}; add larger ones, such as {10 * max(path):g}"
        )
    kernel = kernel / spread[:, None]
    return Probe(kernel, bias - mean @ kernel, penalty, tuple(found), folds, tuple(unsolved))


def _cross_validate(
    x: np.ndarray, y: np.ndarray, w: np.ndarray, task: Task, path: list[float], count: int, folds: int, seed: int
) -> tuple[list[tuple[float, float, float]], list[float]]:
    """(penalty, mean loss, mean score) down the path until it is worse, and the penalties that did not converge."""
    parts = list(task.splitter(folds, seed).split(x[:count], y[:count]))
    example = np.arange(len(y)) % count  # of a row, whichever view it is
    ways = []
    for train, _ in parts:
        ways.append(task.solutions(x, y, w, path, np.isin(example, train)))
    found: list[tuple[float, float, float]] = []
    unsolved: list[float] = []
    for penalty, solved in zip(path, zip(*ways, strict=True), strict=True):
        if not all(converged for _, _, converged in solved):
            unsolved.append(penalty)
            continue
        losses, scores = np.empty(count), np.empty(count)
        for (kernel, bias, _), (_, held) in zip(solved, parts, strict=True):
            logits = x[held] @ kernel + bias
            losses[held] = task.losses(logits, y[held])
            scores[held] = task.scores(logits, y[held])
        found.append((penalty, float(np.average(losses, weights=w[:count])), float(scores.mean())))
        best = int(np.argmin([loss for _, loss, _ in found]))
        if len(found) - 1 - best >= WORSE:
            break
    return found, unsolved
