"""After fine-tuning: batch norm re-estimation, an average of weights, mirror images, a temperature.

Each is kept only if it helps.
"""

import time
from collections.abc import Callable
from dataclasses import replace

import keras
import numpy as np

from kerazoo.models.description import ModelSpec
from kerazoo.models.weights.loading import weights_digest
from kerazoo.pipelines.input.batches import TrainingBatches
from kerazoo.tasks.scores import Measured
from kerazoo.training.plan import Plan
from kerazoo.training.second_view import NAME, NOT_TRIED
from kerazoo.training.validation import measured, val_logits
from kerazoo.transfer.batch_norm import REESTIMATED, batch_norms, reestimate
from kerazoo.transfer.cross_fitting import best_average, best_temperature, folds_of
from kerazoo.transfer.phases import Phases


def refine(
    model: keras.Model, plan: Plan, before: list[np.ndarray], batches: TrainingBatches, phases: Phases, *,
    seconds: float, choices: int, logits: Callable[[], np.ndarray] | None = None,
) -> None:  # fmt: skip
    """Keep the fine-tuned weights if they beat `before`, then try batch norm re-estimation and weight averaging.

    Leaves the best weights in `model`. The fine-tuned weights are the best of `choices` epochs on validation. `logits`
    is a faster way to the logits of `model` on validation, if there is one.
    """
    measure = measure_of(model, plan, logits)
    tuned = model.get_weights()
    kept = tuned if phases.keep_if_better("fine-tuning", measure(tuned), seconds, choices=choices) else before
    if not all(np.isfinite(weights).all() for weights in tuned):
        model.set_weights(before)  # weights that are not finite cannot be averaged either
        return
    if any(norm.trainable for norm in batch_norms(model)):
        begin = time.perf_counter()
        model.set_weights(tuned)
        reestimate(model, batches.at(0, 0).take(REESTIMATED))
        tuned = model.get_weights()
        if phases.keep_if_better("batch norm again", measure(tuned), time.perf_counter() - begin):
            kept = tuned
    if plan.transfer.average:
        begin = time.perf_counter()
        assert phases.best is not None
        folds = folds_of(plan.examples.split("val").labels, plan.task)
        average = best_average(before, tuned, measure, phases.best, folds)
        if phases.average(average, time.perf_counter() - begin):
            kept = average.weights
    model.set_weights(kept)


def measure_of(
    model: keras.Model, plan: Plan, logits: Callable[[], np.ndarray] | None = None
) -> Callable[[list[np.ndarray]], Measured]:
    """A function weights -> the measure of `model` with these weights on validation; `logits` as in `refine`."""

    def measure(weights: list[np.ndarray]) -> Measured:
        model.set_weights(weights)
        key = weights_digest(model), False
        if logits is not None and key not in plan.known_logits:
            plan.known_logits[key] = logits()
        return measured(model, plan)

    return measure


def described(model: keras.Model, plan: Plan, phases: Phases) -> ModelSpec:
    """The description of the network, with mirror images and a temperature if the recipe wants them and they help."""
    plan = replace(plan, spec=mirrored(model, plan, phases))
    return calibrated(model, plan, phases) if plan.transfer.calibrate else plan.spec


def mirrored(model: keras.Model, plan: Plan, phases: Phases) -> ModelSpec:
    """The description of the network, with mirror images if the recipe wants them and, unless always, they help."""
    flip = plan.recipe.evaluation.flip
    if flip == "never":
        return plan.spec
    begin = time.perf_counter()
    if not plan.augmentation.flip:
        phases.leave_out(NAME, NOT_TRIED, 0.0)
        return plan.spec
    found = measured(model, plan, flip=True)
    kept = phases.mirror_images(found, time.perf_counter() - begin, always=flip == "always")
    return replace(plan.spec, flip=kept)


def calibrated(model: keras.Model, plan: Plan, phases: Phases) -> ModelSpec:
    """The description of the network, with a temperature fitted on validation, if it helps."""
    task = plan.task
    if not task.probabilities:
        return plan.spec
    begin = time.perf_counter()
    labels = plan.examples.split("val").labels
    logits = val_logits(model, plan, flip=plan.spec.flip)
    temperature = best_temperature(logits, labels, task, folds_of(labels, task))
    kept = phases.temperature(temperature, time.perf_counter() - begin)
    return replace(plan.spec, temperature=temperature.value) if kept else plan.spec
