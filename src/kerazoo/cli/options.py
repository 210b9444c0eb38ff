"""The flags that several commands share."""

from typing import Annotated, Any

import typer


def batch_size(text: str) -> int | str:
    """The value of --batch-size: a number, or text such as "all", which the recipe checks."""
    return int(text) if text.isdecimal() else text


DATA = "An image folder, an .npz file, a table (.csv, .tsv, .parquet), or tfds:NAME."
RUN = "A run folder, or its name under runs/."
MODEL = "A name from `kerazoo models`, or a recipe: fast, or a file (.toml)."

Data = Annotated[str | None, typer.Option("--data", help=DATA)]
Name = Annotated[str | None, typer.Option("--name", help="The name of the run, in runs/NAME. [default: numbered]")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a key of the recipe, such as optimizer.learning_rate=0.1. Repeatable.",
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="The seed of all random numbers. [default: 0]")]
DevicesFlag = Annotated[
    str | None, typer.Option("--devices", help="auto, cpu, gpu, mirrored[:N], multiworker or tpu. [default: auto]")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a run of that name.")]
Timings = Annotated[bool, typer.Option("--timings", help="Print where the seconds went.")]
Rate = Annotated[float | None, typer.Option("--lr", help="The learning rate; with a schedule, its peak.")]
BatchSize = Annotated[
    Any, typer.Option("--batch-size", parser=batch_size, metavar="N", help="Images in a step, or all.")
]
Size = Annotated[int | None, typer.Option("--size", help="Image height and width, in pixels.")]


def names(text: str) -> list[str]:
    """A list of names with commas between them; "none" is an empty one."""
    return [] if text == "none" else [name.strip() for name in text.split(",") if name.strip()]


def period(text: str) -> int | str:
    """A number of steps, or the name of a period; the recipe refuses what is neither."""
    return int(text) if text.isdecimal() else text


Log = Annotated[
    Any,
    typer.Option(
        "--log", parser=names, metavar="NAMES",
        help="What to log in detail, with histograms: gradients,weights,feature_maps; or none.",
    ),
]  # fmt: skip
LogEvery = Annotated[
    Any,
    typer.Option("--log-every", parser=period, metavar="PERIOD", help="A number of steps, epoch, or '3 epochs'."),
]
To = Annotated[
    Any,
    typer.Option(
        "--to", parser=names, metavar="TRACKERS", help="Also write to tensorboard,wandb,trackio,mlflow."
    ),
]  # fmt: skip
FailOn = Annotated[
    str | None,
    typer.Option("--fail-on", metavar="SEVERITY", help="Exit with 1 if there is a finding: note, warning or serious."),
]
Teacher = Annotated[
    str | None, typer.Option("--teacher", metavar="RUN", help="Learn the answers of a run in place of the labels.")
]
Epochs = Annotated[int | None, typer.Option("--epochs", min=0, help="Passes over the training images.")]
