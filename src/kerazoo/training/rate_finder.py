"""The learning-rate range test, and the training step that trials before a run share.

A trial trains a compiled network on the TensorFlow backend, on one device, and then restores it bit for bit: weights,
moving statistics, seeds of dropout, optimizer and metrics.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from kerazoo.errors import RecipeError
from kerazoo.keras_private import undecayed

SMOOTHING = 0.98  # smoothing factor of the losses, as in fastai
DIVERGED = 4.0  # stop at this multiple of the best smoothed loss

Batch = tuple[Any, ...]  # pixels, labels, and weights if classes are weighted


@dataclass(frozen=True)
class RateTrial:
    """The result of a range test: the rate and the loss of each step, the smoothed losses, and the suggested rate.

    `suggestion` is None if the loss never fell.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggestion: float | None

    def line(self) -> str:
        """The result in one line."""
        span = f"{len(self.rates)} steps, rates {self.rates[0]:.1e} to {self.rates[-1]:.1e}"
        if self.suggestion is None:
            return f"no learning rate lowered the loss in {span}; check the data and the loss"
        return f"learning rate {self.suggestion:.1e} ({span})"


def find_rate(
    model: keras.Model, dataset: tf.data.Dataset, *, lowest: float = 1e-7, highest: float = 10.0, steps: int = 100
) -> RateTrial:
    """Train `model` for `steps` batches while the rate grows from `lowest` to `highest` by a constant factor.

    `dataset` gives batches as for `fit`, and is repeated. The trial stops if the smoothed loss is 4 times the best, or
    if a loss is not finite. It uses a new optimizer with the compiled settings, without accumulation, and the compiled
    loss with the network's penalties. Source: Smith 2015, arXiv:1506.01186, section 3.3, with the numbers of fastai's
    `lr_find`.

    Raises RecipeError if the range or the number of steps is bad.
    """
    if not 0 < lowest < highest or steps < 10:
        raise RecipeError(
            f"the rates must have 0 < lowest < highest, with at least 10 steps, got lowest={lowest}, "
            f"highest={highest}, steps={steps}"
        )
    rates = lowest * (highest / lowest) ** (np.arange(steps) / (steps - 1))
    losses: list[float] = []
    averages: list[float] = []
    with untouched(model):
        step = training_step(model, penalties=True)
        batches = itertools.islice(_endless(dataset), steps)
        for rate, batch in zip(rates, batches, strict=False):
            losses.append(step(batch, rate))
            averages = smooth(losses)
            if not np.isfinite(losses[-1]) or averages[-1] > DIVERGED * min(averages):
                break
    tried = rates[: len(losses)]
    return RateTrial(tried, np.array(losses), np.array(averages), valley(tried, np.array(averages)))


def smooth(losses: list[float]) -> list[float]:
    """The exponential mean at each step, corrected for its start: s_t = (b s + (1 - b) l_t) / (1 - b^t), b = 0.98."""
    smoothed = []
    mean = 0.0
    for number, loss in enumerate(losses, start=1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed.append(mean / (1 - SMOOTHING**number))
    return smoothed


def valley(rates: np.ndarray, smoothed: np.ndarray) -> float | None:
    """The rate in the middle of the longest falling part of the losses, in steps: fastai's "valley" rule.

    The falling part is the longest subsequence of falling losses; of several, it is the one that starts last. The first
    tenth of the trial and the last five steps, where the loss diverges, are left out. None if the loss never falls.
    """
    first = len(rates) // 10
    middle = slice(first, max(len(rates) - 5, first + 1))
    finite = np.isfinite(smoothed[middle])
    rates = rates[middle][finite]
    smoothed = smoothed[middle][finite]
    length = np.ones(len(smoothed), int)
    start = np.arange(len(smoothed))
    for i in range(len(smoothed)):
        for j in range(i):
            if smoothed[i] < smoothed[j] and length[i] <= length[j] + 1:
                length[i], start[i] = length[j] + 1, start[j]
    if not len(smoothed) or length.max() < 2:
        return None
    end = int(length.argmax())
    return float(rates[(start[end] + end) // 2])


def training_step(model: keras.Model, *, penalties: bool) -> Callable[[Batch, float], float]:
    """A function (batch, rate) -> the loss of the batch before the update, with a new optimizer as compiled.

    The step itself returns the loss, because differences of `fit`'s running means lose digits.
    """
    optimizer = fresh_optimizer(model.optimizer)
    if not penalties:
        optimizer.weight_decay = None
    optimizer.build(model.trainable_variables)

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def step(*batch: Any) -> tf.Tensor:
        weight = batch[2] if len(batch) > 2 else None
        with tf.GradientTape() as tape:
            loss = model.loss(batch[1], model(batch[0], training=True), sample_weight=weight)
            if penalties:
                loss = ops.sum([loss, *model.losses])
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    def run(batch: Batch, rate: float) -> float:
        optimizer.learning_rate = float(rate)
        return float(step(*batch))

    return run


def fresh_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """A new optimizer with the same settings, but a rate that can be set, no accumulation and no averages."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # float16 is tried without loss scaling
    config = inner.get_config() | {"learning_rate": 1.0, "gradient_accumulation_steps": None, "use_ema": False}
    fresh = type(inner).from_config(config)
    pattern = undecayed(inner)
    if pattern is not None:
        fresh.exclude_from_weight_decay(var_names=[pattern])
    return fresh


@contextmanager
def untouched(model: keras.Model) -> Iterator[None]:
    """Restore every variable of `model` (weights, statistics, seeds) at the end, even after an error."""
    kept = [np.array(ops.convert_to_numpy(variable)) for variable in model.variables]
    try:
        yield
    finally:
        for variable, value in zip(model.variables, kept, strict=True):
            variable.assign(value)


def _endless(dataset: tf.data.Dataset) -> Iterator[Batch]:
    while True:
        empty = True
        for batch in dataset:
            empty = False
            yield batch
        if empty:
            raise RecipeError("there are no training batches to try a learning rate on")
