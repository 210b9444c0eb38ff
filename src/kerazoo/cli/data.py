"""The command that checks data: check."""

from pathlib import Path
from typing import Annotated

import typer

from kerazoo import api
from kerazoo.cli.options import DATA, Set
from kerazoo.cli.output import Json, print_json, say
from kerazoo.cli.tables import table


def check(
    data: Annotated[str, typer.Argument(help=DATA)],
    write: Annotated[
        bool, typer.Option("--write", help="Write a manifest; training leaves out the images that it excludes.")
    ] = False,
    manifest: Annotated[
        str | None, typer.Option(help="The path of the manifest. [default: kerazoo-manifest.json with the data]")
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(help="A regular expression on file names; images with the same match stay in one split."),
    ] = None,
    validation: Annotated[float | None, typer.Option(help="The share of train to hold out. [default: 0.1]")] = None,
    show_augmented: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw training images with augmentation.")
    ] = None,
    policy: Annotated[
        str, typer.Option(help="The augmentation to draw: none, light, standard or strong.")
    ] = "standard",
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Check every image with the decoder of training. The exit code is 1 if a finding would spoil a result."""
    report = api.check(
        data, write=write, manifest=manifest, group=group, validation=validation, show_augmented=show_augmented,
        policy=policy, settings=settings or (),
    )  # fmt: skip
    if as_json:
        print_json(report.to_json())
    else:
        table(report)
    if show_augmented is not None:
        say(f"drawn: {show_augmented}")
    if report.spoiled:
        raise typer.Exit(1)
