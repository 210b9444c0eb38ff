"""Two trials before a run: which learning rate to take, and whether the network can learn one batch by heart.

Both train a compiled network on the TensorFlow backend, on one device, and leave it bit for bit as it was: weights,
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

SMOOTHING = 0.98  # of the losses, as fastai's
DIVERGED = 4.0  # times the best smoothed loss

Batch = tuple[Any, ...]  # pixels, labels, and weights where classes are weighted


@dataclass(frozen=True)
class RateTrial:
    """A range test: the rate of each step, its batch's own loss, the smoothed losses; and a rate to take.

    `suggestion` is None where the loss never fell.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggestion: float | None

    def line(self) -> str:
        """What was found, in one line."""
        span = f"{len(self.rates)} steps, rates {self.rates[0]:.1e} to {self.rates[-1]:.1e}"
        if self.suggestion is None:
            return f"no learning rate lowered the loss in {span}; look at the data and the loss"
        return f"learning rate {self.suggestion:.1e} ({span})"


def find_rate(
    model: keras.Model, dataset: tf.data.Dataset, *, lowest: float = 1e-7, highest: float = 10.0, steps: int = 100
) -> RateTrial:
    """Train `model` for `steps` batches while the rate grows from `lowest` to `highest` by a constant factor.

    `dataset` gives batches as `fit` takes them, and is begun anew where it ends. The trial stops where the smoothed
    loss is 4 times the best, or no number. The optimizer is a fresh one of the compiled kind, without accumulation;
    the loss is the compiled one with the network's own penalties. Source: Smith 2015, arXiv:1506.01186, section 3.3,
    with the numbers of fastai's `lr_find`.

    Raises RecipeError where the range or the steps allow no trial.
    """
    if not 0 < lowest < highest or steps < 10:
        raise RecipeError(
            f"lowest={lowest}, highest={highest}, steps={steps}: take 0 < lowest < highest and at least 10 steps"
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
    """The exponential mean at each step, its start accounted for: s_t = (b s + (1 - b) l_t) / (1 - b^t), b = 0.98."""
    found, mean = [], 0.0
    for number, loss in enumerate(losses, start=1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        found.append(mean / (1 - SMOOTHING**number))
    return found


def valley(rates: np.ndarray, smoothed: np.ndarray) -> float | None:
    """The rate half-way down the longest falling part of the losses, in steps: fastai's "valley" rule.

    The falling part is the longest subsequence of falling losses, of several the one that starts last. The first tenth
    of the trial and the last five steps, where the loss runs away, are left out. None where nothing falls.
    """
    first = len(rates) // 10
    kept = slice(first, max(len(rates) - 5, first + 1))
    rates, smoothed = rates[kept][np.isfinite(smoothed[kept])], smoothed[kept][np.isfinite(smoothed[kept])]
    length, start = np.ones(len(smoothed), int), np.arange(len(smoothed))
    for i in range(len(smoothed)):
        for j in range(i):
            if smoothed[i] < smoothed[j] and length[i] <= length[j] + 1:
                length[i], start[i] = length[j] + 1, start[j]
    if not len(smoothed) or length.max() < 2:
        return None
    end = int(length.argmax())
    return float(rates[(start[end] + end) // 2])


def training_step(model: keras.Model, *, penalties: bool) -> Callable[[Batch, float], float]:
    """(batch, rate) -> the loss of the batch before the update, by a fresh optimizer of the compiled kind.

    Losses come out of the step itself: differences of `fit`'s running means lose digits.
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
    """One of the same kind and settings that has not learned, whose rate can be set; no accumulation, no averages."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # float16 is tried without loss scaling
    config = inner.get_config() | {"learning_rate": 1.0, "gradient_accumulation_steps": None, "use_ema": False}
    made = type(inner).from_config(config)
    pattern = undecayed(inner)
    if pattern is not None:
        made.exclude_from_weight_decay(var_names=[pattern])
    return made


@contextmanager
def untouched(model: keras.Model) -> Iterator[None]:
    """Puts every variable of `model` (weights, statistics, seeds) back at the end, whatever happened."""
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
            raise RecipeError("there is not one training batch to try a learning rate on")
