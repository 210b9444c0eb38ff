"""The probe: a linear model on frozen features, by convex optimisation, its penalty chosen by cross-validation.

Multinomial logistic regression by L-BFGS for classes, one logistic regression a label for several labels, ridge
regression by Cholesky decomposition for numbers. Features are standardised; the standardisation is folded into the
weights, so that the probe is a head for the network itself. Only training examples take part.

Source: Kornblith et al. 2018, arXiv:1805.08974, appendix A.4 (logistic regression by L-BFGS over a path of penalties).
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerazoo.errors import DataError, RecipeError
from kerazoo.tasks.scores import losses_of, scores_of

PENALTIES = tuple(float(f"{10 ** (power / 2):.3g}") for power in range(2, -11, -1))  # 10 to 1e-5, strong to weak
FOLDS = 5
ITERATIONS = 1000  # of L-BFGS
TOLERANCE = 1e-5  # slope of the mean loss where it ends; scikit-learn's 1e-4 leaves logits a tenth off
WORSE = 2  # steps down the path that lose against the best before it is left
LARGE = 1e10  # multiplications of ridge regression from which BLAS threads are worth it
NEVER = 1e-6  # standard deviation of a feature that does not change, of its largest value

Solution = tuple[np.ndarray, np.ndarray, bool]  # kernel (F, K), bias (K,), whether it converged
Rows = np.ndarray | slice
ALL = slice(None)


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
    task: str,
    *,
    class_names: Sequence[str],
    penalties: Sequence[float] | None = None,
    folds: int = FOLDS,
    weights: np.ndarray | None = None,
    views: int = 1,
    seed: int = 0,
) -> Probe:
    """The probe of (N * views, F) float32 `features` of N examples, view after view, and their (N, ...) `labels`.

    `labels` and `task` are as in `Examples`; `weights` (N,) weigh the examples. The views of one example are never in
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
        folds = check_folds(labels, task, class_names, folds)
        found, unsolved = _cross_validate(x, y, w, task, path, len(labels), folds, seed)
        penalty = min(found, key=lambda row: row[1])[0] if found else path[0]
    else:
        penalty, folds = path[0], 0
    # down the path again, as in the folds: from a cold start the last one may not converge
    way = [*(p for p in path if p > penalty and p not in unsolved), penalty]
    *_, (kernel, bias, converged) = _solutions(x, y, w, task, way)
    if not converged or (len(path) > 1 and not found):
        raise RecipeError(
            f"transfer.penalties: L-BFGS does not converge in {ITERATIONS} iterations for any of "
            f"{', '.join(f'{p:g}' for p in path)}; add larger ones, such as {10 * max(path):g}"
        )
    kernel = kernel / spread[:, None]
    return Probe(kernel, bias - mean @ kernel, penalty, tuple(found), folds, tuple(unsolved))


def check_folds(labels: np.ndarray, task: str, class_names: Sequence[str], folds: int) -> int:
    """As many folds as every class can be in. Raises DataError that names the class."""
    if task != "multiclass":
        if len(labels) < 2:
            raise DataError("cross-validation takes at least 2 training examples; add some, or name one penalty")
        return min(folds, len(labels))
    counts = np.bincount(labels, minlength=len(class_names))
    least = int(counts.argmin())
    if counts[least] < 2:
        raise DataError(
            f"class {class_names[least]!r} has {counts[least]} image to train on, and cross-validation takes at "
            "least 2; add images, leave the class out, or name one penalty by transfer.penalties=[0.01]"
        )
    return min(folds, int(counts.min()))


def _cross_validate(
    x: np.ndarray, y: np.ndarray, w: np.ndarray, task: str, path: list[float], count: int, folds: int, seed: int
) -> tuple[list[tuple[float, float, float]], list[float]]:
    """(penalty, mean loss, mean score) down the path until it is worse, and the penalties that did not converge."""
    from sklearn.model_selection import KFold, StratifiedKFold

    kind = StratifiedKFold if task == "multiclass" else KFold
    parts = list(kind(folds, shuffle=True, random_state=seed).split(x[:count], y[:count]))
    example = np.arange(len(y)) % count  # of a row, whichever view it is
    ways = []
    for train, _ in parts:
        ways.append(_solutions(x, y, w, task, path, np.isin(example, train)))
    found: list[tuple[float, float, float]] = []
    unsolved: list[float] = []
    for penalty, solved in zip(path, zip(*ways, strict=True), strict=True):
        if not all(converged for _, _, converged in solved):
            unsolved.append(penalty)
            continue
        losses, scores = np.empty(count), np.empty(count)
        for (kernel, bias, _), (_, held) in zip(solved, parts, strict=True):
            logits = x[held] @ kernel + bias
            losses[held], scores[held] = losses_of(logits, y[held], task), scores_of(logits, y[held], task)
        found.append((penalty, float(np.average(losses, weights=w[:count])), float(scores.mean())))
        best = int(np.argmin([loss for _, loss, _ in found]))
        if len(found) - 1 - best >= WORSE:
            break
    return found, unsolved


