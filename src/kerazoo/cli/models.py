"""The command that lists the zoo: models."""

from typing import Annotated

import typer

from kerazoo import api
from kerazoo.cli.output import Json, print_json
from kerazoo.terminal import format_macs


def models(
    filter: Annotated[str, typer.Option(help="Show only names that contain this text.")] = "", as_json: Json = False
) -> None:
    """List the networks and the pretrained backbones: size, parameters, MACs, published accuracy, license, weights.

    MACs are multiply-accumulate operations for one image of this size, without the head of a backbone; twice as many
    FLOPs. The accuracy is top-1 on ImageNet as published for the weights, in percent.

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
        macs = "-" if row.macs is None else format_macs(row.macs)
        accuracy = "-" if row.top1 is None else f"{row.top1:.1f} %"
        license = row.license or "-"
        weights = ", ".join(row.weights) or "-"
        print(
            f"{row.name:<{width}}  {size:>9}  {parameters:>11}  {macs:>11}  {accuracy:>6}  {license:<10}  "
            f"{weights:<8}  {row.summary}"
        )
    if not filter:
        print(
            f"{'hub:PRESET':<{width}}  one of {len(api.list_models('hub:'))} presets of keras-hub (`kerazoo models "
            "--filter hub:`), a folder (hub:./FOLDER) or a repository (hub:hf://USER/NAME), with pip install "
            "'kerazoo[hub]'"
        )
