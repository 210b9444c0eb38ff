"""Transfer learning in stages, each measured on validation, each kept only where it helps.

1. Features: one pass of the frozen network over the pictures (`features.py`).
2. Probe: a linear model on them, by convex optimisation (`probe.py`). It is the baseline, and the head to start from.
3. Fine-tuning from the probe on, where `training.epochs` > 0: the stages asked for are unfrozen, their rates fall from
   head to stem (LP-FT: Kumar et al. 2022, arXiv:2202.10054).
4. Afterwards (`afterwards.py`): batch norm's statistics anew where they moved, an average of the probe's and the tuned
   weights, a temperature.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerazoo.callbacks import MetricsWriter
from kerazoo.errors import ModelError, RecipeError, WeightsError
from kerazoo.models.backbones import Backbone
from kerazoo.models.heads import feature_extractor
from kerazoo.models.preprocessing import Preprocessing
from kerazoo.models.registry import Network, find
from kerazoo.models.stored import ModelSpec, load_spec
from kerazoo.models.weights import check_weights, copy_weights, load_features, weights_digest, weights_of
from kerazoo.pipelines.afterwards import best_average, best_temperature, folds_of, reestimate
from kerazoo.pipelines.augmentation import Augmentation
from kerazoo.pipelines.batches import TrainingBatches, class_weights, evaluation_batches, training_batches
from kerazoo.pipelines.causes import true_causes
from kerazoo.pipelines.devices import Devices, open_devices
from kerazoo.pipelines.engines import check_engine
from kerazoo.pipelines.examples import Examples, load_examples
from kerazoo.pipelines.features import BATCH, FeaturePass
from kerazoo.pipelines.layer_rates import rates_of
from kerazoo.pipelines.outcome import transferred
from kerazoo.pipelines.pictures import prepared
from kerazoo.pipelines.preflight import check_pictures
from kerazoo.pipelines.presets import check_preset, preset_values
from kerazoo.pipelines.probe import Probe, check_folds, learn_probe
from kerazoo.pipelines.recipe import Recipe, TransferPart
from kerazoo.pipelines.recipe_checks import filled
from kerazoo.pipelines.report import progress_bar
from kerazoo.pipelines.runs import RUNS, Run, begun, claim, finished
from kerazoo.pipelines.scores import Measured
from kerazoo.pipelines.stages import Stages
from kerazoo.pipelines.training import (
    Say,
    augmentation_of,
    batches_of,
    close_run,
    diverged,
    fit,
    fitting,
    input_of,
    loss_of,
    momentum_for,
    precision,
    reproducible,
    spec_of,
    summary,
)

REESTIMATED = 100  # batches that batch norm's statistics are taken from, at most


def finetune(
    recipe: Recipe, *, name: str | None = None, root: str | Path = RUNS, overwrite: bool = False,
    devices: Devices | None = None, say: Say = print, reported: bool = True,
) -> Run:  # fmt: skip
    """Fine-tune a backbone or network of the registry on pictures; the finished run, evaluated on val and test.

    A run that was begun by the same recipe and not finished goes on: features are found again, the probe comes out the
    same, the unfrozen network goes on from its newest checkpoint. `devices`, of one machine, are for that network.
    `say` takes one line of progress; `reported` as in `train`. `stages.json` in the run has what each stage cost and
    gained.

    Raises InputError before anything is written where recipe, data or weights are bad; Interrupted where a signal asked
    to stop.
    """
    start = time.perf_counter()
    entry, recipe = find(recipe.model.name), recipe.anchored()
    devices = devices or open_devices(recipe.devices, say)
    if devices.workers > 1:
        raise RecipeError("devices=multiworker is for `kerazoo train`; fine-tune on one machine")
    transfer = recipe.transfer or TransferPart()
    recipe = recipe.model_copy(update={"transfer": transfer})
    check_preset(recipe)
    augmentation_of(recipe)  # refuses what it does not know before any data is read
    check_weights(entry, transfer.weights)
    examples = load_examples(recipe.data)
    if transfer.preset is not None:
        pictures, parts = int(np.sum(examples.splits == "train")), len(getattr(entry, "stages", ()))
        recipe = filled(recipe, preset_values(transfer.preset, pictures=pictures, stages=parts))
        transfer = recipe.transfer or transfer
    stem = f"{entry.name}-{Path(recipe.data.path).stem}"
    folder = claim(recipe, stem, name=name, root=root, overwrite=overwrite)
    if finished(folder) and not overwrite:
        return Run(folder)
    recipe = fitting(recipe, examples, devices)
    loss = loss_of(recipe, examples)
    source = weights_of(entry, transfer.weights, say)
    preprocessing, stored = input_and_arguments(entry, recipe, examples, source)
    check_pictures(examples)
    check_probe(recipe, examples)
    reproducible(recipe.seed)

    epochs = recipe.training.epochs
    steps = max(int(np.sum(examples.splits == "train")) // int(recipe.training.batch_size), 1)
    preferred = stored if source is not None else {"momentum": momentum_for(steps)}
    preferred = {**preferred, "synchronised": recipe.training.synchronised_batch_norm}
    spec = spec_of(entry, recipe, preprocessing, examples, **preferred)
    with true_causes(recipe):
        single = build_with(spec, source, transfer.scaling)  # on one device, in float32: as the run is evaluated
        with devices.scope(), precision(recipe):
            model = spec.build()
    if epochs:
        unfreeze(model, entry, transfer, pretrained=source is not None)
        devices.check_batch_norm(model)
    say(f"{entry.name}, weights {transfer.weights}: {model.count_params():,} parameters; {summary(examples)}")

    if not epochs and (recipe.training.loss or (transfer.views == 1 and augmentation_of(recipe).describe())):
        say("training.epochs is 0: augmentation and training.loss are for the unfrozen network, and take no part")

    digest, on = weights_digest(feature_extractor(single)), devices.describe()
    with (
        true_causes(recipe, examples, spec.preprocessing),
        begun(
            folder, recipe, examples, say=say, overwrite=overwrite, numbered=name is None, start_weights=digest,
            devices=on,
        ) as run,
    ):  # fmt: skip
        if source is None:
            norm_by_data(single, spec, examples, recipe.seed)
        stages = Stages(say)
        probe = learn_head(single, spec, examples, recipe, stages)
        history: list[dict[str, float]] = []
        if epochs:
            copy_weights(single, model)
            batches, validation = batches_of(recipe, examples, preprocessing, devices, say)
            begin, first = time.perf_counter(), single.get_weights()
            factors = rates_of(model, entry, transfer.decay)
            history = fit(
                model, batches, validation, run=run, recipe=recipe, spec=spec, examples=examples, loss=loss,
                devices=devices, factors=factors, say=say,
            )  # fmt: skip
            if reason := diverged(history, recipe):
                say(f"fine-tuning ended early: {reason}")
            copy_weights(model, single)
            for layer, trained in zip(single.layers, model.layers, strict=True):
                layer.trainable = trained.trainable
            choices = max(len(history), 1) if recipe.training.early_stopping else 1  # epochs the best was taken from
            tuning = time.perf_counter() - begin
            after(single, first, batches, examples, spec, recipe, stages, tuning, choices)
        else:
            MetricsWriter(run.folder, 0).settle()
        if transfer.calibrate:
            spec = calibrated(single, spec, examples, stages)
        stages.write(run.folder, probe)
        outcome = transferred(history, recipe, stages.stages, examples.task)
        return close_run(
            run, recipe, spec, single, examples, history, start, say, outcome=outcome, stages=stages.to_json(),
            reported=reported,
        )  # fmt: skip


def input_and_arguments(
    entry: Network | Backbone, recipe: Recipe, examples: Examples, source: Path | None
) -> tuple[Preprocessing, dict[str, object]]:
    """The preprocessing, and the builder arguments that stored weights were made with."""
    if source is None or not source.is_dir():
        return input_of(entry, recipe, examples), {}
    spec = load_spec(source)
    if spec.name != entry.name:
        raise WeightsError(f"the weights in {source} are of {spec.name}, not of {entry.name}")
    values = spec.preprocessing.to_json()
    found = 3 if examples.pixels is None else examples.pixels.shape[3]
    wanted = recipe.data.channels or (found if found not in (1, 3) else values["channels"])
    if wanted != values["channels"]:
        if isinstance(entry, Network) or values["channels"] != 3:
            raise RecipeError(
                f"the images have {wanted} channels (data.channels={recipe.data.channels}), but the weights in "
                f"{source} expect {values['channels']}; only backbone weights of 3 channels can be adapted"
            )
        values |= {"channels": wanted, "scaling": entry.scaling_of(wanted)}
    values |= {"fit": recipe.data.fit or values["fit"]}
    values |= {"height": recipe.data.size, "width": recipe.data.size} if recipe.data.size else {}
    return Preprocessing.from_json(values), dict(spec.arguments)


def build_with(spec: ModelSpec, source: Path | None, scaling: str | None) -> keras.Model:
    """The network with the features of `source`, or random ones; its head is random. `scaling`: see `TransferPart`."""
    model = spec.build()
    if source is not None:
        load_features(model, source, scaling=scaling)
    return model


def norm_by_data(model: keras.Model, spec: ModelSpec, examples: Examples, seed: int) -> None:
    """Give the batch norms of random weights the statistics of the training pictures, as they are.

    Those of a new network are 0 and 1, far from what training, which uses each batch's own, would make of the features
    under the probe's head.
    """
    if not any(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers):
        return
    train = examples.split("train")
    plain = training_batches(train, spec.preprocessing, batch_size=BATCH, seed=seed, augmentation=Augmentation())
    with true_causes(None, train, spec.preprocessing):
        reestimate(model, plain.at(0, 0).take(REESTIMATED))


def unfreeze(model: keras.Model, entry: Network | Backbone, transfer: TransferPart, *, pretrained: bool) -> None:
    """Make the layers trainable that `transfer` asks for, batch norm by its policy. Raises ModelError."""
    unfrozen = layers_to_unfreeze(model, entry, transfer.unfreeze)
    policy = transfer.batch_norm or ("frozen" if pretrained else "train")
    for layer in model.layers:
        norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = layer.name in unfrozen and not (norm and policy == "frozen")
        if norm and policy == "stats":
            for variable in (layer.gamma, layer.beta):
                if variable is not None:
                    variable.trainable = False


def layers_to_unfreeze(model: keras.Model, entry: Network | Backbone, stages: int) -> set[str]:
    """The names of the layers that learn when the last `stages` stages are unfrozen; 0 unfreezes all.

    Raises ModelError where there are fewer stages.
    """
    names = [layer.name for layer in model.layers]
    if stages == 0:
        return set(names)
    if isinstance(entry, Network) or stages >= len(entry.stages):
        has = 0 if isinstance(entry, Network) else len(entry.stages) - 1
        raise ModelError(f"transfer.unfreeze={stages}: {entry.name} has {has} stages to unfreeze one by one; 0 is all")
    last_frozen = entry.stages[-1 - stages]
    return set(names[names.index(last_frozen) + 1 :])


def check_probe(recipe: Recipe, examples: Examples) -> None:
    """Raise RecipeError or DataError for what the features or the probe would fail at, before any work."""
    transfer, train = recipe.transfer or TransferPart(), examples.split("train")
    if recipe.training.balance != "none" and examples.task != "multiclass":
        raise RecipeError(
            f"training.balance={recipe.training.balance!r} is for one class a picture; this data is {examples.task}"
        )
    if transfer.views > 1 and not replace(augmentation_of(recipe), mixup=0.0, cutmix=0.0).describe():
        raise RecipeError(
            f"transfer.views={transfer.views} needs an augmentation that draws them; set augmentation.policy, or leave "
            "views out"
        )
    if transfer.penalties is None or len(transfer.penalties) > 1:
        check_folds(train.labels, examples.task, examples.class_names, transfer.folds)
    check_engine(transfer.engine)


def learn_head(model: keras.Model, spec: ModelSpec, examples: Examples, recipe: Recipe, stages: Stages) -> Probe:
    """The probe on features of the frozen network, put into the layer `logits` of `model`; two stages."""
    transfer, train, val = recipe.transfer or TransferPart(), examples.split("train"), examples.split("val")
    features = FeaturePass(model, spec, engine=transfer.engine, cached=recipe.data.cache != "never")
    drawn = augmentation_of(recipe)
    with progress_bar("features", "features of") as progress:
        views = [
            features(train, view=view, augmentation=drawn, seed=recipe.seed, progress=progress)
            for view in range(transfer.views)
        ]
        held = features(val, progress=progress)
    stages.features([*views, held])

    begin = time.perf_counter()
    probe = learn_probe(
        np.concatenate([view.values for view in views]), train.labels, examples.task,
        class_names=examples.class_names, penalties=transfer.penalties, folds=transfer.folds, views=transfer.views,
        weights=None if recipe.training.balance == "none" else class_weights(train)[train.labels], seed=recipe.seed,
    )  # fmt: skip
    model.get_layer("logits").set_weights([probe.kernel.astype(np.float32), probe.bias.astype(np.float32)])
    if transfer.engine == "keras":
        logits = probe.logits(held.values)
    else:  # what is measured is what is served: Keras's own features
        logits = np.asarray(model.predict(evaluation_batches(val, spec.preprocessing), verbose=0))
    stages.probe(probe, Measured.of(logits, val.labels, examples.task), time.perf_counter() - begin)
    return probe


def after(
    model: keras.Model, before: list[np.ndarray], batches: TrainingBatches, examples: Examples, spec: ModelSpec,
    recipe: Recipe, stages: Stages, seconds: float, choices: int,
) -> None:  # fmt: skip
    """Judge the tuned `model` beside its weights `before`, then what may come after it; `model` is left as the best.

    The tuned weights are the best of `choices` epochs on validation.
    """
    transfer, measure = recipe.transfer or TransferPart(), measure_of(model, spec, examples, recipe)
    tuned = model.get_weights()
    kept = tuned if stages.judge("fine-tuning", measure(tuned), seconds, choices=choices) else before
    if not all(np.isfinite(weights).all() for weights in tuned):
        model.set_weights(before)  # nothing can be made of it
        return
    if any(isinstance(layer, keras.layers.BatchNormalization) and layer.trainable for layer in model.layers):
        begin = time.perf_counter()
        model.set_weights(tuned)
        reestimate(model, batches.at(0, 0).take(REESTIMATED))
        tuned = model.get_weights()
        if stages.judge("batch norm again", measure(tuned), time.perf_counter() - begin):
            kept = tuned
    if transfer.average:
        begin = time.perf_counter()
        assert stages.best is not None
        folds = folds_of(examples.split("val").labels, examples.task)
        average = best_average(before, tuned, measure, stages.best, folds)
        if stages.average(average, time.perf_counter() - begin):
            kept = average.weights
    model.set_weights(kept)


def measure_of(
    model: keras.Model, spec: ModelSpec, examples: Examples, recipe: Recipe
) -> Callable[[list[np.ndarray]], Measured]:
    """A function of weights: what `model` gets with them on validation."""
    val = examples.split("val")
    stored = prepared(val, spec.preprocessing, cache=recipe.data.cache, passes=2, say=lambda line: None)
    batches = evaluation_batches(val, spec.preprocessing, stored=stored)

    def measure(weights: list[np.ndarray]) -> Measured:
        model.set_weights(weights)
        return Measured.of(np.asarray(model.predict(batches, verbose=0)), val.labels, examples.task)

    return measure


def calibrated(model: keras.Model, spec: ModelSpec, examples: Examples, stages: Stages) -> ModelSpec:
    """`spec` with the temperature that suits validation, where that helps."""
    if examples.task == "regression":
        return spec
    begin, val = time.perf_counter(), examples.split("val")
    logits: Any = np.asarray(model.predict(evaluation_batches(val, spec.preprocessing), verbose=0))
    temperature = best_temperature(logits, val.labels, examples.task, folds_of(val.labels, examples.task))
    kept = stages.temperature(temperature, time.perf_counter() - begin)
    return replace(spec, temperature=temperature.value) if kept else spec
