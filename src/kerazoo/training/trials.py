"""Trials before a run: find a learning rate, or test whether the network can learn at all. They create no run."""

import logging
from pathlib import Path

import keras

from kerazoo.errors import RecipeError
from kerazoo.insight.curves import draw_curves
from kerazoo.pipelines.devices.devices import Devices
from kerazoo.pipelines.input.batches import TrainingBatches
from kerazoo.recipes.recipe import Recipe
from kerazoo.recipes.transfer_part import TransferPart
from kerazoo.training.fit import build_network, compile_model, make_batches
from kerazoo.training.overfit import BatchTrial, overfit_one_batch
from kerazoo.training.plan import Plan, plan, set_seed, summary
from kerazoo.training.rate_finder import RateTrial, find_rate
from kerazoo.training.whitening import whitened

log = logging.getLogger("kerazoo")


def try_rates(recipe: Recipe, chart: Path, *, devices: Devices) -> RateTrial:
    """The result of the range test (`find_rate`) on the network and the data of `recipe`. Draws it to `chart`."""
    check_trial(recipe.transfer, devices)
    model, batches = compiled(plan(recipe.anchored(), devices), devices)
    trial = find_rate(model, batches.at(0, 0))
    marks = [] if trial.suggestion is None else [(trial.suggestion, f"suggestion {trial.suggestion:.2g}")]
    series = {"loss": (list(trial.rates), list(trial.losses)), "smoothed": (list(trial.rates), list(trial.smoothed))}
    draw_curves(
        chart, series, title="Learning rate range test", x_label="learning rate", y_label="loss", log_x=True,
        marks=marks,
    )  # fmt: skip
    return trial


def try_one_batch(recipe: Recipe, *, devices: Devices) -> BatchTrial:
    """The result of overfitting the first batch of `recipe` with its network."""
    check_trial(recipe.transfer, devices)
    model, batches = compiled(plan(recipe.anchored(), devices), devices)
    batch = next(iter(batches.at(0, 0)))
    return overfit_one_batch(model, batch, learning_rate=recipe.optimizer.learning_rate)


def check_trial(transfer: TransferPart | None, devices: Devices) -> None:
    """Raise RecipeError for a recipe or devices that trials do not support."""
    if transfer is not None:
        raise RecipeError("trials work only for training from random weights; remove the transfer part of the recipe")
    if devices.strategy is not None or devices.distribution is not None:
        raise RecipeError(
            f"trials run on one device, not on {devices.describe()}; set devices to auto (--devices auto)"
        )


def compiled(plan: Plan, devices: Devices, *, steps: int | None = None) -> tuple[keras.Model, TrainingBatches]:
    """The network of `plan`, compiled as for training (of `steps`), and its batches."""
    plan.check_images()
    set_seed(plan.recipe.seed)
    batches, _ = make_batches(plan, devices)
    model = whitened(build_network(plan, devices), plan)
    log.info(
        f"{plan.entry.name}: {model.count_params():,} parameters; {summary(plan.examples)}; on {devices.describe()}"
    )
    compile_model(model, plan, devices, steps=steps or plan.steps * max(plan.recipe.training.epochs, 1))
    return model, batches
