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
from kerazoo.models.losses import perfect_loss

SMOOTHING = 0.98  # of the losses, as fastai's
DIVERGED = 4.0  # times the best smoothed loss
ENOUGH = 0.01  # above the loss of perfect answers: learned by heart

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
        step = _training_step(model, penalties=True)
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


@dataclass(frozen=True)
class BatchTrial:
    """What came of learning one batch by heart: the loss before each step, and the loss that counts as learned."""

    losses: np.ndarray
    perfect: float
    enough: float
    passed: bool

    def line(self) -> str:
        """The verdict, in one line."""
        last, steps = self.losses[-1], len(self.losses)
        went = f"the loss of one batch went from {self.losses[0]:.4f} to {last:.4f} in {steps} steps"
        goal = f"{self.enough:.4f}" + (f" ({self.perfect:.4f} is the least that its labels allow)" * (self.perfect > 0))
        if self.passed:
            return f"learned by heart: {went}, below {goal}"
        return f"NOT learned by heart: {went}, not below {goal}; look at labels, scaling, loss and learning rate"


def overfit_one_batch(model: keras.Model, batch: Batch, *, learning_rate: float, steps: int = 200) -> BatchTrial:
    """Train `model` on one `batch` at a constant rate until it knows it by heart, or for `steps`.

    By heart is a loss within 0.01 of that of perfect answers, which is the entropy of labels that are mixed or
    smoothed; of numbers, 1 % of the loss of their mean (squared error) or 10 % (absolute error). Dropout, penalties and
    weight decay are off: they are there to prevent just this.

    Source: Karpathy, "A Recipe for Training Neural Networks" (2019), "overfit one batch".
    """
    labels = np.asarray(batch[1])
    units = int(model.output_shape[-1])
    weight = batch[2] if len(batch) > 2 else None
    if isinstance(model.loss, keras.losses.MeanSquaredError | keras.losses.MeanAbsoluteError):
        share = 0.01 if isinstance(model.loss, keras.losses.MeanSquaredError) else 0.1
        mean = np.broadcast_to(labels.mean(axis=0), labels.shape)
        perfect, enough = 0.0, share * float(model.loss(labels, mean, sample_weight=weight))
    else:
        perfect = perfect_loss(model.loss, labels, units)
        enough = perfect + ENOUGH
    losses: list[float] = []
    with untouched(model), _without_dropout(model):
        step = _training_step(model, penalties=False)
        for _ in range(steps):
            losses.append(step(batch, learning_rate))
            if losses[-1] < enough or not np.isfinite(losses[-1]):
                break
    return BatchTrial(np.array(losses), perfect, enough, bool(losses[-1] < enough))


def _training_step(model: keras.Model, *, penalties: bool) -> Callable[[Batch, float], float]:
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
    pattern = getattr(inner, "_exclude_from_weight_decay_pattern", None)  # Keras leaves it out of the config
    if pattern is not None:
        made.exclude_from_weight_decay(var_names=[pattern.pattern])
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


@contextmanager
def _without_dropout(model: keras.Model) -> Iterator[None]:
    kept = [
        (layer, name, vars(layer)[name])
        for layer in model._flatten_layers()
        for name in ("rate", "dropout", "recurrent_dropout")
        if isinstance(vars(layer).get(name), int | float)
        and (name != "rate" or any(part in type(layer).__name__ for part in ("Dropout", "Stochastic")))
    ]
    try:
        for layer, name, _ in kept:
            setattr(layer, name, 0.0)
        yield
    finally:
        for layer, name, value in kept:
            setattr(layer, name, value)


def _endless(dataset: tf.data.Dataset) -> Iterator[Batch]:
    while True:
        empty = True
        for batch in dataset:
            empty = False
            yield batch
        if empty:
            raise RecipeError("there is not one training batch to try a learning rate on")
