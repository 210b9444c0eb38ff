"""`run.json` and `data.json`, the records of a run: read with a check of what they say."""

from pathlib import Path
from typing import Any

from kerazoo.errors import RunError
from kerazoo.files import WAY_OUT, read_json

STATE = "run.json"
DATA = "data.json"
# what each says, of what type, and whether it must
FIELDS: dict[str, dict[str, tuple[type, bool]]] = {
    STATE: {
        "status": (str, True), "results": (dict, False), "seconds": (float, False), "resumed": (list, False),
        "recipe": (dict, False), "recipe_sha256": (str, False),
    },
    DATA: {"digest": (str, True), "class_names": (list, False), "counts": (dict, False)},
}  # fmt: skip
WORDS = {str: "text", dict: "an object", list: "a list", float: "a number"}


def read_state(folder: Path) -> dict[str, Any]:
    """What `run.json` says of the run in `folder`. Raises RunError if it is missing, broken, or of other types."""
    return _read(folder / STATE)


def read_data(folder: Path) -> dict[str, Any]:
    """What `data.json` says of the data of the run in `folder`. Raises RunError as `read_state` does."""
    return _read(folder / DATA)


def _read(path: Path) -> dict[str, Any]:
    values = read_json(path)
    for key, (kind, required) in FIELDS[path.name].items():
        if key not in values and required:
            raise RunError(f"{path} does not say {key!r}; {WAY_OUT}")
        known = (int, float) if kind is float else kind
        if key in values and (not isinstance(values[key], known) or isinstance(values[key], bool)):
            raise RunError(f"{path}: {key!r} must be {WORDS[kind]}, got {str(values[key])[:50]!r}; {WAY_OUT}")
    return values
