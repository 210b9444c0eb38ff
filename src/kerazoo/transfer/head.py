"""Train the first head of fine-tuning, on the features of the frozen network."""

import time
from pathlib import Path

import keras
import numpy as np

from kerazoo.errors import RecipeError
from kerazoo.models.description import ModelSpec
from kerazoo.models.engines import check_engine
from kerazoo.models.weights.loading import load_features, weights_digest
from kerazoo.pipelines.input.batches import class_weights
from kerazoo.runs.timings import timed
from kerazoo.terminal import progress_bar
from kerazoo.training.plan import Plan
from kerazoo.training.validation import measured
from kerazoo.transfer.features import FeaturePass
from kerazoo.transfer.phases import Phases
from kerazoo.transfer.probe import Probe, learn_probe


def build_with(spec: ModelSpec, source: Path | None, scaling: str | None) -> keras.Model:
    """The network with the weights of `source`, or random ones, and a random head. `scaling`: see `TransferPart`."""
    model = spec.build()
    if source is not None:
        load_features(model, source, scaling=scaling)
    return model


def check_probe(plan: Plan) -> None:
    """Raise RecipeError or DataError, before any work, if the features or the probe would fail."""
    transfer = plan.transfer
    examples = plan.examples
    train = examples.split("train")
    plan.task.check_balance(plan.recipe.training.balance)
    if transfer.views > 1 and not plan.recipe.augmentation.unmixed().describe():
        raise RecipeError(
            f"transfer.views={transfer.views} needs an augmentation; set augmentation.policy, or remove transfer.views"
        )
    if transfer.penalties is None or len(transfer.penalties) > 1:
        plan.task.fold_count(train.labels, examples.class_names, transfer.folds)
    check_engine(transfer.engine)


def learn_head(model: keras.Model, plan: Plan, phases: Phases) -> Probe:
    """The probe on features of the frozen network. It becomes the layer `logits` of `model`. Adds two phases."""
    transfer = plan.transfer
    examples = plan.examples
    recipe = plan.recipe
    train = examples.split("train")
    val = examples.split("val")
    features = FeaturePass(model, plan.spec, engine=transfer.engine, cached=recipe.data.cache != "never")
    with progress_bar("features", "features of") as progress:
        views = [
            features(
                train, view=view, augmentation=plan.augmentation, seed=recipe.seed, progress=progress,
                stored=lambda: plan.stored("train"),
            )
            for view in range(transfer.views)
        ]  # fmt: skip
        val_features = features(val, progress=progress, stored=lambda: plan.stored("val"))
    phases.features([*views, val_features])

    begin = time.perf_counter()
    with timed("probe"):
        probe = learn_probe(
            np.concatenate([view.values for view in views]), train.labels, plan.task,
            class_names=examples.class_names, penalties=transfer.penalties, folds=transfer.folds, views=transfer.views,
            weights=None if recipe.training.balance == "none" else class_weights(train)[train.labels], seed=recipe.seed,
        )  # fmt: skip
    model.get_layer("logits").set_weights([probe.kernel.astype(np.float32), probe.bias.astype(np.float32)])
    if transfer.engine == "keras":  # exports use Keras, so other features are not those that answer
        plan.known_logits[weights_digest(model), False] = probe.logits(val_features.values)
    phases.probe(probe, measured(model, plan), time.perf_counter() - begin)
    return probe
