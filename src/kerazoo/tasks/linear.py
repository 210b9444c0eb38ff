"""Linear models on standardised features by convex optimisation, each along a path of penalties.

Shape letters: N examples, F features, K classes, labels or numbers.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

ITERATIONS = 1000  # of L-BFGS
SLOPE = 1e-5  # of the mean loss where L-BFGS ends; scikit-learn's 1e-4 leaves logits a tenth off
LARGE = 1e10  # multiplications of ridge regression from which BLAS threads are worth it

Solution = tuple[np.ndarray, np.ndarray, bool]  # kernel (F, K), bias (K,), whether it converged
Rows = np.ndarray | slice
ALL = slice(None)


def one_label(x: np.ndarray, y: np.ndarray, w: np.ndarray, path: Sequence[float], rows: Rows) -> Iterator[Solution]:
    """Of one label, (N,) of 0 and 1: the logit of 1. One that is always or never there has a bias only."""
    if len(np.unique(y[rows])) > 1:
        for kernel, bias, converged in logistic(x, y.astype(np.int64), w, path, 2, rows):
            yield kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1], converged
        return
    share = (y[rows].sum() + 0.5) / (len(y[rows]) + 1)
    for _ in path:
        yield np.zeros((x.shape[1], 1)), np.log([share / (1 - share)]), True


def logistic(
    x: np.ndarray, y: np.ndarray, w: np.ndarray, path: Sequence[float], classes: int, rows: Rows
) -> Iterator[Solution]:
    """Of class numbers, (N,) below `classes`: multinomial logistic regression by L-BFGS."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    blas = _blas()
    model = LogisticRegression(solver="lbfgs", tol=SLOPE, max_iter=ITERATIONS, warm_start=True)
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


def ridge(x: np.ndarray, y: np.ndarray, w: np.ndarray, penalty: float) -> Solution:
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
