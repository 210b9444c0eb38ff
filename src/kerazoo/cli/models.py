"""The command that lists the zoo: models."""

from typing import Annotated, Any

import typer

from kerazoo.cli.output import Json, print_json
from kerazoo.models import registry


def models(
    filter: Annotated[str, typer.Option(help="Show only names that contain this text.")] = "", as_json: Json = False
) -> None:
    """List the zoo: networks and pretrained backbones, with size, parameters and weights."""
    rows = [_row(registry.find(name)) for name in registry.list_models(filter)]
    if as_json:
        print_json({"models": rows})
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        size = "x".join(map(str, row["input_shape"]))
        weights = ", ".join(row["weights"]) or "-"
        print(f"{row['name']:<{width}}  {size:>9}  {row['parameters']:>11,}  {weights:<8}  {row['summary']}")


def _row(entry: Any) -> dict[str, Any]:
    return {
        "name": entry.name, "kind": "network" if isinstance(entry, registry.Network) else "backbone",
        "input_shape": entry.input_shape, "parameters": entry.parameters, "weights": entry.weights,
        "summary": entry.summary,
    }  # fmt: skip
