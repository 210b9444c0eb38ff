"""What the commands that make a run share: a recipe from flags, the devices, the last line."""

import sys
from pathlib import Path
from typing import Any

import typer

from kerazoo.console import print_json, say
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


def override_flags(values: dict[str, Any], flags: dict[str, Any]) -> None:
    """Put the flags that were given into `values` of a recipe, by their dotted keys."""
    from kerazoo.pipelines.recipe import override

    for key, value in flags.items():
        if value is not None:
            override(values, key, value)


def report(run: Any, as_json: bool) -> None:
    """The last line, or the results as JSON."""
    state = read_json(run.folder / "run.json")
    if as_json:
        stages = {"stages": state["stages"]} if "stages" in state else {}
        print_json({"run": str(run.folder), "seconds": state["seconds"], **state["results"], **stages})
        return
    print(f"{run.folder} is finished after {state['seconds']:.0f} s; next: kerazoo export {run.name}")
