"""The names of devices in a recipe."""

import re

from kerazoo.errors import RecipeError
from kerazoo.recipes.refusals import nearest

KINDS = ("auto", "cpu", "gpu", "mirrored", "mirrored:N", "multiworker", "tpu")


def parse_devices(name: str) -> tuple[str, int | None]:
    """("mirrored", 2) of "mirrored:2", ("auto", None) of "auto". Raises RecipeError."""
    match = re.fullmatch(r"mirrored:([1-9]\d{0,3})", name)
    if match:
        return "mirrored", int(match[1])
    if name not in KINDS or name == "mirrored:N":
        near = nearest(name.lower(), list(KINDS))
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise RecipeError(f"devices must be one of {', '.join(KINDS)}, got {name!r}{hint}")
    return name, None
