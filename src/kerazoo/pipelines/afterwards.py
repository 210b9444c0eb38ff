"""After fine-tuning: batch norm's statistics anew, averages of two sets of weights, a temperature.

Each takes nothing but weights and data, and is tried on validation before it is kept; see `transfer.py`.
"""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from kerazoo.pipelines.scores import Measured, losses_of

SHARES = (0.2, 0.4, 0.6, 0.8)  # of the tuned weights in an average
RANGE = (0.05, 20.0)  # of a temperature

Weights = list[np.ndarray]


def reestimate(model: keras.Model, batches: Iterable[Any]) -> None:
    """Set the moving statistics of every trainable batch norm to the mean over `batches` of (pixels, ...).

    Weights stay as they are, and so does every seed. Source: "precise batch norm", Wu & Johnson 2021, arXiv:2105.07576,
    section 3.
    """
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization) and x.trainable]
    momenta = [norm.momentum for norm in norms]
    own = {id(variable) for norm in norms for variable in (norm.moving_mean, norm.moving_variance)}
    others = [variable for variable in model.variables if id(variable) not in own]
    kept = [np.array(ops.convert_to_numpy(variable)) for variable in others]
    try:
        for number, batch in enumerate(batches):
            for norm in norms:
                norm.momentum = number / (number + 1)  # a plain mean: the n-th batch counts 1 / n
            model(np.asarray(batch[0]), training=True)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for variable, value in zip(others, kept, strict=True):
            variable.assign(value)


def best_average(
    before: Weights, after: Weights, measure: Callable[[Weights], Measured]
) -> tuple[float, Weights, Measured]:
    """The share a of `after` in (1 - a) * before + a * after that does best, the weights, and what they get.

    Of equal scores the one with the lower loss; one that is not finite comes last. Source: WiSE-FT, Wortsman et al.
    2021, arXiv:2109.01903; the first set is here the probe on the pretrained network.
    """

    def average(share: float) -> Weights:
        return [_between(old, new, share) for old, new in zip(before, after, strict=True)]

    found = [(share, measure(average(share))) for share in SHARES]
    share, measured = max(found, key=_order)
    return share, average(share), measured


def _order(found: tuple[float, Measured]) -> tuple[bool, float, float]:
    loss = float(found[1].losses.mean())
    return bool(np.isfinite(loss)), float(found[1].scores.mean()), -loss


def _between(old: np.ndarray, new: np.ndarray, share: float) -> np.ndarray:
    if not np.issubdtype(new.dtype, np.floating):
        return new
    wide = old.astype(np.float64)
    mixed: np.ndarray = (wide + share * (new - wide)).astype(new.dtype)  # what is equal stays so to the last bit
    return mixed


def best_temperature(logits: np.ndarray, labels: np.ndarray, task: str) -> float:
    """The T that makes the mean loss of logits / T least; 1 for a regression.

    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2.
    """
    if task == "regression":
        return 1.0
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda power: losses_of(logits / np.exp(power), labels, task).mean(), bounds=np.log(RANGE), method="bounded"
    )
    return float(np.exp(found.x))
