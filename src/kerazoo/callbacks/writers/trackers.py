"""What the writers for trackers share: the package that must be installed, and what is kept to go on with a run."""

import importlib
import json
from pathlib import Path
from typing import Any

from kerazoo.errors import InputError
from kerazoo.files import write_whole


def require(package: str) -> Any:
    """The module `package`. Raises InputError, which names the extra of kerazoo, where it is not installed."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise InputError(f"{package} is not installed; pip install 'kerazoo[{package}]'") from error
    except ImportError as error:
        raise InputError(f"{package} cannot be imported: {str(error).splitlines()[0]}; install it again") from error


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
