"""Build, compile and fit the network of a plan: Keras's own `fit` with the callbacks of a run."""

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
from kerazoo.pipelines.devices.devices import Devices
from kerazoo.pipelines.input.batches import TrainingBatches, evaluation_batches, training_batches
from kerazoo.runs.run import Run
from kerazoo.training.layer_rates import with_norm_bias_rate
from kerazoo.training.optimizers import control_callbacks, make_optimizer
from kerazoo.training.plan import EVALUATED, Plan, precision
from kerazoo.training.teacher import load_teacher, taught
from kerazoo.training.watching import logging_callbacks

log = logging.getLogger("kerazoo")


def build_network(plan: Plan, devices: Devices) -> keras.Model:
    """The network of `plan` with random weights, on the devices and in the precision of training."""
    with devices.building(), devices.scope(), precision(plan.recipe.training.precision):
        return plan.spec.build()


def make_batches(plan: Plan, devices: Devices) -> tuple[TrainingBatches, tf.data.Dataset]:
    """The batches of `plan` for training and for validation. They use a cache if it pays off."""
    recipe = plan.recipe
    training = recipe.training
    train = plan.examples.split("train")
    val = plan.examples.split("val")

    batches = training_batches(
        train, plan.preprocessing, batch_size=int(training.batch_size), seed=recipe.seed,
        augmentation=plan.augmentation, balance=training.balance, drop_last=training.drop_last,
        stored=plan.stored("train"),
    )  # fmt: skip
    if training.teacher is not None:
        batches = taught(batches, plan, load_teacher(plan))
    count = devices.whole_count(len(val))
    size = devices.evaluation_size(count, EVALUATED)
    stored = plan.stored("val")
    return batches, evaluation_batches(
        val.take(range(count)), plan.preprocessing, batch_size=size, one_hot=plan.soft,
        stored=None if stored is None else stored[:count],
    )  # fmt: skip


def fit(
    model: keras.Model,
    batches: TrainingBatches,
    validation: tf.data.Dataset,
    *,
    plan: Plan,
    run: Run,
    devices: Devices,
    factors: Mapping[str, float] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> list[dict[str, float]]:
    """Compile and fit `model` as `plan` says, and return the rows of losses and metrics, one for each epoch.

    `factors` has a factor of the learning rate for each variable's path. `callbacks` are called after those of the run.
    It resumes from the newest checkpoint of the run, and stops after an epoch whose loss is not finite (see
    `divergence_message`). Raises Interrupted if a signal stops it.
    """
    recipe = plan.recipe
    epochs = recipe.training.epochs
    images = plan.steps * int(recipe.training.batch_size)
    compile_model(model, plan, devices, steps=plan.steps * epochs, factors=factors)
    resume = Resume(
        run.checkpoints, position=batches.start.assign, write=devices.is_chief,
        epochs_only=devices.workers > 1, made_by={"recipe": run.recipe_sha256, "network": model.name},
        **recipe.checkpoint.model_dump(),
    )  # fmt: skip
    epoch, step = resume.found or (0, 0)
    if resume.found is not None:
        log.info(f"{run.folder} goes on from epoch {epoch + 1}, step {step}")
    metrics = None
    with ExitStack() as stack:
        every = [batches.clock(), *control_callbacks(recipe.optimizer, recipe.training.early_stopping), StopOnNaN()]
        if devices.is_chief:
            watch = stack.enter_context(logging_callbacks(run, plan, batches, validation))
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
    metrics.settle()  # write the rest, or raise the error of a full disk now
    return metrics.rows


def check_callbacks(callbacks: Sequence[keras.callbacks.Callback]) -> None:
    """Raise InputError for objects that are not Keras callbacks."""
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.Callback):
            raise InputError(f"callbacks must be keras.callbacks.Callback objects, got {callback!r:.80}")


def divergence_message(rows: list[dict[str, float]], learning_rate: float) -> str:
    """The message for training whose last loss is not finite; "" if it is finite."""
    if not rows or np.isfinite(rows[-1]["loss"]):
        return ""
    return (
        f"the loss became {rows[-1]['loss']} in epoch {int(rows[-1]['epoch'])}; lower optimizer.learning_rate "
        f"(it was {learning_rate}) or inspect watch.jsonl in the run"
    )


def compile_model(
    model: keras.Model, plan: Plan, devices: Devices, *, steps: int, factors: Mapping[str, float] | None = None
) -> None:
    """Compile `model` with the optimizer, the loss and the metric of `plan`; the schedule covers `steps`."""
    part = plan.recipe.optimizer
    if part.norm_bias_rate != 1:
        factors = with_norm_bias_rate(model, part.norm_bias_rate, factors or {})
    with devices.building(), devices.scope():
        model.compile(
            optimizer=make_optimizer(part, steps=steps, factors=factors),
            loss=devices.weighted_loss(plan.loss),
            metrics=[plan.task.make_metric(soft=plan.soft)],
            jit_compile=devices.jit_compile,
        )
        # where the first step makes these variables, TensorFlow traces it twice, which takes seconds
        model.optimizer.build(model.trainable_variables)
