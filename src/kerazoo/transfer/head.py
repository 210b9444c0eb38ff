"""The head of a fine-tuning: learned on the features of the frozen network."""

import time
from pathlib import Path

import keras
import numpy as np

from kerazoo.errors import RecipeError
from kerazoo.models.description import ModelSpec
from kerazoo.models.engines import check_engine
from kerazoo.models.weights.loading import load_features
from kerazoo.pipelines.input.batches import class_weights, evaluation_batches
from kerazoo.tasks.scores import Measured
from kerazoo.terminal import progress_bar
from kerazoo.training.plan import Plan
from kerazoo.transfer.features import FeaturePass
from kerazoo.transfer.phases import Phases
from kerazoo.transfer.probe import Probe, learn_probe


def build_with(spec: ModelSpec, source: Path | None, scaling: str | None) -> keras.Model:
    """The network with the features of `source`, or random ones; its head is random. `scaling`: see `TransferPart`."""
    model = spec.build()
    if source is not None:
        load_features(model, source, scaling=scaling)
    return model


def check_probe(plan: Plan) -> None:
    """Raise RecipeError or DataError for what the features or the probe would fail at, before any work."""
    transfer, examples = plan.transfer, plan.examples
    train = examples.split("train")
    plan.task.check_balance(plan.recipe.training.balance)
    if transfer.views > 1 and not plan.recipe.augmentation.unmixed().describe():
        raise RecipeError(
            f"transfer.views={transfer.views} needs an augmentation that draws them; set augmentation.policy, or leave "
            "views out"
        )
    if transfer.penalties is None or len(transfer.penalties) > 1:
        plan.task.fold_count(train.labels, examples.class_names, transfer.folds)
    check_engine(transfer.engine)


def learn_head(model: keras.Model, plan: Plan, phases: Phases) -> Probe:
    """The probe on features of the frozen network, put into the layer `logits` of `model`; two phases."""
    transfer, examples, recipe = plan.transfer, plan.examples, plan.recipe
    train, val = examples.split("train"), examples.split("val")
    features = FeaturePass(model, plan.spec, engine=transfer.engine, cached=recipe.data.cache != "never")
    with progress_bar("features", "features of") as progress:
        views = [
            features(train, view=view, augmentation=plan.augmentation, seed=recipe.seed, progress=progress)
            for view in range(transfer.views)
        ]
        held = features(val, progress=progress)
    phases.features([*views, held])

    begin = time.perf_counter()
    probe = learn_probe(
        np.concatenate([view.values for view in views]), train.labels, plan.task,
        class_names=examples.class_names, penalties=transfer.penalties, folds=transfer.folds, views=transfer.views,
        weights=None if recipe.training.balance == "none" else class_weights(train)[train.labels], seed=recipe.seed,
    )  # fmt: skip
    model.get_layer("logits").set_weights([probe.kernel.astype(np.float32), probe.bias.astype(np.float32)])
    if transfer.engine == "keras":
        logits = probe.logits(held.values)
    else:  # what is measured is what is served: Keras's own features
        logits = np.asarray(model.predict(evaluation_batches(val, plan.preprocessing), verbose=0))
    phases.probe(probe, Measured.of(logits, val.labels, plan.task), time.perf_counter() - begin)
    return probe
