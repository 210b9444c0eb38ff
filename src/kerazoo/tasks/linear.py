"""Linear models on standardized features by convex optimization, for a series of penalties.

Shape letters: N examples, F features, K classes, labels or numbers.
"""

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

import numpy as np

ITERATIONS = 1000  # limit for L-BFGS
SLOPE = 1e-5  # L-BFGS stops at this slope of the mean loss; with scikit-learn's 1e-4, logits are a tenth off
LARGE = 1e10  # number of multiplications in ridge regression from which BLAS threads are faster

Solution = tuple[np.ndarray, np.ndarray, bool]  # kernel (F, K), bias (K,), whether it converged
Rows = np.ndarray | slice
ALL = slice(None)


def one_label(x: np.ndarray, y: np.ndarray, w: np.ndarray, path: Sequence[float], rows: Rows) -> Iterator[Solution]:
    """The solutions for one label, (N,) of 0 and 1: the logit of 1. A constant label gives only a bias."""
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
    """The solutions for class numbers, (N,) below `classes`: multinomial logistic regression by L-BFGS."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(solver="lbfgs", tol=SLOPE, max_iter=ITERATIONS, warm_start=True)
    for penalty in path:
        model.set_params(C=1 / (penalty * w[rows].sum()))
        with SOLVING:
            model.fit(x[rows], y[rows], sample_weight=w[rows])
            converged = SOLVING.converged
        kernel = np.zeros((x.shape[1], classes))
        bias = np.zeros(classes)
        if len(model.classes_) == 2:  # coef_ has one row: the logit of the second class against the first
            halves = np.array([[-0.5], [0.5]])
            kernel[:, model.classes_], bias[model.classes_] = (halves * model.coef_).T, halves[:, 0] * model.intercept_
        else:
            kernel[:, model.classes_], bias[model.classes_] = model.coef_.T, model.intercept_
        yield kernel.copy(), bias.copy(), converged


class Solving:
    """Inside, in any number of threads at once, BLAS has one thread, and `converged` is about this thread's solution.

    NumPy and SciPy have one BLAS each, whose threads spin while they wait: two threads take 7 to 60 times longer than
    one in L-BFGS, and 9 to 18 times in ridge regression on 256 features. Large products elsewhere need threads. Only a
    warning says that L-BFGS did not converge. Both settings belong to the process: the first thread that enters makes
    them, and the last restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._settings = ExitStack()
        self._failed = threading.local()
        self._show: Callable[..., None] = warnings.showwarning  # of the process, while it is replaced

    @property
    def converged(self) -> bool:
        """Whether the solution that this thread found inside has converged."""
        return not self._failed.here

    def __enter__(self) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from threadpoolctl import ThreadpoolController

        self._failed.here = False
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                blas = ThreadpoolController().select(user_api="blas")  # the libraries that are loaded by now
                self._settings.enter_context(blas.limit(limits=1))
                self._settings.enter_context(warnings.catch_warnings())
                self._show = warnings.showwarning
                warnings.simplefilter("always", ConvergenceWarning)
                warnings.showwarning = self._note

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._settings.close()

    def _note(self, message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        from sklearn.exceptions import ConvergenceWarning

        if issubclass(category, ConvergenceWarning):
            self._failed.here = True
        else:
            self._show(message, category, *place, **more)


SOLVING = Solving()


def ridge(x: np.ndarray, y: np.ndarray, w: np.ndarray, penalty: float) -> Solution:
    """The solution for numbers: ridge regression in units of their standard deviation, so penalties are comparable."""
    from sklearn.linear_model import Ridge

    unit: Any = np.maximum(y.std(axis=0, dtype=np.float64), 1e-12)
    products = len(x) * x.shape[1] ** 2  # multiplications for the Gram matrix
    with SOLVING if products < LARGE else nullcontext():
        model = Ridge(alpha=penalty * w.sum(), solver="cholesky").fit(x, y / unit, sample_weight=w)
    return model.coef_.reshape(y.shape[1], -1).T * unit, np.atleast_1d(model.intercept_) * unit, True
