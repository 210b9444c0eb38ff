"""The commands that use a run or an export: evaluate, predict."""

from pathlib import Path
from typing import Annotated

import typer

from kerazoo import api
from kerazoo.cli.options import RUN
from kerazoo.cli.output import Json, print_json, print_text, say


def evaluate(
    run: Annotated[str, typer.Argument(help=RUN)],
    data: Annotated[str | None, typer.Option("--data", help="Data to evaluate on instead of the run's own.")] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a run on its validation and test images, or on other data."""
    opened = api.open_run(run)
    results = opened.evaluate(data).values()
    if as_json:
        print_json({"run": str(opened.folder)} | {k: v for result in results for k, v in result.summary().items()})
        return
    for result in results:
        print(result.line())


def predict(
    model: Annotated[str, typer.Argument(help="A run, or an export: saved_models/NAME, or .../VERSION.")],
    files: Annotated[list[Path], typer.Argument(help="Images, or folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="Number of classes to print.")] = 5,
    as_json: Json = False,
) -> None:
    """Predict the classes of images."""
    predictions = []
    for prediction in api.predict(model, files, top=top):
        predictions.append(prediction)
        if not as_json:
            print_text(prediction.line())
    if as_json:
        print_json({"model": model, "predictions": [prediction.to_json() for prediction in predictions]})
    bad = sum(bool(prediction.error) for prediction in predictions)
    if bad:
        say(f"kerazoo: {bad:,} of {len(predictions):,} files have no prediction; their lines say why")
        raise typer.Exit(1)
