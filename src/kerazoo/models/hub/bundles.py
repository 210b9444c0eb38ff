"""Bundles of presets: one tar file with the files of presets, to copy to a machine without a network.

Its first member, `kerazoo-presets.json`, lists the others, `presets/NUMBER/FILE`, with their sizes and hashes. The same
files give the same bytes.
"""

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kerazoo.caches import cache_folder
from kerazoo.errors import InputError, WeightsError
from kerazoo.files import replacing
from kerazoo.models.hub import presets
from kerazoo.models.weights.http import check_room

INDEX, VERSION = "kerazoo-presets.json", 1
MAX_INDEX = 1 << 20  # bytes
MOST = 200  # files of a preset
CHUNK = 1 << 20  # bytes read at a time


def write_presets(output: Path, found: Sequence[tuple[str, Path, str]]) -> list[dict[str, Any]]:
    """Write (preset, its folder, its license) each into the bundle `output`. Returns the rows of its index.

    Raises WeightsError if `output` cannot be written; then nothing is left behind.
    """
    rows: list[dict[str, Any]] = [
        {
            "preset": preset, "license": license, "source": presets.source_of(preset),
            "files": {name: list(facts) for name, facts in presets.check_files(preset, folder).items()},
        }
        for preset, folder, license in found
    ]  # fmt: skip
    index = json.dumps({"kerazoo_presets": VERSION, "presets": rows}, indent=1).encode() + b"\n"
    try:
        check_room(output.absolute().parent, sum(_size(row) for row in rows), output.name)
        with replacing(output) as temporary, tarfile.open(temporary, "w:", format=tarfile.PAX_FORMAT) as tar:
            tar.addfile(_member(INDEX, len(index)), io.BytesIO(index))
            for number, (row, (_, folder, _)) in enumerate(zip(rows, found, strict=True)):
                for name, (size, _) in row["files"].items():
                    with (folder / name).open("rb") as opened:
                        tar.addfile(_member(f"presets/{number}/{name}", size), opened)
    except OSError as error:
        raise WeightsError(f"{output} cannot be written: {error.strerror}; use another --output") from error
    return rows


def is_bundle(path: Path) -> bool:
    """Whether the file at `path` begins as a bundle of presets does."""
    try:
        with path.open("rb") as file:
            return file.read(len(INDEX)) == INDEX.encode()
    except OSError:
        return False


def unpack_presets(bundle: Path) -> list[tuple[str, Path]]:
    """Put every preset of `bundle` into the cache: (preset, its folder) each.

    If a file differs from the index, or if there is anything else in it, nothing is put into the cache. Raises
    WeightsError.
    """
    root = cache_folder(presets.FOLDER)
    making = root / f"{os.getpid()}.tmp"
    shutil.rmtree(making, ignore_errors=True)
    try:
        with tarfile.open(bundle, "r:") as tar:
            members = iter(tar)
            rows = _index(bundle, tar, next(members, None))
            check_room(root, sum(_size(row) for row in rows), bundle.name)
            left = {
                f"presets/{number}/{name}": (making / str(number) / name, facts)
                for number, row in enumerate(rows)
                for name, facts in row["files"].items()
            }
            for member in members:
                path, (size, digest) = left.pop(member.name, (None, (-1, "")))
                if path is None or not member.isreg() or member.size != size:
                    raise WeightsError(
                        f"{bundle} contains {member.name!r}, which differs from its index; nothing was kept"
                    )
                _extract(bundle, tar, member, path, digest)
        if left:
            raise WeightsError(f"{bundle} is not complete: {min(left)} is missing; copy it again")
        placed = []
        for number, row in enumerate(rows):
            folder = presets.unpacked_folder(row["preset"])
            shutil.rmtree(folder, ignore_errors=True)
            (making / str(number)).replace(folder)
            presets.write_record(row["preset"], folder)
            placed.append((row["preset"], folder))
        return placed
    except tarfile.TarError as error:
        raise WeightsError(f"{bundle} is not a complete bundle ({error}); copy it again") from error
    except OSError as error:
        raise WeightsError(
            f"{bundle} cannot be unpacked into {root}: {error.strerror}; free some disk space"
        ) from error
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)  # without user and time, so that the bytes depend only on the files
    member.size = size
    member.mode = 0o644
    return member


def _size(row: dict[str, Any]) -> int:
    return sum(size for size, _ in row["files"].values())


def _index(bundle: Path, tar: tarfile.TarFile, member: tarfile.TarInfo | None) -> list[dict[str, Any]]:
    """The rows of the index, checked: names of presets that can be fetched, and plain names of files."""
    if member is None or member.name != INDEX or not member.isreg() or member.size > MAX_INDEX:
        raise WeightsError(f"{bundle} must be a file that `kerazoo weights bundle` made: it has no {INDEX}")
    opened = tar.extractfile(member)
    assert opened is not None  # a regular file
    try:
        values = json.loads(opened.read())
        if values["kerazoo_presets"] != VERSION or not values["presets"]:
            raise WeightsError(f"{bundle} has version {values['kerazoo_presets']!r}; this kerazoo reads only {VERSION}")
        rows = []
        for row in values["presets"]:
            preset = str(row["preset"])
            if presets.is_folder(preset):
                raise WeightsError(f"{bundle} contains {preset!r:.100}, which is not the name of a preset")
            presets.check_preset(preset)
            files = {str(name): (int(size), str(digest)) for name, (size, digest) in row["files"].items()}
            for name in files:
                if not any(Path(name).match(pattern) for pattern in presets.FILES) or Path(name).name != name:
                    raise WeightsError(f"{bundle} contains {name!r:.100}, which is not a file of a preset")
            if len(files) > MOST:
                raise WeightsError(f"{bundle} contains more than {MOST} files of {preset}")
            rows.append({"preset": preset, "files": files})
    except InputError as error:
        raise WeightsError(str(error)) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"the index of {bundle} cannot be read ({error!r:.200}); copy the bundle again") from error
    return rows


def _extract(bundle: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, expected: str) -> None:
    opened = tar.extractfile(member)
    assert opened is not None  # a regular file
    digest = hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        while block := opened.read(CHUNK):
            digest.update(block)
            file.write(block)
    if digest.hexdigest() != expected:
        raise WeightsError(
            f"{bundle}: the sha256 of {member.name} must be {expected}, got {digest.hexdigest()}; copy the bundle again"
        )
