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
from pathlib import Path

import keras
import numpy as np

from kerazoo.callbacks.metrics import MetricsWriter
from kerazoo.errors import RecipeError
from kerazoo.models.heads.classifier import feature_extractor
from kerazoo.models.registry import find
from kerazoo.models.weights.loading import copy_weights, weights_digest
from kerazoo.models.weights.sources import check_weights, weights_of
from kerazoo.pipelines.checks.check import check_images
from kerazoo.pipelines.data.load import load_examples
from kerazoo.pipelines.devices.devices import Devices
from kerazoo.pipelines.devices.opening import open_devices
from kerazoo.pipelines.input.augmentation import augmentation_of
from kerazoo.pipelines.input.causes import true_causes
from kerazoo.recipes.checks import check_preset, with_defaults
from kerazoo.recipes.parts import TransferPart
from kerazoo.recipes.presets import preset_values
from kerazoo.recipes.recipe import Recipe
from kerazoo.runs.begin import choose_folder, started
from kerazoo.runs.run import RUNS, Run, finished
from kerazoo.training.fit import check_callbacks, divergence_message, fit
from kerazoo.training.layer_rates import rates_of
from kerazoo.training.plan import (
    choose_loss,
    input_and_arguments,
    make_batches,
    make_spec,
    momentum_for,
    precision,
    resolve_batch_size,
    set_seed,
    summary,
)
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
    entry, recipe = find(recipe.model.name), recipe.anchored()
    devices = devices or open_devices(recipe.devices)
    if devices.workers > 1:
        raise RecipeError("devices=multiworker is for `kerazoo train`; fine-tune on one machine")
    transfer = recipe.transfer or TransferPart()
    recipe = recipe.model_copy(update={"transfer": transfer})
    check_preset(recipe)
    augmentation_of(recipe)  # refuses what it does not know before any data is read
    check_weights(entry, transfer.weights)
    examples = load_examples(recipe.data)
    if transfer.preset is not None:
        images, parts = int(np.sum(examples.splits == "train")), len(getattr(entry, "stages", ()))
        recipe = with_defaults(recipe, preset_values(transfer.preset, images=images, stages=parts))
        transfer = recipe.transfer or transfer
    stem = f"{entry.name}-{Path(recipe.data.path).stem}"
    folder = choose_folder(recipe, stem, name=name, root=root, overwrite=overwrite)
    if finished(folder) and not overwrite:
        return Run(folder)
    recipe = resolve_batch_size(recipe, examples, devices)
    loss = choose_loss(recipe, examples)
    source = weights_of(entry, transfer.weights)
    preprocessing, stored = input_and_arguments(entry, recipe, examples, source)
    check_images(examples)
    check_probe(recipe, examples)
    set_seed(recipe.seed)

    epochs = recipe.training.epochs
    steps = max(int(np.sum(examples.splits == "train")) // int(recipe.training.batch_size), 1)
    preferred = stored if source is not None else {"momentum": momentum_for(steps)}
    preferred = {**preferred, "synchronized": recipe.training.synchronized_batch_norm}
    spec = make_spec(entry, recipe, preprocessing, examples, **preferred)
    with true_causes(recipe):
        single = build_with(spec, source, transfer.scaling)  # on one device, in float32: as the run is evaluated
        with devices.scope(), precision(recipe):
            model = spec.build()
    if epochs:
        unfreeze(model, entry, transfer, pretrained=source is not None)
        devices.check_batch_norm(model)
    log.info(f"{entry.name}, weights {transfer.weights}: {model.count_params():,} parameters; {summary(examples)}")

    if not epochs and (recipe.training.loss or (transfer.views == 1 and augmentation_of(recipe).describe())):
        log.info("training.epochs is 0: augmentation and training.loss are for the unfrozen network, and take no part")

    digest, on = weights_digest(feature_extractor(single)), devices.describe()
    with (
        true_causes(recipe, examples, spec.preprocessing),
        started(
            folder, recipe, examples, overwrite=overwrite, numbered=name is None, start_weights=digest,
            devices=on,
        ) as run,
    ):  # fmt: skip
        if source is None:
            norm_by_data(single, spec, examples, recipe.seed)
        phases = Phases()
        probe = learn_head(single, spec, examples, recipe, phases)
        history: list[dict[str, float]] = []
        if epochs:
            copy_weights(single, model)
            batches, validation = make_batches(recipe, examples, preprocessing, devices)
            begin, first = time.perf_counter(), single.get_weights()
            factors = rates_of(model, entry, transfer.decay)
            history = fit(
                model, batches, validation, run=run, recipe=recipe, spec=spec, examples=examples, loss=loss,
                devices=devices, factors=factors, callbacks=callbacks,
            )  # fmt: skip
            if reason := divergence_message(history, recipe):
                log.info(f"fine-tuning ended early: {reason}")
            copy_weights(model, single)
            for layer, trained in zip(single.layers, model.layers, strict=True):
                layer.trainable = trained.trainable
            choices = max(len(history), 1) if recipe.training.early_stopping else 1  # epochs the best was taken from
            tuning = time.perf_counter() - begin
            refine(single, first, batches, examples, spec, recipe, phases, tuning, choices)
        else:
            MetricsWriter(run.folder, 0).settle()
        if transfer.calibrate:
            spec = calibrated(single, spec, examples, phases)
        phases.write(run.folder, probe)
        outcome = transferred(history, recipe, phases.phases, examples.task)
        return finish_run(
            run, recipe, spec, single, examples, history, start, outcome=outcome, phases=phases.to_json(),
            reported=reported,
        )  # fmt: skip
