"""Write the passport of an export."""

from pathlib import Path
from typing import Any

from kerazoo.exports.layout import PASSPORT
from kerazoo.files import write_json


def write_passport(folder: Path, passport: dict[str, Any]) -> None:
    """Write `passport` into the export in `folder`, under a temporary name first. Raises OSError."""
    path = folder / PASSPORT
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, passport)
