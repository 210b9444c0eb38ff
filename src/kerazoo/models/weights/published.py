"""The weights that keras.applications publishes: where each file lies, what it is, and whether a copy is that file.

`published.json` holds the entries and, in its first lines, the sources of what they say. Reading it imports nothing
heavy. Files with a hash are checked by it; for the few that Keras gives none for, only the structure can be: HDF5 of
full length, in the format of the published files, with as many numbers as the network has parameters.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kerazoo.errors import WeightsError
from kerazoo.files import DamagedError, file_hash
from kerazoo.models.keras_applications import BACKBONES
from kerazoo.models.weights.weights_file import look_into

MANIFEST = Path(__file__).with_name("published.json")
CHUNK = 1 << 20  # bytes read at a time


@dataclass(frozen=True)
class Published:
    """One file: `md5` and `sha256` are in hex, "" where unknown; `size` is in bytes, None where
    it is not known exactly.

    `top1` and `top5` are percent of ImageNet's validation images, None where no source states them. `license` is an
    SPDX name, "" where none is stated; `license_source` says by whom it is stated.
    """

    name: str
    file: str
    url: str
    parameters: int
    md5: str = ""
    sha256: str = ""
    size: int | None = None
    top1: float | None = None
    top5: float | None = None
    accuracy_source: str = ""
    license: str = ""
    license_source: str = ""
    training_data: str = ""

    @property
    def checked_by(self) -> str:
        """What a copy is checked by: "sha256", "md5", or "structure" where no hash is known."""
        return "sha256" if self.sha256 else "md5" if self.md5 else "structure"

    @property
    def bytes(self) -> int:
        """Its size; where that is not known exactly, 4 bytes for each parameter, a little less than it is."""
        return 4 * self.parameters if self.size is None else self.size


@functools.cache
def manifest() -> Mapping[str, Published]:
    """Every published file, by the name of its backbone, in the order of the registry."""
    values = json.loads(MANIFEST.read_text(encoding="utf-8"))
    entries = {}
    for backbone in BACKBONES:
        row = values["weights"][backbone.name]
        row["accuracy_source"] = values["accuracy_sources"][row["accuracy_source"]]
        row["license_source"] = values["license_sources"][row["license_source"]]
        row["training_data"] = values["training_data"][row["training_data"]]
        row |= {key: row[key] or "" for key in ("md5", "sha256", "license")}
        entries[backbone.name] = Published(backbone.name, parameters=backbone.parameters, **row)
    return entries


def published(name: str) -> Published:
    """What is published for the backbone `name`. Raises WeightsError where nothing is, ModelError for no such name."""
    from kerazoo.models.registry import find

    entry = find(name)
    if name not in manifest():
        has = f"; {', '.join(entry.weights)} ships with it" if entry.weights else ""
        raise WeightsError(
            f"no ImageNet weights are published for {name}{has}; `kerazoo weights list` names the networks with them"
        )
    return manifest()[name]


def file_problem(path: Path, entry: Published) -> str:
    """Why `path` is not the file `entry`, in words that give both hashes; "" where it is. Raises OSError."""
    if entry.checked_by == "structure":
        return _structure(path, entry)
    expected = entry.sha256 or entry.md5
    found = file_hash(path, entry.checked_by)
    return "" if found == expected else f"its {entry.checked_by} is {found}, not {expected}"


def _structure(path: Path, entry: Published) -> str:
    path.open("rb").close()  # what cannot be read is no damage
    try:
        found = look_into(path)
    except DamagedError as error:
        return f"it is not whole HDF5 ({error})"
    if not found.legacy:
        return "it is HDF5, but not in the format of the published weights"
    if found.numbers != entry.parameters:
        return f"it holds {found.numbers:,} numbers, not {entry.parameters:,}"
    return ""
