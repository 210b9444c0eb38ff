"""What the writers for trackers share: the package that must be installed, and what is kept to go on with a run."""

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from kerazoo.errors import InputError
from kerazoo.files import write_whole


def require(package: str, extra: str) -> Any:
    """The module `package`. Raises InputError, which names the `extra` of kerazoo, if it is not installed."""
    check_installed(package.partition(".")[0], extra)
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(f"{package} cannot be imported: {str(error).splitlines()[0]}; install it again") from error


def check_installed(package: str, extra: str) -> None:
    """Raise InputError as `require` does, without an import."""
    if importlib.util.find_spec(package) is None:
        raise InputError(f"{package} is not installed; pip install 'kerazoo[{extra}]'")


class KeptRun:
    """Which run of a tracker a folder belongs to: JSON values in a file, so that a resumed training goes on with it."""

    def __init__(self, folder: Path | None, tracker: str) -> None:
        self.path = None if folder is None else folder / f"{tracker}-run.json"

    def read(self) -> dict[str, str]:
        """What was written; {} where there is nothing, or nothing that can be read."""
        try:
            values = json.loads(self.path.read_text(encoding="utf-8")) if self.path else {}
        except (OSError, ValueError):
            return {}
        return {str(name): str(value) for name, value in values.items()} if isinstance(values, dict) else {}

    def write(self, **values: str) -> None:
        """Keep `values`. Raises OSError."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, json.dumps(values) + "\n")
