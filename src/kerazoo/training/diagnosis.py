"""The diagnostics of a run, and a short trial before a long one that only tells what they find."""

import math

from kerazoo.insight.findings.finding import Finding
from kerazoo.pipelines.devices.devices import Devices
from kerazoo.recipes.recipe import Recipe
from kerazoo.training.plan import plan
from kerazoo.training.trials import check_trial, compiled
from kerazoo.training.watching import make_diagnostics

TRIAL = 300  # steps: enough for the loss of a healthy network to leave that of a guess


def diagnose(recipe: Recipe, *, devices: Devices, steps: int = TRIAL) -> list[Finding]:
    """What a training of about `steps` by `recipe` shows, its schedule as short; no run is kept.

    The log says the findings, the worst first. Raises RecipeError for a recipe or devices that trials are not for.
    """
    check_trial(recipe.transfer, devices)
    made = plan(recipe.anchored(), devices)
    taken = min(steps, made.steps)
    epochs = min(math.ceil(steps / taken), max(made.recipe.training.epochs, 1))
    model, batches = compiled(made, devices, steps=taken * epochs)
    diagnostics = make_diagnostics(made, batches)
    model.fit(
        batches.dataset, epochs=epochs, steps_per_epoch=taken, shuffle=False, verbose=0,
        callbacks=[batches.clock(), diagnostics],
    )  # fmt: skip
    return diagnostics.findings
