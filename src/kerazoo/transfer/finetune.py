"""Transfer learning in phases, each measured on validation, each kept only where it helps.

1. Features: one pass of the frozen network over the images (`features.py`).
2. Probe: a linear model on them, by convex optimisation (`probe.py`). It is the baseline, and the head to start from.
3. Fine-tuning from the probe on, where `training.epochs` > 0: the stages asked for are unfrozen, their rates fall from
   head to stem (LP-FT: Kumar et al. 2022, arXiv:2202.10054).
4. Afterwards (`refinement.py`): batch norm's statistics anew where they moved, an average of the probe's and the tuned
   weights, a temperature.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import keras

from kerazoo.callbacks.metrics import MetricsWriter
from kerazoo.errors import RecipeError
from kerazoo.models.heads.classifier import feature_extractor
from kerazoo.models.weights.loading import copy_weights, weights_digest
from kerazoo.pipelines.checks.check import check_images
from kerazoo.pipelines.devices.devices import Devices
from kerazoo.pipelines.devices.opening import open_devices
from kerazoo.pipelines.input.causes import true_causes
from kerazoo.recipes.recipe import Recipe
from kerazoo.runs.begin import choose_folder, started
from kerazoo.runs.run import RUNS, Run, finished
from kerazoo.training.fit import build_network, check_callbacks, divergence_message, fit, make_batches
from kerazoo.training.layer_rates import rates_of
from kerazoo.training.plan import Plan, plan, resolve_preset, set_seed, stem_of, summary
from kerazoo.training.train import finish_run
from kerazoo.transfer.batch_norm import norm_by_data
from kerazoo.transfer.head import build_with, check_probe, learn_head
from kerazoo.transfer.outcome import transferred
from kerazoo.transfer.phases import Phases
from kerazoo.transfer.refinement import calibrated, refine
from kerazoo.transfer.unfreezing import unfreeze

log = logging.getLogger("kerazoo")


def finetune(
    recipe: Recipe, *, name: str | None = None, root: str | Path = RUNS, overwrite: bool = False,
    devices: Devices | None = None, callbacks: Sequence[keras.callbacks.Callback] = (), reported: bool = True,
) -> Run:  # fmt: skip
    """Fine-tune a backbone or network of the registry on images; the finished run, evaluated on val and test.

    A run that was begun by the same recipe and not finished goes on: features are found again, the probe comes out the
    same, the unfrozen network goes on from its newest checkpoint. `devices`, of one machine, are for that network.
    `callbacks` take part in its training; they and `reported` are as in `train`. `phases.json` in the run has what each
    phase cost and gained.

    Raises InputError before anything is written where recipe, data or weights are bad; Interrupted where a signal asked
    to stop.
    """
    start = time.perf_counter()
    check_callbacks(callbacks)
    recipe = recipe.anchored()
    devices = devices or open_devices(recipe.devices)
    if devices.workers > 1:
        raise RecipeError("devices=multiworker is for `kerazoo train`; fine-tune on one machine")
    recipe, examples = resolve_preset(recipe)
    folder = choose_folder(recipe, stem_of(recipe), name=name, root=root, overwrite=overwrite)
    if finished(folder) and not overwrite:
        return Run(folder)
    made = plan(recipe, devices, examples=examples)
    check_images(made.examples)
    check_probe(made)
    set_seed(made.recipe.seed)
    single, model = build_both(made, devices)
    digest = weights_digest(feature_extractor(single))
    with (
        true_causes(made.recipe.training.batch_size, made.examples, made.preprocessing),
        started(
            folder, made.recipe, made.examples, overwrite=overwrite, numbered=name is None, start_weights=digest,
            devices=devices.describe(),
        ) as run,
    ):  # fmt: skip
        if made.source is None:
            norm_by_data(single, made.spec, made.examples, made.recipe.seed)
        phases = Phases()
        probe = learn_head(single, made, phases)
        history = tune(single, model, made, phases, run=run, devices=devices, callbacks=callbacks)
        if made.transfer.calibrate:
            made = replace(made, spec=calibrated(single, made.spec, made.examples, phases))
        phases.write(run.folder, probe)
        outcome = transferred(history, phases.phases, made.recipe.training, made.task)
        return finish_run(
            run, made, single, history, start, outcome=outcome, phases=phases.to_json(), reported=reported
        )


def build_both(plan: Plan, devices: Devices) -> tuple[keras.Model, keras.Model]:
    """The network that the run is evaluated with, and the one that is fine-tuned on `devices`.

    The first, in float32 on one device, has the weights that `plan` starts from; the second has random ones, and what
    is to learn is unfrozen.
    """
    epochs = plan.recipe.training.epochs
    with true_causes(plan.recipe.training.batch_size):
        single = build_with(plan.spec, plan.source, plan.transfer.scaling)
        model = build_network(plan, devices)
    if epochs:
        unfreeze(model, plan.entry, plan.transfer, pretrained=plan.source is not None)
        devices.check_batch_norm(model)
    log.info(
        f"{plan.entry.name}, weights {plan.transfer.weights}: {model.count_params():,} parameters; "
        f"{summary(plan.examples)}"
    )
    augments = plan.transfer.views == 1 and plan.augmentation.describe()
    if not epochs and (plan.recipe.training.loss or augments):
        log.info("training.epochs is 0: augmentation and training.loss are for the unfrozen network, and take no part")
    return single, model


def tune(
    single: keras.Model, model: keras.Model, plan: Plan, phases: Phases, *, run: Run, devices: Devices,
    callbacks: Sequence[keras.callbacks.Callback],
) -> list[dict[str, float]]:  # fmt: skip
    """Fine-tune `model` from the probe in `single` on, which is left as the best of what came of it; the rows of `fit`.

    With 0 epochs there is nothing to do.
    """
    training = plan.recipe.training
    if not training.epochs:
        MetricsWriter(run.folder, 0).settle()
        return []
    copy_weights(single, model)
    batches, validation = make_batches(plan, devices)
    begin = time.perf_counter()
    first = single.get_weights()
    factors = rates_of(model, plan.entry, plan.transfer.decay)
    history = fit(model, plan, batches, validation, run=run, devices=devices, factors=factors, callbacks=callbacks)
    if reason := divergence_message(history, plan.recipe.optimizer.learning_rate):
        log.info(f"fine-tuning ended early: {reason}")
    copy_weights(model, single)
    for layer, tuned in zip(single.layers, model.layers, strict=True):
        layer.trainable = tuned.trainable
    seconds = time.perf_counter() - begin
    choices = max(len(history), 1) if training.early_stopping else 1  # epochs the best was taken from
    refine(single, plan, first, batches, phases, seconds=seconds, choices=choices)
    return history
