"""The commands that make runs, and trials before one: train, finetune, probe."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from kerazoo.cli.options import (
    DATA,
    BatchSize,
    DevicesFlag,
    Epochs,
    Name,
    Overwrite,
    Rate,
    Seed,
    Set,
    Size,
    override_flags,
)
from kerazoo.cli.output import Json, print_json
from kerazoo.errors import RecipeError
from kerazoo.files import read_json
from kerazoo.models import registry


def train_on(path: Path, as_json: bool) -> None:
    """Go on with the unfinished run at `path`, or at runs/path."""
    from kerazoo.runs.run import RUNS, unfinished

    run = unfinished((path if (path / "run.json").is_file() else RUNS / path).resolve())
    run_recipe(run.recipe(), as_json, name=run.name, root=run.folder.parent)


def run_recipe(recipe: Any, as_json: bool, **where: Any) -> None:
    """Train or fine-tune by `recipe`, on its devices, and report; `where` are the arguments that say which run."""
    from kerazoo.recipes.checks import check_preset

    check_preset(recipe)
    check_paths(recipe, where.get("name"))
    from kerazoo.pipelines.devices.opening import open_devices

    devices = open_devices(recipe.devices)
    if recipe.transfer is not None:
        from kerazoo.transfer.finetune import finetune as make
    else:
        from kerazoo.training.train import train as make
    run = make(recipe, devices=devices, reported=False, **where)
    if devices.is_chief:
        report(run, as_json)
        sys.stdout.flush()
        run.set_reported()


def try_first(recipe: Any, chart: Path | None, as_json: bool) -> None:
    """The trials before a run: of rates, drawn to `chart`, or of one batch. Exit code 1 where it did not go well."""
    check_paths(recipe)
    if chart is not None and not chart.absolute().parent.is_dir():
        raise RecipeError(f"--lr-find {chart}: there is no folder {chart.parent}; make it, or name another file")
    from kerazoo.pipelines.devices.opening import open_devices

    devices = open_devices(recipe.devices)
    from kerazoo.training.trials import try_one_batch, try_rates

    if chart is not None:
        rates = try_rates(recipe, chart, devices=devices)
        line, good, value = f"{rates.line()}; drawn: {chart}", rates.suggestion is not None, rates.suggestion
        found = {"suggestion": value, "chart": str(chart)}
    else:
        batch = try_one_batch(recipe, devices=devices)
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
    from kerazoo.models.weights.sources import check_weights
    from kerazoo.pipelines.data.load import check_source
    from kerazoo.runs.run import check_name

    check_source(recipe.data)
    if run is not None:
        check_name(run)
    if recipe.transfer is not None and recipe.model.name != "-":
        check_weights(find(recipe.model.name), recipe.transfer.weights)


def report(run: Any, as_json: bool) -> None:
    """The last line, or the results as JSON."""
    state = read_json(run.folder / "run.json")
    if as_json:
        phases = {"phases": state["phases"]} if "phases" in state else {}
        print_json({"run": str(run.folder), "seconds": state["seconds"], **state["results"], **phases})
        return
    print(f"{run.folder} is finished after {state['seconds']:.0f} s; next: kerazoo export {run.name}")


def train(
    model: Annotated[str | None, typer.Argument(help="A name from `kerazoo models`, or a recipe file (.toml).")] = None,
    data: Annotated[str | None, typer.Option("--data", help=DATA)] = None,
    name: Name = None,
    epochs: Epochs = None,
    rate: Rate = None,
    batch: BatchSize = None,
    size: Size = None,
    seed: Seed = None,
    devices: DevicesFlag = None,
    settings: Set = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="RUN", help="Go on with an unfinished run, by its own recipe.")
    ] = None,
    overwrite: Overwrite = False,
    lr_find: Annotated[
        Path | None, typer.Option("--lr-find", metavar="FILE.svg", help="Suggest a learning rate; draw its curve.")
    ] = None,
    overfit_one_batch: Annotated[
        bool, typer.Option("--overfit-one-batch", help="See whether the network can learn one batch by heart.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a zoo network from random weights, evaluate it, and keep all of it in a run folder.

    The same command, given again, goes on with a run that did not finish.
    """
    from kerazoo.recipes.recipe import make_recipe, own_recipe, read_recipe

    flags = {
        "--data": data, "--epochs": epochs, "--lr": rate, "--batch-size": batch, "--size": size, "--seed": seed,
        "--devices": devices,
    }  # fmt: skip
    if resume is not None:
        given = {
            "MODEL": model, **flags, "--name": name,
            "--set": settings or None, "--lr-find": lr_find, "--overfit-one-batch": overfit_one_batch or None,
            "--overwrite": overwrite or None,
        }  # fmt: skip
        if other := [flag for flag, value in given.items() if value is not None]:
            raise RecipeError(f"--resume uses the run's own recipe; leave {other[0]} out")
        train_on(resume, as_json)
        return
    if model is None:
        raise RecipeError("there is no model: name one from `kerazoo models`, a recipe, or a run to --resume")
    defaults: Any = None
    if model.endswith(".toml"):
        values = read_recipe(Path(model))
    else:
        entry = registry.find(model)
        values, defaults = {"model": {"name": entry.name}}, own_recipe(entry.name)
    override_flags(values, flags, settings)
    if "data" not in values:
        raise RecipeError("there is no data: name it with --data")
    recipe = make_recipe(values, settings or [], defaults=defaults)
    if lr_find is not None or overfit_one_batch:
        given = {
            "--overfit-one-batch": lr_find is not None and overfit_one_batch, "--name": name is not None,
            "--overwrite": overwrite,
        }  # fmt: skip
        if other := [flag for flag, present in given.items() if present]:
            raise RecipeError(f"--lr-find and --overfit-one-batch create no run; leave {other[0]} out")
        try_first(recipe, lr_find, as_json)
        return
    run_recipe(recipe, as_json, name=name, overwrite=overwrite)


