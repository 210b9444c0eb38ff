"""The weights that keras.applications publishes: their addresses, their properties, and the check of a copy.

`published.json` has the entries and, in its first lines, their sources. Reading it imports nothing heavy. Files with a
published hash are checked by it. For the few without one, only the structure can be checked: complete HDF5, in the
format of the published files, with as many numbers as the network has parameters.
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
    """A published file. `md5` and `sha256` are in hex, or "" if unknown; `size` is in bytes, or None if unknown.

    `top1` and `top5` are in percent of ImageNet's validation images, or None if no source states them. `license` is an
    SPDX name, or "" if none is stated; `license_source` is its source.
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
        """How a copy is checked: "sha256", "md5", or "structure" if no hash is known."""
        return "sha256" if self.sha256 else "md5" if self.md5 else "structure"

    @property
    def bytes(self) -> int:
        """The size; if it is not known exactly, 4 bytes for each parameter, which is a little too small."""
        return 4 * self.parameters if self.size is None else self.size


@functools.cache
def manifest() -> Mapping[str, Published]:
    """The published files by the names of their backbones, in the order of the registry."""
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
    """The published file for the backbone `name`. Raises WeightsError if there is none, ModelError for a wrong name."""
    from kerazoo.models.registry import find

    entry = find(name)
    if name not in manifest():
        shipped = f"; {', '.join(entry.weights)} ships with it" if entry.weights else ""
        raise WeightsError(
            f"no ImageNet weights are published for {name}{shipped}; `kerazoo weights list` lists the networks that "
            "have them"
        )
    return manifest()[name]


def file_problem(path: Path, entry: Published) -> str:
    """Why `path` is not the file `entry`, in words with both hashes; "" if it is. Raises OSError."""
    if entry.checked_by == "structure":
        return _structure(path, entry)
    expected = entry.sha256 or entry.md5
    digest = file_hash(path, entry.checked_by)
    return "" if digest == expected else f"its {entry.checked_by} is {digest}, not {expected}"


def _structure(path: Path, entry: Published) -> str:
    path.open("rb").close()  # raise OSError if the file cannot be read, which is not damage
    try:
        content = look_into(path)
    except DamagedError as error:
        return f"it is not a complete HDF5 file ({error})"
    if not content.legacy:
        return "it is HDF5, but not in the format of the published weights"
    if content.numbers != entry.parameters:
        return f"it has {content.numbers:,} numbers, not {entry.parameters:,}"
    return ""
