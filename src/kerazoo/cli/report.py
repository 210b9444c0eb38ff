"""The command `report`."""

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
