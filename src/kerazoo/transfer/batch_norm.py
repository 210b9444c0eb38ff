"""Re-estimate the moving statistics of batch normalization from data."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from kerazoo.keras_private import all_layers
from kerazoo.pipelines.input.augmentation import Augmentation
from kerazoo.pipelines.input.batches import training_batches
from kerazoo.pipelines.input.causes import true_causes
from kerazoo.training.plan import Plan
from kerazoo.transfer.passes import BATCH

REESTIMATED = 100  # largest number of batches for the statistics


def reestimate(model: keras.Model, batches: Iterable[Any]) -> None:
    """Set the moving statistics of every trainable batch norm to the mean over `batches` of (pixels, ...).

    Weights and seeds do not change. Source: "precise batch norm", Wu & Johnson 2021, arXiv:2105.07576, section 3.
    """
    norms = [norm for norm in batch_norms(model) if norm.trainable]
    momenta = [norm.momentum for norm in norms]
    own = {id(variable) for norm in norms for variable in (norm.moving_mean, norm.moving_variance)}
    others = [variable for variable in model.variables if id(variable) not in own]
    kept = [np.array(ops.convert_to_numpy(variable)) for variable in others]
    try:
        for number, batch in enumerate(batches):
            for norm in norms:
                norm.momentum = number / (number + 1)  # a plain mean: the n-th batch has the weight 1 / n
            model(np.asarray(batch[0]), training=True)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for variable, value in zip(others, kept, strict=True):
            variable.assign(value)


def batch_norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """The batch norms of `model`, also those inside other layers."""
    return [layer for layer in all_layers(model) if isinstance(layer, keras.layers.BatchNormalization)]


def norm_by_data(model: keras.Model, plan: Plan) -> None:
    """Set the batch norm statistics of a network with random weights to those of the training images.

    A new network has the statistics 0 and 1. Training uses the statistics of each batch, so the features would differ
    from those that the probe was trained on.
    """
    if not batch_norms(model):
        return
    train = plan.examples.split("train")
    plain = training_batches(
        train, plan.preprocessing, batch_size=BATCH, seed=plan.recipe.seed, augmentation=Augmentation(),
        stored=plan.stored("train"),
    )  # fmt: skip
    with true_causes(None, train, plan.preprocessing):
        reestimate(model, plain.at(0, 0).take(REESTIMATED))
