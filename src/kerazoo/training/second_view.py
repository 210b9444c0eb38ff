"""Whether a network answers from each image and its mirror image. It is judged on validation like a phase."""

import logging
import time
from dataclasses import replace

import keras

from kerazoo.models.description import ModelSpec
from kerazoo.models.weights.loading import copy_weights
from kerazoo.training.plan import Plan
from kerazoo.training.validation import measured

log = logging.getLogger("kerazoo")

NAME = "mirror images"
NOT_TRIED = "training does not mirror images (augmentation.flip)"
COST = "each answer now takes two passes of the network, about twice the time"


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
    before, after = measured(single, plan), measured(single, plan, flip=True)
    kept = flip == "always" or after.helps_over(before)
    saved = after.saved_over(before)
    words = f"kept; {COST}" if kept else "dropped"
    log.info(
        f"{NAME}: val {after.scores.mean():.4f}, gain {after.gain_over(before)}, loss {after.losses.mean():.4f}, lower "
        f"by {saved.mean:.4f} (95 % {saved.low:.4f} to {saved.high:.4f}); {words}; {time.perf_counter() - begin:.1f} s"
    )
    return replace(plan.spec, flip=kept)
