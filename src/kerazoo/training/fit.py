"""Compile and fit: Keras's own `fit` with the callbacks of a run."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import keras
import numpy as np
import tensorflow as tf

from kerazoo.callbacks.metrics import MetricsWriter
from kerazoo.callbacks.progress import Progress
from kerazoo.callbacks.resume import Resume
from kerazoo.callbacks.stopping import StopOnNaN
from kerazoo.errors import InputError
from kerazoo.models.description import ModelSpec
from kerazoo.pipelines.data.examples import Examples
from kerazoo.pipelines.devices.devices import Devices
from kerazoo.pipelines.input.augmentation import augmentation_of
from kerazoo.pipelines.input.batches import TrainingBatches
from kerazoo.recipes.recipe import Recipe
from kerazoo.runs.run import Run
from kerazoo.tasks.task import find_task
from kerazoo.training.optimizers import control_callbacks, make_optimizer
from kerazoo.training.plan import make_loss
from kerazoo.training.watching import logging_callbacks

log = logging.getLogger("kerazoo")


def fit(
    model: keras.Model,
    batches: TrainingBatches,
    validation: tf.data.Dataset,
    *,
    run: Run,
    recipe: Recipe,
    spec: ModelSpec,
    examples: Examples,
    loss: str,
    devices: Devices,
    factors: Mapping[str, float] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> list[dict[str, float]]:
    """Compile and fit `model` by `recipe`; the rows of losses and metrics, one an epoch.

    `factors` of the learning rate are by the variables' paths. `callbacks` come after those of the run. Goes on from
    the newest checkpoint of the run. Ends after an epoch whose loss is not finite (see `divergence_message`). Raises
    Interrupted where a signal stopped it.
    """
    epochs, images = recipe.training.epochs, batches.steps * int(recipe.training.batch_size)
    compile_model(model, recipe, spec, loss, devices, steps=batches.steps * epochs, factors=factors)
    resume = Resume(
        run.checkpoints, position=batches.start.assign, write=devices.is_chief,
        epochs_only=devices.workers > 1, made_by={"recipe": run.recipe_sha256}, **recipe.checkpoint.model_dump(),
    )  # fmt: skip
    epoch, step = resume.found or (0, 0)
    if resume.found is not None:
        log.info(f"{run.folder} goes on from epoch {epoch + 1}, step {step}")
    metrics = None
    with ExitStack() as stack:
        every = [batches.clock(), *control_callbacks(recipe), StopOnNaN()]
        if devices.is_chief:
            watch = stack.enter_context(logging_callbacks(run, recipe, examples, spec.preprocessing, epochs=epoch))
            metrics = MetricsWriter(run.folder, images)
            progress = stack.enter_context(Progress(images, start_step=step))
            every += [progress, *watch(model), metrics]
        every += callbacks
        stack.enter_context(resume.signals())
        stack.enter_context(devices.training())
        devices.check_same(0 if resume.found is None else epoch + 1, f"the checkpoints in {run.checkpoints}")
        model.fit(
            devices.distribute(batches.dataset), validation_data=devices.distribute(validation), epochs=epochs,
            shuffle=False, verbose=0, initial_epoch=resume.initial_epoch(epochs), callbacks=resume.after(every),
        )  # fmt: skip
    if metrics is None:
        return [{**row, "epoch": row["epoch"] + 1} for row in resume.rows]
    metrics.settle()  # what a full disk did not take; it raises that now
    return metrics.rows


def check_callbacks(callbacks: Sequence[keras.callbacks.Callback]) -> None:
    """Raise InputError for what is no callback of Keras."""
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.Callback):
            raise InputError(f"callbacks must be keras.callbacks.Callback objects, got {callback!r:.80}")


def divergence_message(rows: list[dict[str, float]], recipe: Recipe) -> str:
    """What to say of a training whose last loss is not finite; "" of any other."""
    if not rows or np.isfinite(rows[-1]["loss"]):
        return ""
    return (
        f"the loss became {rows[-1]['loss']} in epoch {int(rows[-1]['epoch'])}; lower optimizer.learning_rate "
        f"(it was {recipe.optimizer.learning_rate}) or look at watch.jsonl in the run"
    )


def compile_model(
    model: keras.Model, recipe: Recipe, spec: ModelSpec, loss: str, devices: Devices, *, steps: int,
    factors: Mapping[str, float] | None = None,
) -> None:  # fmt: skip
    """Give `model` the optimizer, the loss and the metric of `recipe`, its rate planned over `steps`."""
    metric = find_task(spec.task).make_metric
    with devices.building(), devices.scope():
        model.compile(
            optimizer=make_optimizer(recipe.optimizer, steps=steps, factors=factors),
            loss=devices.weighted_loss(make_loss(recipe, spec.task, loss)),
            metrics=[metric(soft=augmentation_of(recipe).mixes)],
            jit_compile=devices.jit_compile,
        )
