"""Before a run: which learning rate, and whether the network can learn at all. Nothing is kept but a chart."""

from pathlib import Path

from kerazoo.errors import RecipeError
from kerazoo.insight.curves import draw_curves
from kerazoo.pipelines.devices.devices import Devices
from kerazoo.recipes.recipe import Recipe
from kerazoo.training.fit import compile_model
from kerazoo.training.overfit import BatchTrial, overfit_one_batch
from kerazoo.training.plan import Assembled, assemble
from kerazoo.training.rate_finder import RateTrial, find_rate


def try_rates(recipe: Recipe, chart: Path, *, devices: Devices) -> RateTrial:
    """The range test of `find_rate` on the network and the data of `recipe`; its curve is drawn to `chart`."""
    made = _compiled(recipe, devices)
    trial = find_rate(made.model, made.batches.at(0, 0))
    marks = [] if trial.suggestion is None else [(trial.suggestion, f"suggestion {trial.suggestion:.2g}")]
    series = {"loss": (list(trial.rates), list(trial.losses)), "smoothed": (list(trial.rates), list(trial.smoothed))}
    draw_curves(
        chart, series, title="Learning rate range test", x_label="learning rate", y_label="loss", log_x=True,
        marks=marks,
    )  # fmt: skip
    return trial


def try_one_batch(recipe: Recipe, *, devices: Devices) -> BatchTrial:
    """Whether the network of `recipe` can learn its first batch by heart."""
    made = _compiled(recipe, devices)
    batch = next(iter(made.batches.at(0, 0)))
    return overfit_one_batch(made.model, batch, learning_rate=recipe.optimizer.learning_rate)


def _compiled(recipe: Recipe, devices: Devices) -> Assembled:
    if recipe.transfer is not None:
        raise RecipeError("trials are of networks that are trained anew; leave the transfer part out")
    if devices.strategy is not None or devices.distribution is not None:
        raise RecipeError(f"trials run on one device, not on {devices.describe()}; take --devices auto")
    made = assemble(recipe.anchored(), devices)
    steps = made.batches.steps * max(made.recipe.training.epochs, 1)
    compile_model(made.model, made.recipe, made.spec, made.loss, devices, steps=steps)
    return made
