"""The commands for exports: export, verify."""

from typing import Annotated

import typer

from kerazoo import api
from kerazoo.cli.options import RUN
from kerazoo.cli.output import Json, print_json
from kerazoo.cli.tables import format_table

Images = Annotated[
    int | None, typer.Option("--images", help="Compare N validation images, spread evenly. [default: all]")
]


def export(
    run: Annotated[str, typer.Argument(help=RUN)],
    name: Annotated[str | None, typer.Option("--name", help="saved_models/NAME. [default: the run's name]")] = None,
    new_version: Annotated[bool, typer.Option("--new-version", help="Add a version if NAME exists.")] = False,
    images: Images = None,
    formats: Annotated[
        str, typer.Option("--format", help="More formats, with commas: onnx, litert, openvino, web, ...")
    ] = "saved_model",
    as_json: Json = False,
) -> None:
    """Export a run as a SavedModel that takes encoded images; it is kept only if it answers as the run did."""
    result = api.export(run, name=name, new_version=new_version, images=images, formats=formats)
    if as_json:
        others = {"formats": [row.to_json() for row in result.formats]} if result.formats else {}
        print_json({"export": str(result.folder), "gate": result.gate.to_json(), **others})
        return
    print(f"{result.folder}: {result.gate.line()}")
    format_table(result.formats)
    print(f"next: kerazoo predict {result.folder} IMAGE...")


def verify(
    export: Annotated[str, typer.Argument(help="An export: saved_models/NAME, or .../VERSION.")],
    run: Annotated[str, typer.Option("--run", help="The run that it was made from.")],
    images: Images = None,
    as_json: Json = False,
) -> None:
    """Compare an export with its run, as `kerazoo export` did. The exit code is 1 if the answers differ."""
    gate = api.verify(export, run, images=images)
    if as_json:
        print_json({"export": export, "gate": gate.to_json()})
        return
    print(f"{export}: {gate.line()}")
