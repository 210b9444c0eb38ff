"""The files of a preset: a folder, named as such or fetched once by the libraries of Hugging Face and Kaggle.

    hub:./FOLDER            a folder, as `save_to_preset` writes it, or a copy of a Hugging Face repository
    hub:PRESET              one of keras-hub's own presets, on Kaggle
    hub:hf://USER/NAME      a repository of Hugging Face, in the format of Keras, timm or Transformers
    hub:kaggle://...        a model of Kaggle

The libraries have caches of their own, where the files stay. A record in kerazoo's cache has their sha256, which is
checked before they are read again.
"""

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kerazoo.caches import cache_folder, cache_path
from kerazoo.errors import KerazooError, ModelError, WeightsError
from kerazoo.files import read_json, sha256, write_json

PREFIX = "hub:"
FOLDER = "hub"
CONFIG = "config.json"
PART = r"\w[\w.-]*"  # of an address
TABLE = Path(__file__).with_name("presets.json")
FILES = (
    "*.json",
    "README.md",
    "LICENSE*",
    "model*.weights.h5",
    "*.safetensors",
)  # of a repository; others are not read


@functools.cache
def table() -> Mapping[str, tuple[str, str, int]]:
    """The image presets of keras-hub: name -> (class, address, number of parameters)."""
    values = json.loads(TABLE.read_text(encoding="utf-8"))["presets"]
    return {name: tuple(row) for name, row in values.items()}


def is_folder(preset: str) -> bool:
    """Whether `preset` is the path of a folder, and not a name or an address."""
    return "://" not in preset and (preset.startswith((".", "~")) or "/" in preset)


def stem_of(preset: str) -> str:
    """A short name for `preset`, made of letters, digits, dots, dashes and underscores."""
    parts = [part for part in preset.rstrip("/").split("/") if part]
    if preset.startswith("kaggle://") and len(parts) > 5:
        parts = parts[:5]  # without the version
    return re.sub(r"[^A-Za-z0-9._-]", "_", parts[-1] if parts else preset).strip(".") or "preset"


def check_preset(preset: str) -> None:
    """Raise ModelError if `preset` cannot be one. Nothing is fetched."""
    if is_folder(preset):
        if not (Path(preset).expanduser() / CONFIG).is_file():
            raise ModelError(
                f"hub:{preset} is not the folder of a preset: it has no {CONFIG}; keras-hub writes one with "
                "BACKBONE.save_to_preset(FOLDER)"
            )
    elif preset.startswith(("hf://", "kaggle://")):
        if not re.fullmatch(rf"hf://{PART}/{PART}|kaggle://{PART}/{PART}/keras/{PART}(/\d+)?", preset, re.ASCII):
            raise ModelError(
                f"hub:{preset} must be as hub:hf://USER/NAME or hub:kaggle://USER/MODEL/keras/PRESET[/VERSION]"
            )
    elif preset not in table():
        import difflib

        near = difflib.get_close_matches(preset.lower(), table(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(f'hub:{name}' for name in near)}? " if near else ""
        raise ModelError(
            f"keras-hub has no image preset {preset!r}: {hint}`kerazoo models --filter hub:` lists them; a folder is "
            "named as hub:./FOLDER"
        )


def source_of(preset: str) -> str:
    """The address of a preset, for people; "" for a folder."""
    if is_folder(preset):
        return ""
    handle = table()[preset][1] if preset in table() else preset
    if handle.startswith("hf://"):
        return f"https://huggingface.co/{handle.removeprefix('hf://')}"
    owner, model = handle.removeprefix("kaggle://").split("/")[:2]
    return f"https://www.kaggle.com/models/{owner}/{model}"


def find_preset(preset: str) -> Path | None:
    """The folder of `preset`, if it is on this machine and complete; None if it must be fetched."""
    check_preset(preset)
    if is_folder(preset):
        return Path(preset).expanduser().resolve()
    path = record_path(preset)
    if not path.is_file():
        return None
    try:
        record = read_json(path)
        folder = Path(record["folder"])
        whole = all((folder / name).stat().st_size == size for name, (size, _) in record["files"].items())
    except (KerazooError, OSError, KeyError, TypeError, ValueError):
        return None
    return folder if whole else None


def record_path(preset: str) -> Path:
    """The path of the record of a fetched preset."""
    digest = hashlib.sha256(preset.encode()).hexdigest()[:8]
    return cache_folder(FOLDER) / f"{stem_of(preset)}-{digest}.json"


def unpacked_folder(preset: str) -> Path:
    """The folder of a preset that comes from a bundle."""
    return cache_path(FOLDER) / record_path(preset).stem


def write_record(preset: str, folder: Path) -> None:
    """Record the sizes and hashes of the files in `folder`."""
    write_json(record_path(preset), {"preset": preset, "folder": str(folder), "files": files_of(folder)})


def files_of(folder: Path) -> dict[str, tuple[int, str]]:
    """The files in `folder` that kerazoo or keras-hub read: name -> (size, sha256)."""
    names = sorted({path.name for pattern in FILES for path in folder.glob(pattern) if path.is_file()})
    return {name: ((folder / name).stat().st_size, sha256(folder / name)) for name in names}


def check_files(preset: str, folder: Path) -> dict[str, tuple[int, str]]:
    """The files in `folder` with their hashes. Raises WeightsError if one is not as it was fetched."""
    files = files_of(folder)
    path = record_path(preset) if preset and not is_folder(preset) else None
    if path is None or not path.is_file():
        return files
    for name, (_, digest) in read_json(path)["files"].items():
        if files.get(name, (0, ""))[1] != digest:
            path.unlink(missing_ok=True)  # so that the next call fetches what is missing
            raise WeightsError(
                f"{folder / name} was changed after it was fetched: its sha256 must be {digest}; remove that file and "
                "run the same command again, which fetches it"
            )
    return files


def as_values(facts: Mapping[str, Any]) -> dict[str, Any]:
    """`facts` as plain JSON values: tuples become lists."""
    values: dict[str, Any] = json.loads(json.dumps(facts))
    return values
