"""The command line: each command parses, calls one function, and says what came of it.

Standard output carries results (one JSON object with `--json`), standard error everything else. Exit codes: 0; 2 for
bad input; 1 for a failure; 130 after Ctrl-C, 143 after SIGTERM. TensorFlow is imported inside commands only.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from kerazoo import cli_weights
from kerazoo.cli_flags import (
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
)  # fmt: skip
from kerazoo.cli_runs import check_paths, run_recipe, train_on, try_first
from kerazoo.console import Json, print_json, print_text, say
from kerazoo.errors import KerazooError, RecipeError, is_out_of_memory
from kerazoo.models import registry
from kerazoo.quiet import start_tensorflow
from kerazoo.signals import stoppable
from kerazoo.version import __version__

app = typer.Typer(
    help="A Keras 3 / TensorFlow model zoo with a transfer-learning pipeline.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich.markdown takes a third of the time of --help
)  # fmt: skip
app.add_typer(cli_weights.app, name="weights")

CTRL_C = 130
TERMINATED = 143  # SIGTERM
STOPPED = "kerazoo: stopped"
GOES_ON = "; the same command goes on with a run that did not finish"  # of commands that keep one


def _version(wanted: bool) -> None:
    if wanted:
        print(f"kerazoo {__version__}")
        raise typer.Exit


@app.callback()
def options(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A Keras 3 / TensorFlow model zoo with a transfer-learning pipeline."""


def models(
    filter: Annotated[str, typer.Option(help="Show only names that contain this text.")] = "", as_json: Json = False
) -> None:
    """List the zoo: networks and pretrained backbones, with size, parameters and weights."""
    rows = [_row(registry.find(name)) for name in registry.list_models(filter)]
    if as_json:
        print_json({"models": rows})
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        size = "x".join(map(str, row["input_shape"]))
        weights = ", ".join(row["weights"]) or "-"
        print(f"{row['name']:<{width}}  {size:>9}  {row['parameters']:>11,}  {weights:<8}  {row['summary']}")


def _row(entry: Any) -> dict[str, Any]:
    return {
        "name": entry.name, "kind": "network" if isinstance(entry, registry.Network) else "backbone",
        "input_shape": entry.input_shape, "parameters": entry.parameters, "weights": entry.weights,
        "summary": entry.summary,
    }  # fmt: skip


def check(
    data: Annotated[str, typer.Argument(help=DATA)],
    write: Annotated[
        bool, typer.Option("--write", help="Write a manifest; training leaves out what it excludes.")
    ] = False,
    manifest: Annotated[
        str | None, typer.Option(help="Where the manifest is kept. [default: kerazoo-manifest.json with the data]")
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="A regular expression: what it finds in file names stays in one split.")
    ] = None,
    validation: Annotated[float | None, typer.Option(help="Share of train held out. [default: 0.1]")] = None,
    show_augmented: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw pictures as training sees them.")
    ] = None,
    policy: Annotated[str, typer.Option(help="The augmentation drawn: none, light, standard or strong.")] = "standard",
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Look at every picture with the decoder of training; exit code 1 if something would spoil a result."""
    from kerazoo.pipelines.recipe import make_recipe

    values: dict[str, Any] = {"model": {"name": "-"}, "data": {"path": data}, "augmentation": {"policy": policy}}
    override_flags(values, {"--manifest": manifest, "--group": group, "--validation": validation}, settings)
    recipe = make_recipe(values, settings or [])
    check_paths(recipe)
    start_tensorflow()
    from kerazoo.pipelines.preflight import check as run_check
    from kerazoo.pipelines.report import progress_bar, show_augmented_pictures, table
    from kerazoo.pipelines.training import augmentation_of

    augmentation_of(recipe)  # refuses what it does not know before any work
    with progress_bar() as progress:
        report = run_check(recipe.data, write=write, progress=progress)
    if as_json:
        print_json(report.to_json())
    else:
        table(report)
    if show_augmented is not None:
        show_augmented_pictures(recipe, report, show_augmented)
        say(f"drawn: {show_augmented}")
    if report.spoiled:
        raise typer.Exit(1)


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
    from kerazoo.pipelines.recipe import make_recipe, read_recipe

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
        values, defaults = {"model": {"name": entry.name}}, getattr(entry, "recipe", None)
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
    """Fine-tune a pretrained network on your pictures: features, a probe on them, then the network from there on.

    Each phase says what it gained on validation, and is kept only if it helps.
    """
    from kerazoo.pipelines.recipe import make_recipe

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
    """Rank backbones on your pictures by a linear probe each, and say what each costs; nothing is kept but features."""
    from kerazoo.models.weights import check_weights
    from kerazoo.pipelines.recipe import make_recipe

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

    from kerazoo.pipelines.devices import open_devices

    opened = open_devices(recipe.devices, say)
    from kerazoo.pipelines.ranking import at_hand, rank

    ranked = rank(recipe, candidates or at_hand(), devices=opened, say=say)
    if as_json:
        print_json({"data": data, "ranked": [row.to_json() for row in ranked]})
        return
    print(ranked[0].title())
    for row in ranked:
        print(row.line())


def evaluate(
    run: Annotated[str, typer.Argument(help="A run folder, or its name under runs/.")],
    data: Annotated[str | None, typer.Option("--data", help="Other data than the run's own.")] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a run on its validation and test pictures, or on other data."""
    from kerazoo.pipelines.examples import check_source
    from kerazoo.pipelines.recipe import data_part
    from kerazoo.pipelines.runs import open_run

    opened = open_run(run)
    if data is not None:
        check_source(data_part({"path": data}))
    start_tensorflow()
    from kerazoo.pipelines.evaluation import evaluate as run_evaluation

    results = run_evaluation(opened, data)
    if as_json:
        print_json({"run": str(opened.folder)} | {k: v for result in results for k, v in result.summary().items()})
        return
    for result in results:
        print(result.line())


