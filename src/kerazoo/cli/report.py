"""The commands `report` and `push`."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from kerazoo import api
from kerazoo.cli.options import RUN
from kerazoo.cli.output import Json, print_json, print_text, say


def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help=f"{RUN} Several are compared with the first.")],
    show: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    path: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to write. [default: in the folder of the run]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the report of a run, or the comparison of several, as one HTML file that needs nothing else."""
    written = api.report(runs, path=path)
    if as_json:
        print_json({"report": str(written)})
    else:
        print_text(str(written))
    if show and not webbrowser.open(written.absolute().as_uri()):
        say(f"kerazoo: no browser could be started; open {written} in one")


def push(
    export: Annotated[str, typer.Argument(help="An export: saved_models/NAME, or .../VERSION.")],
    to: Annotated[str, typer.Option("--to", metavar="hf://USER/NAME", help="The repository; a new one is made.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    as_json: Json = False,
) -> None:
    """Upload an export to the Hugging Face hub, with its model card."""
    address = api.push(export, to=to, private=private)
    if as_json:
        print_json({"export": export, "url": address})
    else:
        print_text(address)
