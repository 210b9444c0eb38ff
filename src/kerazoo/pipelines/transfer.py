"""Transfer learning: a pretrained network's features, a new head, then (by choice) the unfrozen network.

1. Features: one pass of the frozen network over the pictures, in inference mode.
2. Head: a linear layer learned on the features, standardised; the standardisation is folded into its weights.
3. Fine-tuning, where `training.epochs` > 0: the stages asked for are unfrozen, batch norm stays frozen.

Random weights (`weights = "none"`) have no features worth keeping: with epochs, all of it learns from the start.
"""

import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kerazoo.callbacks import GradientNorms, MetricsWriter, Progress, RunWriter, WeightNorms
from kerazoo.errors import ModelError, RecipeError, WeightsError
from kerazoo.models.backbones import Backbone
from kerazoo.models.heads import feature_extractor, find_head
from kerazoo.models.preprocessing import Preprocessing
from kerazoo.models.registry import Network, find
from kerazoo.models.stored import ModelSpec, load_spec
from kerazoo.models.weights import load_features, shipped, weights_digest
from kerazoo.pipelines.batches import class_weights, evaluation_batches
from kerazoo.pipelines.devices import Devices, open_devices
from kerazoo.pipelines.examples import Examples, load_examples
from kerazoo.pipelines.optimizers import make_optimizer
from kerazoo.pipelines.preflight import check_pictures
from kerazoo.pipelines.recipe import OptimizerPart, Recipe, TransferPart
from kerazoo.pipelines.runs import RUNS, Run, begun, claim
from kerazoo.pipelines.training import (
    Say,
    augmentation_of,
    batches_of,
    close_run,
    fit,
    fitting,
    input_of,
    loss_of,
    momentum_for,
    precision,
    reproducible,
    spec_of,
    summary,
    watchers,
)


def finetune(
    recipe: Recipe, *, name: str | None = None, root: Path = RUNS, overwrite: bool = False,
    devices: Devices | None = None, say: Say = print,
) -> Run:  # fmt: skip
    """Fine-tune a backbone or network of the registry on pictures; the finished run, evaluated on val and test.

    A run that was begun by the same recipe and not finished goes on: the head is learned again, to the same bits, the
    unfrozen network from its newest checkpoint. `devices`, of one machine, are for that network. `say` takes one line
    of progress. Raises InputError before anything is written where recipe, data or weights are bad; Interrupted where
    a signal asked to stop.
    """
    start = time.perf_counter()
    entry, transfer, recipe = find(recipe.model.name), recipe.transfer or TransferPart(), recipe.anchored()
    devices = devices or open_devices(recipe.devices, say)
    if devices.workers > 1:
        raise RecipeError("devices=multiworker is for `kerazoo train`; fine-tune on one machine")
    folder = claim(recipe, f"{entry.name}-{Path(recipe.data.path).stem}", name=name, root=root, overwrite=overwrite)
    augmentation_of(recipe)  # refuses what it does not know before any data is read
    source = weights_of(entry, transfer.weights)
    examples = load_examples(recipe.data)
    recipe = fitting(recipe, examples, devices)
    loss = loss_of(recipe, examples)
    preprocessing, stored = _input_of(entry, recipe, examples, source)
    check_pictures(examples)
    reproducible(recipe.seed)

    batches, validation = batches_of(recipe, examples, preprocessing, devices, say)
    preferred = stored if source is not None else {"momentum": momentum_for(batches.steps)}
    preferred = {**preferred, "synchronised": recipe.training.synchronised_batch_norm}
    spec = spec_of(entry, recipe, preprocessing, examples, **preferred)
    with devices.scope(), precision(recipe):
        model = _build(spec, source)
    unfrozen = layers_to_unfreeze(model, entry, transfer.unfreeze)
    if recipe.training.epochs:
        for layer in model.layers:
            # pretrained batch norm keeps its statistics
            frozen_norm = source is not None and isinstance(layer, keras.layers.BatchNormalization)
            layer.trainable = layer.name in unfrozen and not frozen_norm
        devices.check_batch_norm(model)
    say(f"{entry.name}, weights {transfer.weights}: {model.count_params():,} parameters; {summary(examples)}")

    if not recipe.training.epochs and (augmentation_of(recipe).describe() or recipe.training.loss):
        say("training.epochs is 0: augmentation and training.loss are for the unfrozen network, and take no part")

    digest = weights_digest(feature_extractor(model))
    with begun(folder, recipe, examples, overwrite=overwrite, start_weights=digest, devices=devices.describe()) as run:
        history: list[dict[str, float]] = []
        if source is not None or not recipe.training.epochs:
            history = learn_head(model, examples, preprocessing, recipe, transfer, run, say)
        if recipe.training.epochs:
            history = fit(
                model, batches, validation, run=run, recipe=recipe, spec=spec, examples=examples, loss=loss,
                devices=devices, before=history, say=say,
            )  # fmt: skip
        else:
            MetricsWriter(run.folder, 0, history=history).settle()
            if recipe.watch:
                with watchers(run, recipe, examples, preprocessing) as watch:
                    maps = watch(model)[-1]
                    maps.set_model(model)
                    maps.on_epoch_end(0)
        return close_run(run, spec, model, examples, history, start, say)