def finetune(
    data: Annotated[str, typer.Argument(help=DATA)],
    backbone: Annotated[str, typer.Option("--backbone", help="A name from `kerazoo models`.")] = "mobilenet_v2_100",
    weights: Annotated[
        str,
        typer.Option("--weights", help="imagenet (downloads), the name of shipped weights, a file, a run, or none."),
    ] = "imagenet",
    name: Name = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", help="linear, light, full or bit: how much learns, and how. [default: light]"),
    ] = None,
    probe_only: Annotated[bool, typer.Option("--probe-only", help="Stop at the probe; the preset linear.")] = False,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=0, help="Passes with the network unfrozen. [default: the preset's]")
    ] = None,
    rate: Rate = None,
    batch: BatchSize = None,
    size: Size = None,
    seed: Seed = None,
    devices: DevicesFlag = None,
    settings: Set = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a pretrained network on your images: features, a probe on them, then the network from there on.

    Each phase says what it gained on validation, and is kept only if it helps.
    """
    from kerazoo.recipes.recipe import make_recipe

    values: dict[str, Any] = {
        "model": {"name": registry.find(backbone).name}, "data": {"path": data},
        "transfer": {"weights": weights, "preset": preset or ("linear" if probe_only else "light")},
    }  # fmt: skip
    flags = {
        "--epochs": epochs, "--lr": rate, "--batch-size": batch, "--size": size, "--seed": seed, "--devices": devices,
    }  # fmt: skip
    override_flags(values, flags, settings)
    recipe = make_recipe(values, settings or [])
    if probe_only and (recipe.training.epochs or recipe.transfer is None or recipe.transfer.preset != "linear"):
        raise RecipeError("--probe-only stops before training; leave it out, or training.epochs and transfer.preset")
    run_recipe(recipe, as_json, name=name, overwrite=overwrite)


def probe(
    data: Annotated[str, typer.Argument(help=DATA)],
    backbones: Annotated[
        list[str] | None,
        typer.Option(
            "--backbone", metavar="NAME[=WEIGHTS]",
            help="A backbone and its weights. Repeatable. [default: all whose ImageNet weights are on this machine]",
        ),
    ] = None,
    size: Size = None,
    seed: Seed = None,
    devices: DevicesFlag = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Rank backbones on your images by a linear probe each, and say what each costs; nothing is kept but features."""
    from kerazoo.models.weights.sources import check_weights
    from kerazoo.recipes.recipe import make_recipe

    values: dict[str, Any] = {
        "model": {"name": "-"}, "data": {"path": data}, "training": {"epochs": 0}, "transfer": {},
    }  # fmt: skip
    override_flags(values, {"--size": size, "--seed": seed, "--devices": devices}, settings)
    recipe = make_recipe(values, settings or [])
    pairs = [backbone.partition("=") for backbone in backbones or ()]
    candidates = [(registry.find(name).name, weights or "imagenet") for name, _, weights in pairs]
    check_paths(recipe)
    for name, weights in candidates:
        check_weights(registry.find(name), weights)

    from kerazoo.pipelines.devices.opening import open_devices

    opened = open_devices(recipe.devices)
    from kerazoo.transfer.ranking import cached_backbones, rank

    ranked = rank(recipe, candidates or cached_backbones(), devices=opened)
    if as_json:
        print_json({"data": data, "ranked": [row.to_json() for row in ranked]})
        return
    print(ranked[0].title())
    for row in ranked:
        print(row.line())
