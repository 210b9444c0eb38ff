"""The commands that use a run or an export: evaluate, predict."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kerazoo import api
from kerazoo.cli.options import RUN
from kerazoo.cli.output import Json, counting, print_json, print_row, print_text, say


class Shape(StrEnum):
    """How `predict` prints: a line for each file, a JSON object for each, or a table with a row for each class."""

    TEXT = "text"
    JSONL = "jsonl"
    CSV = "csv"


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
    files: Annotated[list[Path], typer.Argument(help="Images, or folders of them; - reads their names, one a line.")],
    top: Annotated[int, typer.Option(min=1, help="Number of classes to print.")] = 5,
    format: Annotated[str, typer.Option("--format", help="The format of an export that answers.")] = "saved_model",
    shape: Annotated[Shape, typer.Option("--as", help="How to print the answers.")] = Shape.TEXT,
    as_json: Json = False,
) -> None:
    """Predict the classes of images."""
    if list(map(str, files)) == ["-"]:
        files = [Path(line.rstrip("\r\n")) for line in sys.stdin if line.strip()]
    found = api.predict(model, files, top=top, format=format)
    count, bad = 0, 0
    kept = []
    with counting("images answered") as answered:
        for prediction in found:
            count += 1
            bad += bool(prediction.error)
            if as_json:
                kept.append(prediction.to_json())
            elif shape == Shape.JSONL:
                print_json(prediction.to_json())
            elif shape == Shape.CSV:
                if count == 1:
                    print_row(prediction.columns)
                for row in prediction.rows():
                    print_row(row)
            else:
                print_text(prediction.line())
            answered(count)
    if as_json:
        print_json({"model": model, "predictions": kept})
    if bad:
        say(f"kerazoo: {bad:,} of {count:,} files have no prediction; their lines say why")
        raise typer.Exit(1)
