"""The commands that ask a run or an export: evaluate, predict."""

from pathlib import Path
from typing import Annotated

import typer

from kerazoo.cli.output import Json, print_json, print_text, say
from kerazoo.startup import start_tensorflow


def evaluate(
    run: Annotated[str, typer.Argument(help="A run folder, or its name under runs/.")],
    data: Annotated[str | None, typer.Option("--data", help="Other data than the run's own.")] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a run on its validation and test images, or on other data."""
    from kerazoo.pipelines.data.load import check_source
    from kerazoo.recipes.recipe import data_part
    from kerazoo.runs.run import open_run

    opened = open_run(run)
    if data is not None:
        check_source(data_part({"path": data}))
    start_tensorflow()
    from kerazoo.evaluation.evaluate import evaluate as run_evaluation

    results = run_evaluation(opened, data)
    if as_json:
        print_json({"run": str(opened.folder)} | {k: v for result in results for k, v in result.summary().items()})
        return
    for result in results:
        print(result.line())


def predict(
    model: Annotated[str, typer.Argument(help="A run, or an export: saved_models/NAME, or .../VERSION.")],
    files: Annotated[list[Path], typer.Argument(help="Images, or folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to name.")] = 3,
    as_json: Json = False,
) -> None:
    """Name the classes of images."""
    from kerazoo.runs.run import open_run
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