def _solutions(
    x: np.ndarray, y: np.ndarray, w: np.ndarray, task: str, path: Sequence[float], rows: Rows = ALL
) -> Iterator[Solution]:
    """The solution of each penalty in turn, begun from the one before, on some `rows`.

    These are taken out anew for each: folds that go down the path side by side would be so many copies of x.
    """
    if task == "regression":
        yield from (_ridge(x[rows], y[rows], w[rows], penalty) for penalty in path)
    elif task == "multiclass":
        yield from _logistic(x, y, w, path, int(y[rows].max()) + 1, rows)
    else:
        columns = [_one_label(x, column, w, path, rows) for column in y.T]
        for solved in zip(*columns, strict=True):
            kernels, biases, converged = zip(*solved, strict=True)
            yield np.concatenate(kernels, axis=1), np.concatenate(biases), all(converged)


def _one_label(x: np.ndarray, y: np.ndarray, w: np.ndarray, path: Sequence[float], rows: Rows) -> Iterator[Solution]:
    """Of one label, (N,) of 0 and 1: the logit of 1. One that is always or never there has a bias only."""
    if len(np.unique(y[rows])) > 1:
        for kernel, bias, converged in _logistic(x, y.astype(np.int64), w, path, 2, rows):
            yield kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1], converged
        return
    share = (y[rows].sum() + 0.5) / (len(y[rows]) + 1)
    for _ in path:
        yield np.zeros((x.shape[1], 1)), np.log([share / (1 - share)]), True


def _logistic(
    x: np.ndarray, y: np.ndarray, w: np.ndarray, path: Sequence[float], classes: int, rows: Rows
) -> Iterator[Solution]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    blas = _blas()
    model = LogisticRegression(solver="lbfgs", tol=TOLERANCE, max_iter=ITERATIONS, warm_start=True)
    for penalty in path:
        model.set_params(C=1 / (penalty * w[rows].sum()))
        with blas.limit(limits=1), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model.fit(x[rows], y[rows], sample_weight=w[rows])
        converged = not any(issubclass(one.category, ConvergenceWarning) for one in said)
        kernel, bias = np.zeros((x.shape[1], classes)), np.zeros(classes)
        if len(model.classes_) == 2:  # one row: the logit of the second class against the first
            halves = np.array([[-0.5], [0.5]])
            kernel[:, model.classes_], bias[model.classes_] = (halves * model.coef_).T, halves[:, 0] * model.intercept_
        else:
            kernel[:, model.classes_], bias[model.classes_] = model.coef_.T, model.intercept_
        yield kernel.copy(), bias.copy(), converged


def _ridge(x: np.ndarray, y: np.ndarray, w: np.ndarray, penalty: float) -> Solution:
    """On numbers in units of their own spread, so that a penalty means the same whatever they measure."""
    from sklearn.linear_model import Ridge

    unit: Any = np.maximum(y.std(axis=0, dtype=np.float64), 1e-12)
    products = len(x) * x.shape[1] ** 2  # of the Gram matrix
    with _blas().limit(limits=None if products >= LARGE else 1):
        model = Ridge(alpha=penalty * w.sum(), solver="cholesky").fit(x, y / unit, sample_weight=w)
    return model.coef_.reshape(y.shape[1], -1).T * unit, np.atleast_1d(model.intercept_) * unit, True


def _blas() -> Any:
    """The BLAS libraries, to be limited to one thread around small products.

    NumPy and SciPy bring one each, and their threads wait for work by spinning: two threads take 7 to 60 times longer
    than one in L-BFGS, and 9 to 18 times in ridge regression on 256 features. Large products elsewhere keep their
    threads, so that the limit must be local.
    """
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")
