"""The command that looks at data: check."""

from pathlib import Path
from typing import Annotated, Any

import typer

from kerazoo.cli.options import DATA, Set, override_flags
from kerazoo.cli.output import Json, print_json, say
from kerazoo.cli.train import check_paths
from kerazoo.startup import start_tensorflow


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
        Path | None, typer.Option(metavar="FILE.png", help="Draw images as training sees them.")
    ] = None,
    policy: Annotated[str, typer.Option(help="The augmentation drawn: none, light, standard or strong.")] = "standard",
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Look at every image with the decoder of training; exit code 1 if something would spoil a result."""
    from kerazoo.recipes.recipe import make_recipe

    values: dict[str, Any] = {"model": {"name": "-"}, "data": {"path": data}, "augmentation": {"policy": policy}}
    override_flags(values, {"--manifest": manifest, "--group": group, "--validation": validation}, settings)
    recipe = make_recipe(values, settings or [])
    check_paths(recipe)
    start_tensorflow()
    from kerazoo.cli.tables import table
    from kerazoo.pipelines.checks.check import check as run_check
    from kerazoo.pipelines.checks.preview import show_augmented_images
    from kerazoo.pipelines.input.augmentation import augmentation_of
    from kerazoo.terminal import progress_bar

    with progress_bar() as progress:
        report = run_check(recipe.data, write=write, progress=progress)
    if as_json:
        print_json(report.to_json())
    else:
        table(report)
    if show_augmented is not None:
        augmentation = augmentation_of(recipe.augmentation)
        show_augmented_images(recipe.data, augmentation, report, show_augmented, seed=recipe.seed)
        say(f"drawn: {show_augmented}")
    if report.spoiled:
        raise typer.Exit(1)
