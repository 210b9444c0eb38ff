"""The diagnostics of a run, and a short trial before a long one that only tells what they find."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kerazoo.callbacks.diagnostics import Diagnostics
from kerazoo.callbacks.writers.writer import Writer
from kerazoo.insight.findings.finding import Finding
from kerazoo.pipelines.devices.devices import Devices
from kerazoo.pipelines.input.batches import TrainingBatches
from kerazoo.recipes.recipe import Recipe
from kerazoo.training.plan import Plan, plan
from kerazoo.training.trials import check_trial, compiled

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


def make_diagnostics(
    plan: Plan, batches: TrainingBatches, *, folder: Path | None = None, writer: "Writer | list[Writer] | None" = None,
    own_gradients: bool = True,
) -> Diagnostics:  # fmt: skip
    """The diagnostics of a training by `plan` on `batches`; see `Diagnostics`."""
    return Diagnostics(
        writer, folder=folder, data=ProbeBatches(batches), order=None if plan.augmentation.mixes else batches.order,
        from_logits=True, pretrained=plan.source is not None, own_gradients=own_gradients,
        keeps_best=plan.recipe.training.early_stopping is not None,
    )  # fmt: skip


class ProbeBatches:
    """The training batches of the first epoch, as arrays, anew each time they are gone through."""

    def __init__(self, batches: TrainingBatches) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for batch in self.batches.at(0, 0).as_numpy_iterator():
            yield batch[0], batch[1]
