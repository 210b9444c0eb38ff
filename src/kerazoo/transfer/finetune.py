"""Transfer learning in phases. Each phase is measured on validation and kept only if it helps.

1. Features: one pass of the frozen network over the images (`features.py`).
2. Probe: a linear model on the features, by convex optimization (`probe.py`). It is the baseline and the first head.
3. Fine-tuning from the probe, if `training.epochs` > 0. The chosen stages are unfrozen, and the learning rates fall
   from the head to the stem (LP-FT: Kumar et al. 2022, arXiv:2202.10054).
4. Afterwards (`refinement.py`): batch norm re-estimation if its statistics were trained, an average of the weights
   before and after fine-tuning, answers from each image and its mirror image if the recipe wants them, and a
   temperature.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from kerazoo.callbacks.metrics import MetricsWriter
from kerazoo.errors import RecipeError
from kerazoo.keras_private import all_layers
from kerazoo.models.heads.classifier import feature_extractor
from kerazoo.models.hub.backbone import HubBackbone
from kerazoo.models.weights.loading import copy_weights, weights_digest
from kerazoo.pipelines.devices.devices import Devices
from kerazoo.pipelines.devices.opening import open_devices
from kerazoo.pipelines.input.causes import true_causes
from kerazoo.recipes.recipe import Recipe
from kerazoo.runs.begin import choose_folder, started
from kerazoo.runs.run import RUNS, Run, finished
from kerazoo.runs.timings import timed, timing
from kerazoo.training.fit import build_network, check_callbacks, divergence_message, fit, make_batches
from kerazoo.training.layer_rates import rates_of
from kerazoo.training.plan import Plan, plan, resolve_preset, set_seed, stem_of, summary
from kerazoo.training.teacher import check_teacher
from kerazoo.training.train import finish_run
from kerazoo.transfer.batch_norm import norm_by_data
from kerazoo.transfer.head import build_with, check_probe, learn_head
from kerazoo.transfer.low_rank import LowRank, attention_layers
from kerazoo.transfer.outcome import transferred
from kerazoo.transfer.phases import Phases
from kerazoo.transfer.refinement import described, refine
from kerazoo.transfer.stored_views import stored_views
from kerazoo.transfer.unfreezing import unfreeze

log = logging.getLogger("kerazoo")


@timing()
def finetune(
    recipe: Recipe, *, name: str | None = None, root: str | Path = RUNS, overwrite: bool = False,
    devices: Devices | None = None, callbacks: Sequence[keras.callbacks.Callback] = (), reported: bool = True,
) -> Run:  # fmt: skip
    """Fine-tune a network of the registry and return the finished run, evaluated on val and test.

    An unfinished run with the same recipe is resumed: the features come from the cache, the probe gives the same
    result, and the unfrozen network continues from its newest checkpoint. `devices` must be on one machine.
    `callbacks` are called while the network is unfrozen; they and `reported` are as in `train`. With stored views, the
    model of callbacks is the part of the network after the frozen stages, and its inputs are the outputs of these.
    `phases.json` in the run has the cost and the gain of each phase.

    Raises InputError before anything is written if the recipe, the data or the weights are bad; Interrupted if a signal
    asked to stop.
    """
    start = time.perf_counter()
    check_callbacks(callbacks)
    recipe = recipe.anchored()
    devices = devices or open_devices(recipe.devices)
    if devices.workers > 1:
        raise RecipeError("devices=multiworker works only with `kerazoo train`; fine-tune on one machine")
    with timed("reading the data"):
        recipe, examples = resolve_preset(recipe)
    folder = choose_folder(recipe, stem_of(recipe), name=name, root=root, overwrite=overwrite)
    if finished(folder) and not overwrite:
        return Run(folder)
    run_plan = plan(recipe, devices, examples=examples)
    check_probe(run_plan)
    known = check_teacher(run_plan) | {"devices": devices.describe()}
    keras.utils.set_random_seed(run_plan.recipe.seed)
    with timed("building networks"):
        single, model = build_both(run_plan, devices)
    with timed("checking and resizing"):
        run_plan.check_images()
    set_seed(run_plan.recipe.seed)  # not before: deterministic TensorFlow reads files one after another
    announce(single, run_plan)
    known |= start_of(single, run_plan)
    with (
        true_causes(run_plan.recipe.training.batch_size, run_plan.examples, run_plan.preprocessing),
        started(folder, run_plan.recipe, run_plan.examples, overwrite=overwrite, numbered=name is None, **known) as run,
    ):
        if run_plan.source is None:
            norm_by_data(single, run_plan)
        phases = Phases(run_plan.task)
        probe = learn_head(single, run_plan, phases)
        history = tune(single, model, run_plan, phases, run=run, devices=devices, callbacks=callbacks)
        with timed("after fine-tuning"):
            run_plan = replace(run_plan, spec=described(single, run_plan, phases))
        phases.write(run.folder, probe)
        outcome = transferred(history, phases.phases, run_plan.recipe.training, run_plan.task)
        return finish_run(
            run, run_plan, single, history, start, outcome=outcome, phases=phases.to_json(), reported=reported
        )


def announce(single: keras.Model, plan: Plan) -> None:
    """Log what is fine-tuned, on what, and which settings have no effect."""
    log.info(
        f"{plan.entry.name}, weights {plan.transfer.weights}: {single.count_params():,} parameters; "
        f"{summary(plan.examples)}"
    )
    augments = plan.transfer.views == 1 and plan.augmentation.describe()
    if not plan.recipe.training.epochs and (plan.recipe.training.loss or augments):
        log.info("training.epochs is 0, so augmentation and training.loss, which only fine-tuning uses, have no effect")


def start_of(single: keras.Model, plan: Plan) -> dict[str, Any]:
    """What a run records of the weights that it starts from: their hash, and the preset of keras-hub that has them."""
    start: dict[str, Any] = {"start_weights": weights_digest(feature_extractor(single))}
    if isinstance(plan.entry, HubBackbone) and plan.transfer.weights in plan.entry.weights:
        start["preset"] = plan.entry.record()
    return start


def build_both(plan: Plan, devices: Devices) -> tuple[keras.Model, keras.Model]:
    """The network that evaluates the run, and the network that is fine-tuned on `devices`.

    The first is in float32 on one device and has the initial weights of `plan`. The second has random weights, and the
    layers to fine-tune are unfrozen. With 0 epochs it is not needed, and the first is given twice.
    """
    epochs = plan.recipe.training.epochs
    with true_causes(plan.recipe.training.batch_size):
        single = build_with(plan.spec, plan.source, plan.transfer.scaling)
        model = build_network(plan, devices) if epochs else single
    if epochs:
        unfreeze(model, plan.entry, plan.transfer, pretrained=plan.source is not None)
        devices.check_batch_norm(model)
        if plan.transfer.method == "lora":
            attention_layers(model)  # refuse a network without them now
    return single, model


def tune(
    single: keras.Model, model: keras.Model, plan: Plan, phases: Phases, *, run: Run, devices: Devices,
    callbacks: Sequence[keras.callbacks.Callback],
) -> list[dict[str, float]]:  # fmt: skip
    """Fine-tune `model` from the probe in `single`, and return the rows of `fit`. Leaves the best weights in `single`.

    With 0 epochs it does nothing.
    """
    training = plan.recipe.training
    if not training.epochs:
        MetricsWriter(run.folder, 0).settle()
        return []
    copy_weights(single, model)
    updates = None
    if plan.transfer.method == "lora":
        with devices.scope():
            updates = LowRank(model, plan.transfer.rank)
    batches, validation = make_batches(plan, devices)
    begin = time.perf_counter()
    first = single.get_weights()
    factors = rates_of(model, plan.entry, plan.transfer.decay)
    with stored_views(single, model, plan, devices, run=run.folder) as stored:
        part = (model, batches, validation) if stored is None else (stored.tail, stored.batches, stored.validation)
        with timed("fine-tuning"):
            history = fit(*part, plan=plan, run=run, devices=devices, factors=factors, callbacks=callbacks)
        reason = divergence_message(history, plan.recipe.optimizer.learning_rate)
        if reason:
            log.info(f"fine-tuning ended early: {reason}")
        keep_tuned(single, model, updates)
        seconds = time.perf_counter() - begin
        choices = max(len(history), 1) if training.early_stopping else 1  # epochs from which the best was chosen
        logits = None if stored is None else stored.val_logits
        with timed("after fine-tuning"):
            refine(single, plan, first, batches, phases, seconds=seconds, choices=choices, logits=logits)
    return history


def keep_tuned(single: keras.Model, model: keras.Model, updates: LowRank | None) -> None:
    """Give `single` the weights of `model`, with its `updates` added, and mark which of its layers learned."""
    if updates is None:
        copy_weights(model, single)
    else:
        single.set_weights(updates.weights())
    for layer, tuned in zip(all_layers(single), all_layers(model), strict=True):  # outer layers before inner ones
        layer.trainable = tuned.trainable
