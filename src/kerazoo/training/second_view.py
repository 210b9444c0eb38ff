"""Whether a network answers from each image and its mirror image. It is judged on validation like a phase."""

import logging
import time
from dataclasses import replace

import keras
import numpy as np

from kerazoo.models.answering import answering_network, with_mirror_image
from kerazoo.models.description import ModelSpec
from kerazoo.models.weights.loading import copy_weights
from kerazoo.pipelines.input.batches import evaluation_batches
from kerazoo.tasks.scores import Measured
from kerazoo.training.plan import Plan

log = logging.getLogger("kerazoo")

NAME = "mirror images"
NOT_TRIED = "training does not mirror images (augmentation.flip)"
COST = "each answer now takes two passes of the network, about twice the time"


def measured(model: keras.Model, plan: Plan) -> Measured:
    """The measure of `model` on validation."""
    val = plan.examples.split("val")
    batches = evaluation_batches(val, plan.preprocessing, stored=plan.stored("val"))
    return Measured.of(np.asarray(model.predict(batches, verbose=0)), val.labels, plan.task)


def with_second_view(model: keras.Model, plan: Plan) -> ModelSpec:
    """The spec of the trained `model`, with mirror images if the recipe wants them and, unless always, they help."""
    flip = plan.recipe.evaluation.flip
    if flip == "never":
        return plan.spec
    if not plan.augmentation.flip:
        log.info(f"{NAME}: not tried: {NOT_TRIED}")
        return plan.spec
    begin = time.perf_counter()
    single = plan.spec.build()  # in float32 and on one device, as it is evaluated
    copy_weights(model, single)
    before = measured(answering_network(plan.spec, single), plan)
    after = measured(with_mirror_image(single), plan)
    kept = flip == "always" or after.helps_over(before)
    saved = after.saved_over(before)
    words = f"kept; {COST}" if kept else "dropped"
    log.info(
        f"{NAME}: val {after.scores.mean():.4f}, gain {after.gain_over(before)}, loss {after.losses.mean():.4f}, lower "
        f"by {saved.mean:.4f} (95 % {saved.low:.4f} to {saved.high:.4f}); {words}; {time.perf_counter() - begin:.1f} s"
    )
    return replace(plan.spec, flip=kept)