def predict(
    model: Annotated[str, typer.Argument(help="A run, or an export: saved_models/NAME, or .../VERSION.")],
    files: Annotated[list[Path], typer.Argument(help="Pictures, or folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to name.")] = 3,
    as_json: Json = False,
) -> None:
    """Name the classes of pictures."""
    from kerazoo.pipelines.runs import open_run
    from kerazoo.serving.predict import find_export, find_files
    from kerazoo.serving.predict import predict as run_prediction

    find_files(files)  # what is not there is told before TensorFlow starts, which takes seconds
    export = find_export(model)
    if export is None:
        open_run(model)
    start_tensorflow(keras=export is None)
    predictions = run_prediction(export or model, files, top=top)
    bad = sum(bool(prediction.error) for prediction in predictions)
    if as_json:
        print_json({"model": model, "predictions": [prediction.to_json() for prediction in predictions]})
    for prediction in () if as_json else predictions:
        print_text(prediction.line())
    if bad:
        say(f"kerazoo: {bad:,} of {len(predictions):,} files have no answer; each line says why")
        raise typer.Exit(1)


def export(
    run: Annotated[str, typer.Argument(help="A run folder, or its name under runs/.")],
    name: Annotated[str | None, typer.Option("--name", help="saved_models/NAME. [default: the run's name]")] = None,
    new_version: Annotated[bool, typer.Option("--new-version", help="Add a version where NAME exists.")] = False,
    as_json: Json = False,
) -> None:
    """Export a run as a SavedModel that takes encoded pictures; it is kept only if it answers as the run did."""
    from kerazoo.pipelines.runs import check_name, open_run

    opened = open_run(run)
    if name is not None:
        check_name(name, "export")
    start_tensorflow()
    from kerazoo.serving.export import export_run

    folder = export_run(opened, name=name, new_version=new_version)
    passport = json.loads((folder / "assets.extra/passport.json").read_text(encoding="utf-8"))
    if as_json:
        print_json({"export": str(folder), "gate": passport["gate"]})
        return
    gate = passport["gate"]
    compared = f"{gate['pictures']:,} {gate['split']} pictures"
    print(f"{folder}: answers {compared} as the run did (largest difference {gate['largest_difference']:.1g})")
    print(f"next: kerazoo predict {folder} PICTURE...")


for command in (models, check, train, finetune, probe, evaluate, predict, export):
    app.command()(command)


def main() -> None:
    """The console script: one clear line for an error, and the exit code that belongs to it."""
    arguments = sys.argv[1:]
    try:
        with stoppable(at_the_end=True):
            app(standalone_mode=True)
    except (KerazooError, OSError) as error:
        if "--traceback" in arguments:
            raise
        say(f"kerazoo: {error}")
        sys.exit(error.exit_code if isinstance(error, KerazooError) else 1)
    except Exception as error:
        if "--traceback" in arguments or not is_out_of_memory(error):
            raise
        say("kerazoo: out of memory; lower --batch-size or --size, or close other programs")
        sys.exit(1)
    except (SystemExit, KeyboardInterrupt) as error:  # an interrupt once typer had done its part
        code = error.code if isinstance(error, SystemExit) else CTRL_C
        if code in (CTRL_C, TERMINATED):  # typer's own, and that of `stoppable`
            say(STOPPED + (GOES_ON if arguments[:1] in (["train"], ["finetune"]) else ""))
        sys.exit(code)


if __name__ == "__main__":
    main()
