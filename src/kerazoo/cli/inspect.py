"""The command that shows a model's anatomy: inspect."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from kerazoo import api
from kerazoo.cli.output import Json, print_json
from kerazoo.cli.tables import anatomy_table, chain_table, layer_lines
from kerazoo.errors import InputError

SUBJECT = "A name from `kerazoo models`, a run, or a file: .json made by model.to_json(), or .keras."
SIDES = re.compile(r"\d{1,5}(x\d{1,5}){0,2}")


def sides(text: str) -> tuple[int, ...]:
    """The value of --input-size: "224", "224x160" or "224x160x3"."""
    if not SIDES.fullmatch(text):
        raise InputError(f"--input-size must be as 224, 224x160 or 224x160x3, got {text!r:.40}")
    numbers = tuple(map(int, text.split("x")))
    return numbers * 2 if len(numbers) == 1 else numbers


def position(text: str) -> tuple[int, int]:
    """The value of --unit: "3,5"."""
    if not re.fullmatch(r"\d{1,5},\d{1,5}", text):
        raise InputError(f"--unit must be ROW,COLUMN, such as 3,5, got {text!r:.40}")
    row, column = map(int, text.split(","))
    return row, column


def inspect(
    model: Annotated[str | None, typer.Argument(help=SUBJECT)] = None,
    input_size: Annotated[
        str | None, typer.Option("--input-size", metavar="HxW", help="Height and width of the image, in pixels.")
    ] = None,
    layer: Annotated[str | None, typer.Option("--layer", metavar="NAME", help="Show one layer, or draw its.")] = None,
    image: Annotated[
        Path | None, typer.Option("--image", help="Draw what a position sees of this image, into --output.")
    ] = None,
    unit: Annotated[
        str | None, typer.Option("--unit", metavar="ROW,COLUMN", help="The position to draw. [default: the middle]")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", metavar="PNG", help="The picture to write.")] = None,
    compare: Annotated[
        str | None, typer.Option("--compare", metavar="CHAINS", help="Compare convolutions: 3x3+3x3,1x1+3x3+1x1.")
    ] = None,
    channels: Annotated[int, typer.Option("--channels", min=1, help="With --compare: channels in and out.")] = 256,
    as_json: Json = False,
) -> None:
    """Show the anatomy of a model: for each layer its size, parameters, MACs, memory and receptive field.

    A MAC is a multiply-accumulate operation for one image, two FLOPs. The receptive field is the number of pixels that
    a position can depend on; + marks a layer that also knows the whole image by a factor (squeeze and excitation).
    """
    if (model is None) == (compare is None):
        raise InputError("`kerazoo inspect` needs either a model or --compare CHAINS")
    given = {"--image": image, "--unit": unit, "--output": output, "--layer": layer}
    unused = [name for name, value in given.items() if value is not None and (compare is not None or image is None)]
    if compare is None and "--layer" in unused:
        unused.remove("--layer")
    if unused:
        raise InputError(f"{unused[0]} needs {'a model' if compare is not None else '--image IMAGE'}; leave it out")
    size = None if input_size is None else sides(input_size)
    if compare is not None:
        if size is not None and len(set(size[:2])) > 1:
            raise InputError(f"--input-size must be square with --compare, got {input_size}")
        side = {} if size is None else {"size": size[0]}
        chains = api.compare_convolutions(compare, channels=channels, **side)
        if as_json:
            print_json({"chains": [chain.to_json() for chain in chains]})
        else:
            chain_table(chains)
        return
    assert model is not None
    words: dict[str, Any] = {"input_size": size}
    if image is not None:
        if output is None:
            raise InputError("--image needs --output PICTURE.png")
        place = None if unit is None else position(unit)
        drawn = api.draw_receptive_field(model, image, output, layer=layer, unit=place, **words)
        if as_json:
            print_json(drawn.to_json())
        else:
            print(drawn.line())
        return
    anatomy = api.anatomy(model, **words)
    if as_json:
        print_json(anatomy.to_json() if layer is None else anatomy.layer(layer).to_json())
    elif layer is None:
        anatomy_table(anatomy)
    else:
        layer_lines(anatomy.layer(layer))
