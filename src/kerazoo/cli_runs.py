"""What the commands that make a run share: a recipe from flags, the devices, the last line."""

import sys
from pathlib import Path
from typing import Any

import typer

from kerazoo.console import print_json, say
from kerazoo.errors import RecipeError
from kerazoo.files import read_json


def train_on(path: Path, as_json: bool) -> None:
    """Go on with the unfinished run at `path`, or at runs/path."""
    from kerazoo.pipelines.runs import RUNS, unfinished

    run = unfinished((path if (path / "run.json").is_file() else RUNS / path).resolve())
    run_recipe(run.recipe(), as_json, name=run.name, root=run.folder.parent)


def run_recipe(recipe: Any, as_json: bool, **where: Any) -> None:
    """Train or fine-tune by `recipe`, on its devices, and report; `where` are the arguments that say which run."""
    from kerazoo.pipelines.presets import check_preset

    check_preset(recipe)
    check_paths(recipe, where.get("name"))
    from kerazoo.pipelines.devices import open_devices

    devices = open_devices(recipe.devices, say)
    if recipe.transfer is not None:
        from kerazoo.pipelines.transfer import finetune as make
    else:
        from kerazoo.pipelines.training import train as make
    run = make(recipe, devices=devices, say=say, reported=False, **where)
    if devices.is_chief:
        report(run, as_json)
        sys.stdout.flush()
        run.set_reported()


def try_first(recipe: Any, picture: Path | None, as_json: bool) -> None:
    """The trials before a run: of rates, drawn to `picture`, or of one batch. Exit code 1 where it did not go well."""
    check_paths(recipe)
    if picture is not None and not picture.absolute().parent.is_dir():
        raise RecipeError(f"--lr-find {picture}: there is no folder {picture.parent}; make it, or name another file")
    from kerazoo.pipelines.devices import open_devices

    devices = open_devices(recipe.devices, say)
    from kerazoo.pipelines.trials import try_one_batch, try_rates

    if picture is not None:
        rates = try_rates(recipe, picture, devices=devices, say=say)
        line, good, value = f"{rates.line()}; drawn: {picture}", rates.suggestion is not None, rates.suggestion
        found = {"suggestion": value, "picture": str(picture)}
    else:
        batch = try_one_batch(recipe, devices=devices, say=say)
        line, good, found = batch.line(), batch.passed, {"passed": batch.passed, "loss": float(batch.losses[-1])}
    if as_json:
        print_json(found)
    else:
        print(line)
    if not good:
        raise typer.Exit(1)


def check_paths(recipe: Any, run: str | None = None) -> None:
    """Raise InputError where the data, the weights or the name of the run cannot be right.

    Commands do so before TensorFlow starts, which takes seconds.
    """
    from kerazoo.models.registry import find
    from kerazoo.models.weights import check_weights
    from kerazoo.pipelines.examples import check_source
    from kerazoo.pipelines.runs import check_name

    check_source(recipe.data)
    if run is not None:
        check_name(run)
    if recipe.transfer is not None and recipe.model.name != "-":
        check_weights(find(recipe.model.name), recipe.transfer.weights)


def report(run: Any, as_json: bool) -> None:
    """The last line, or the results as JSON."""
    state = read_json(run.folder / "run.json")
    if as_json:
        stages = {"stages": state["stages"]} if "stages" in state else {}
        print_json({"run": str(run.folder), "seconds": state["seconds"], **state["results"], **stages})
        return
    print(f"{run.folder} is finished after {state['seconds']:.0f} s; next: kerazoo export {run.name}")
