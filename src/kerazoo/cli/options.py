"""The flags that several commands share, and the keys of the recipe that they set."""

from typing import Annotated, Any

import typer

from kerazoo.errors import RecipeError

FLAGS = {  # key of the recipe by the flag that sets it
    "--data": "data.path",
    "--manifest": "data.manifest",
    "--group": "data.group",
    "--validation": "data.validation",
    "--size": "data.size",
    "--epochs": "training.epochs",
    "--batch-size": "training.batch_size",
    "--lr": "optimizer.learning_rate",
    "--seed": "seed",
    "--devices": "devices",
}


def batch_size(text: str) -> int | str:
    """What --batch-size takes: a number, or "all"; the recipe refuses what is neither."""
    return int(text) if text.isdecimal() else text


Name = Annotated[str | None, typer.Option("--name", help="The name of the run; runs/NAME. [default: numbered]")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: optimizer.learning_rate=0.1. Repeatable."),
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="The seed of everything random. [default: 0]")]
DevicesFlag = Annotated[
    str | None, typer.Option("--devices", help="auto, cpu, gpu, mirrored[:N], multiworker or tpu. [default: auto]")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Take the place of a run of that name.")]
DATA = "An image folder, an .npz file, a table (.csv, .tsv, .parquet), or tfds:NAME."
Rate = Annotated[float | None, typer.Option("--lr", help="The learning rate, its peak where it follows a schedule.")]
BatchSize = Annotated[
    Any, typer.Option("--batch-size", parser=batch_size, metavar="N", help="Images in a step, or all.")
]
Size = Annotated[int | None, typer.Option("--size", help="Height and width that images are brought to, in pixels.")]
Epochs = Annotated[int | None, typer.Option("--epochs", min=0, help="Passes over the training images.")]


def override_flags(values: dict[str, Any], flags: dict[str, Any], settings: list[str] | None) -> None:
    """Put the flags that were given into `values` of a recipe, by the dotted keys in FLAGS.

    Raises RecipeError where one of `settings` (of --set) gives the same key another value.
    """
    from kerazoo.recipes.recipe import override, read_setting

    known = dict(read_setting(setting) for setting in settings or ())
    for flag, value in flags.items():
        if value is None:
            continue
        key = FLAGS[flag]
        if key in known and known[key] != value:
            raise RecipeError(f"{flag} {value} and --set {key}={known[key]} are two values of one key; leave one out")
        override(values, key, value)
