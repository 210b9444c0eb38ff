"""The hashes of an export's files, which its passport has."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kerazoo.exports.formats.table import FORMATS, REFERENCE
from kerazoo.exports.layout import PASSPORT, SAVED_MODEL, VARIABLES
from kerazoo.files import sha256


def file_hashes(folder: Path) -> dict[str, str]:
    """{path in the export: sha256} of the graph, the weights and the files of other formats. Raises OSError."""
    folders = [(folder / VARIABLES).parent, (folder / REFERENCE).parent, *(folder / name for name in FORMATS)]
    inside = [path for part in folders for path in sorted(part.rglob("*")) if path.is_file()]
    files = [folder / SAVED_MODEL, *(path for path in inside if path.parent.name != "__pycache__")]
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def changed_file(folder: Path, passport: Mapping[str, Any]) -> str:
    """The name of a file of the export whose hash is not the one in its `passport`, or "". Raises OSError."""
    recorded = passport.get("files")
    hashes = file_hashes(folder)
    if not isinstance(recorded, dict):
        return PASSPORT
    return next((name for name in sorted({*hashes, *recorded}) if hashes.get(name) != recorded.get(name)), "")
