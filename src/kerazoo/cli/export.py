"""The command that exports a run: export."""

import json
from typing import Annotated

import typer

from kerazoo.cli.output import Json, print_json
from kerazoo.startup import start_tensorflow


def export(
    run: Annotated[str, typer.Argument(help="A run folder, or its name under runs/.")],
    name: Annotated[str | None, typer.Option("--name", help="saved_models/NAME. [default: the run's name]")] = None,
    new_version: Annotated[bool, typer.Option("--new-version", help="Add a version where NAME exists.")] = False,
    as_json: Json = False,
) -> None:
    """Export a run as a SavedModel that takes encoded images; it is kept only if it answers as the run did."""
    from kerazoo.runs.run import check_name, open_run

    opened = open_run(run)
    if name is not None:
        check_name(name, "export")
    start_tensorflow()
    from kerazoo.exports.export import export_run

    folder = export_run(opened, name=name, new_version=new_version)
    passport = json.loads((folder / "assets.extra/passport.json").read_text(encoding="utf-8"))
    if as_json:
        print_json({"export": str(folder), "gate": passport["gate"]})
        return
    gate = passport["gate"]
    compared = f"{gate['images']:,} {gate['split']} images"
    print(f"{folder}: answers {compared} as the run did (largest difference {gate['largest_difference']:.1g})")
    print(f"next: kerazoo predict {folder} IMAGE...")