def weights_of(entry: Network | Backbone, weights: str) -> Path | str | None:
    """None for "none", "imagenet" as it is, else the path that `weights` names. Raises WeightsError."""
    if weights == "none":
        return None
    if weights in entry.weights:
        return weights if isinstance(entry, Backbone) else shipped(entry.name, weights)
    path = Path(weights).expanduser()
    if path.exists():
        return path
    names = ", ".join([*entry.weights, "none"])
    raise WeightsError(f"there are no weights {weights!r} for {entry.name}; take {names}, or the path of a file or run")


def _input_of(
    entry: Network | Backbone, recipe: Recipe, examples: Examples, source: Path | str | None
) -> tuple[Preprocessing, dict[str, object]]:
    """The preprocessing, and the builder arguments that stored weights were made with."""
    if isinstance(source, Path) and source.is_dir():
        spec = load_spec(source)
        if spec.name != entry.name:
            raise WeightsError(f"the weights in {source} are of {spec.name}, not of {entry.name}")
        values = spec.preprocessing.to_json()
        if recipe.data.channels not in (None, values["channels"]):
            raise RecipeError(
                f"data.channels={recipe.data.channels}: the weights in {source} take {values['channels']}"
            )
        values |= {"fit": recipe.data.fit or values["fit"]}
        values |= {"height": recipe.data.size, "width": recipe.data.size} if recipe.data.size else {}
        return Preprocessing.from_json(values), dict(spec.arguments)
    return input_of(entry, recipe, examples), {}


def _build(spec: ModelSpec, source: Path | str | None) -> keras.Model:
    if source == "imagenet":
        # the stored arguments never name weights: a run rebuilds from its own file
        return ModelSpec(**{**vars(spec), "arguments": {**spec.arguments, "weights": "imagenet"}}).build()
    model = spec.build()
    if source is not None:
        load_features(model, Path(source))
    return model


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


def learn_head(
    model: keras.Model, examples: Examples, preprocessing: Preprocessing, recipe: Recipe, transfer: TransferPart,
    run: Run, say: Say,
) -> list[dict[str, float]]:  # fmt: skip
    """Learn the layer `logits` of `model` on features of the frozen rest; history rows of the head's epochs."""
    start = time.perf_counter()
    extractor = feature_extractor(model)
    train, val = examples.split("train"), examples.split("val")
    x_train, x_val = (extractor.predict(evaluation_batches(part, preprocessing), verbose=0) for part in (train, val))
    say(f"features of {len(train) + len(val):,} pictures in {time.perf_counter() - start:.1f} s")

    mean, spread = x_train.mean(axis=0), x_train.std(axis=0)
    spread = np.where(spread > 1e-6, spread, 1.0).astype(np.float32)  # a feature that never changes
    old = model.get_layer("logits")
    inputs = keras.Input(x_train.shape[1:], name="features")
    penalty = keras.regularizers.L2(transfer.head_l2)
    head = keras.Model(
        inputs, keras.layers.Dense(old.units, kernel_regularizer=penalty, name="logits")(inputs), name="head"
    )
    batch = int(recipe.training.batch_size)
    steps = -(-len(train) // batch)
    part = OptimizerPart(learning_rate=transfer.head_learning_rate, weight_decay=0.0)
    kind = find_head(examples.task)
    y_train, y_val = train.labels, val.labels
    centre, unit = np.zeros(1, np.float32), np.ones(1, np.float32)
    if kind.kind == "regression":
        centre, unit = y_train.mean(axis=0), np.maximum(y_train.std(axis=0), 1e-12)
        y_train, y_val = (y_train - centre) / unit, (y_val - centre) / unit
    head.compile(
        optimizer=make_optimizer(part, steps=steps * transfer.head_epochs),
        loss=kind.make_loss(), metrics=[kind.make_metric()],
    )  # fmt: skip
    parts: tuple[np.ndarray, ...] = ((x_train - mean) / spread, y_train)
    if recipe.training.balance != "none":  # of a pass over features, sampling and weights come to the same
        parts = (*parts, class_weights(train)[train.labels])
    pictures = tf.data.Dataset.from_tensor_slices(parts)
    shuffled = pictures.shuffle(len(train), seed=recipe.seed).batch(batch)
    metrics = MetricsWriter(run.folder / "head", len(train), key="head_epoch")
    with RunWriter(run.folder / "head") as writer, Progress(say, len(train), title="head epoch", every=20) as progress:
        head.fit(
            shuffled, validation_data=((x_val - mean) / spread, y_val), epochs=transfer.head_epochs,
            shuffle=False, verbose=0,
            callbacks=[progress, *([GradientNorms(writer), WeightNorms(writer)] if recipe.watch else []), metrics],
        )  # fmt: skip
    kernel, bias = head.get_layer("logits").get_weights()
    kernel = kernel / spread[:, None]
    old.set_weights([kernel * unit, (bias - mean @ kernel) * unit + centre])
    return metrics.rows
