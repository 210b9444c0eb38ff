"""Read `run.json` and `data.json`, the records of a run, and check their fields."""

from pathlib import Path
from typing import Any

from kerazoo.errors import RunError
from kerazoo.files import WAY_OUT, read_json

STATE = "run.json"
DATA = "data.json"
# the fields of each file: name -> (type, whether it is required)
FIELDS: dict[str, dict[str, tuple[type, bool]]] = {
    STATE: {
        "status": (str, True), "results": (dict, False), "seconds": (float, False), "resumed": (list, False),
        "recipe": (dict, False), "recipe_sha256": (str, False), "preset": (dict, False),
    },
    DATA: {"digest": (str, True), "class_names": (list, False), "counts": (dict, False)},
}  # fmt: skip
WORDS = {str: "text", dict: "an object", list: "a list", float: "a number"}


def read_state(folder: Path) -> dict[str, Any]:
    """The fields of `run.json` in `folder`. Raises RunError if the file is missing or broken, or a type is wrong."""
    return _read(folder / STATE)


def read_data(folder: Path) -> dict[str, Any]:
    """The fields of `data.json` in `folder`. Raises RunError as `read_state` does."""
    return _read(folder / DATA)


def _read(path: Path) -> dict[str, Any]:
    values = read_json(path)
    for key, (kind, required) in FIELDS[path.name].items():
        if key not in values and required:
            raise RunError(f"{path} has no {key!r}; {WAY_OUT}")
        known = (int, float) if kind is float else kind
        if key in values and (not isinstance(values[key], known) or isinstance(values[key], bool)):
            raise RunError(f"{path}: {key!r} must be {WORDS[kind]}, got {str(values[key])[:50]!r}; {WAY_OUT}")
    return values
