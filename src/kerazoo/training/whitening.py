"""Compute the whitening of a network (`PatchWhitening`) from training images, before its first step."""

import keras
import numpy as np

from kerazoo.models.whitening import PatchWhitening
from kerazoo.pipelines.input.batches import evaluation_batches
from kerazoo.training.plan import Plan

IMAGES = 5000  # as in the published code; its covariance of 12 numbers changes little with more


def whitened(model: keras.Model, plan: Plan) -> keras.Model:
    """`model`, after its whitening layers have seen at most 5,000 training images, drawn by the recipe's seed.

    They are prepared as for training, without augmentation. A network without such layers reads no image. A resumed run
    then takes its weights from the checkpoint, as those of all layers.
    """
    found = [layer for layer in model.layers if isinstance(layer, PatchWhitening)]
    if not found:
        return model
    train = plan.examples.split("train")
    drawn = np.sort(np.random.default_rng(plan.recipe.seed).permutation(len(train))[:IMAGES])
    stored = plan.stored("train")
    batches = evaluation_batches(
        train.take(drawn), plan.preprocessing, batch_size=250, stored=None if stored is None else stored[drawn]
    )
    for layer in found:
        layer.adapt(images for images, _ in batches.as_numpy_iterator())
    return model
