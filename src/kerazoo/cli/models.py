"""The command that lists the zoo: models."""

from typing import Annotated

import typer

from kerazoo import api
from kerazoo.cli.output import Json, print_json


def models(
    filter: Annotated[str, typer.Option(help="Show only names that contain this text.")] = "", as_json: Json = False
) -> None:
    """List the networks and the pretrained backbones, with size, parameters and weights.

    Networks of other packages come last, with the package that declares them. `--filter hub:` lists the presets of
    keras-hub instead.
    """
    rows = [api.describe(name) for name in api.list_models(filter)]
    if as_json:
        print_json({"models": [row.to_json() for row in rows]})
        return
    width = max((len(row.name) for row in rows), default=0)
    for row in rows:
        size = "x".join(map(str, row.input_shape or "-"))
        parameters = "-" if row.parameters is None else f"{row.parameters:,}"
        weights = ", ".join(row.weights) or "-"
        print(f"{row.name:<{width}}  {size:>9}  {parameters:>11}  {weights:<8}  {row.summary}")
    if not filter:
        print(
            f"hub:PRESET is one of {len(api.list_models('hub:'))} presets of keras-hub (`kerazoo models --filter "
            "hub:`), a folder (hub:./FOLDER) or a repository (hub:hf://USER/NAME), with pip install 'kerazoo[hub]'"
        )
