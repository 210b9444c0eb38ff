"""The commands that look into a run's network: grad-cam, feature-maps."""

from pathlib import Path
from typing import Annotated

import typer

from kerazoo import api
from kerazoo.cli.options import RUN, names
from kerazoo.cli.output import Json, print_json, print_text, say


def grad_cam(
    run: Annotated[str, typer.Argument(help=RUN)],
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of them.")],
    label: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="The class. [default: the most probable]")
    ] = None,
    layer: Annotated[
        str | None, typer.Option("--layer", metavar="NAME", help="The layer. [default: the last feature maps]")
    ] = None,
    method: Annotated[str, typer.Option("--method", help="grad-cam or grad-cam++.")] = "grad-cam",
    output: Annotated[Path, typer.Option("--output", metavar="FOLDER", help="The folder of the pictures.")] = Path(
        "grad-cam"
    ),
    as_json: Json = False,
) -> None:
    """Draw where a run's network looks in images."""
    pictures = []
    for looked in api.draw_grad_cam(run, images, output=output, label=label, layer=layer, method=method):
        pictures.append(looked)
        if not as_json:
            print_text(looked.line())
    if as_json:
        print_json({"run": run, "pictures": [looked.to_json() for looked in pictures]})
    bad = sum(bool(looked.error) for looked in pictures)
    if bad:
        say(f"kerazoo: {bad:,} of {len(pictures):,} files have no picture; their lines say why")
        raise typer.Exit(1)


def feature_maps(
    run: Annotated[str, typer.Argument(help=RUN)],
    image: Annotated[Path, typer.Argument(help="An image file.")],
    layers: Annotated[
        str | None,
        typer.Option("--layers", metavar="NAMES", help="Names with commas. [default: the last at each size]"),
    ] = None,
    output: Annotated[Path, typer.Option("--output", metavar="FOLDER", help="The folder of the sheets.")] = Path(
        "feature-maps"
    ),
    as_json: Json = False,
) -> None:
    """Draw what the layers of a run's network make of an image, the first filters, and attention."""
    chosen = None if layers is None else names(layers)
    files = api.draw_feature_maps(run, image, output=output, layers=chosen)
    if as_json:
        print_json({"run": run, "image": str(image), "pictures": [str(file) for file in files]})
        return
    for file in files:
        print_text(str(file))
