"""The answers of a network on validation, computed once for the same weights."""

import keras
import numpy as np

from kerazoo.models.answering import with_mirror_image
from kerazoo.models.weights.loading import weights_digest
from kerazoo.pipelines.input.batches import evaluation_batches
from kerazoo.tasks.scores import Measured
from kerazoo.training.plan import Plan


def val_logits(network: keras.Model, plan: Plan, *, flip: bool = False) -> np.ndarray:
    """(N, K) logits of `network` on validation, with `flip` from mirror images, too.

    `plan.known_logits` keeps them, because phases are compared with what was measured before.
    """
    key = weights_digest(network), flip
    if key not in plan.known_logits:
        val = plan.examples.split("val")
        batches = evaluation_batches(val, plan.preprocessing, stored=plan.stored("val"))
        answering = with_mirror_image(network) if flip else network
        plan.known_logits[key] = np.asarray(answering.predict(batches, verbose=0))
    return plan.known_logits[key]


def measured(network: keras.Model, plan: Plan, *, flip: bool = False) -> Measured:
    """The measure of `network` on validation, with `flip` from mirror images, too."""
    return Measured.of(val_logits(network, plan, flip=flip), plan.examples.split("val").labels, plan.task)
