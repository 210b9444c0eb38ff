"""The commands to use before a run: rank, try."""

from pathlib import Path
from typing import Annotated, Any

import typer

from kerazoo import api
from kerazoo.cli.options import DATA, MODEL, BatchSize, Data, DevicesFlag, Rate, Seed, Set, Size
from kerazoo.cli.output import Json, print_json
from kerazoo.errors import InputError


def rank(
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
    """Rank backbones on your images by a linear probe on each, and show their cost. Only the features are kept."""
    ranked = api.rank(data, backbones, size=size, seed=seed, devices=devices, settings=settings or ())
    if as_json:
        print_json({"data": data, "ranked": [row.to_json() for row in ranked]})
        return
    print(ranked[0].title())
    for row in ranked:
        print(row.line())


def try_(
    model: Annotated[str, typer.Argument(help=MODEL)],
    data: Data = None,
    learning_rate: Annotated[
        Path | None,
        typer.Option("--learning-rate", metavar="CHART.svg", help="Suggest a learning rate, and draw the losses."),
    ] = None,
    one_batch: Annotated[
        bool, typer.Option("--one-batch", help="Test whether the network can learn one batch by heart.")
    ] = False,
    rate: Rate = None,
    batch: BatchSize = None,
    size: Size = None,
    seed: Seed = None,
    devices: DevicesFlag = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Try a network before training: find a learning rate, or test whether it can learn at all. No run is kept."""
    if one_batch == (learning_rate is not None):
        raise InputError("`kerazoo try` needs either --learning-rate CHART.svg or --one-batch")
    words: dict[str, Any] = {
        "learning_rate": rate, "batch_size": batch, "size": size, "seed": seed, "devices": devices,
        "settings": settings or (),
    }  # fmt: skip
    if learning_rate is not None:
        rates = api.find_learning_rate(model, data, chart=learning_rate, **words)
        result = {"suggestion": rates.suggestion, "chart": str(learning_rate)}
        line = f"{rates.line()}; drawn: {learning_rate}"
        good = rates.suggestion is not None
    else:
        trial = api.overfit_one_batch(model, data, **words)
        result = {"passed": trial.passed, "loss": float(trial.losses[-1])}
        line = trial.line()
        good = trial.passed
    if as_json:
        print_json(result)
    else:
        print(line)
    if not good:
        raise typer.Exit(1)
