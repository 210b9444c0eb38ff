"""Weights bundles: a file with published weights, made on a machine with a network, to copy to one without.

A bundle is a plain tar. Its first member, `kerazoo-weights.json`, lists the other members, `weights/FILE`, with their
sizes and hashes. The same weights give the same bytes.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from kerazoo.caches import cache_folder
from kerazoo.errors import WeightsError
from kerazoo.files import file_hash, replacing, sha256
from kerazoo.models.weights.download import FOLDER, alone, put_in_place
from kerazoo.models.weights.http import check_room, no_room
from kerazoo.models.weights.published import CHUNK, Published, file_problem, manifest

INDEX, VERSION = "kerazoo-weights.json", 1
MAX_INDEX = 1 << 20  # bytes


def write_bundle(output: Path, files: Sequence[tuple[Published, Path]]) -> list[dict[str, Any]]:
    """Write `files`, each a published entry and its checked file, into the bundle `output`. Returns its index rows.

    Raises WeightsError if `output` exists or cannot be written; then nothing is left behind.
    """
    check_output(output)
    ordered = sorted({entry.file: (entry, path) for entry, path in files}.items())
    rows: list[dict[str, Any]] = [
        {
            "name": entry.name, "file": file, "size": path.stat().st_size, "sha256": sha256(path),
            "md5": file_hash(path, "md5"), "license": entry.license, "url": entry.url,
        }
        for file, (entry, path) in ordered
    ]  # fmt: skip
    index = json.dumps({"kerazoo_weights": VERSION, "weights": rows}, indent=1).encode() + b"\n"
    try:
        check_room(output.parent, sum(row["size"] for row in rows), output.name)
        with (
            replacing(output) as temporary,
            tarfile.open(temporary, "w:", format=tarfile.PAX_FORMAT) as tar,
        ):
            tar.addfile(_member(INDEX, len(index)), io.BytesIO(index))
            for row, (_, (_, path)) in zip(rows, ordered, strict=True):
                with path.open("rb") as opened:
                    tar.addfile(_member(f"weights/{row['file']}", row["size"]), opened)
    except OSError as error:
        raise WeightsError(f"{output} cannot be written: {error.strerror}; use another --output") from error
    return rows


def check_output(output: Path) -> None:
    """Raise WeightsError if the file `output` exists, or cannot be created."""
    if output.exists():
        raise WeightsError(f"{output} exists; use another --output, or remove it")
    if not output.absolute().parent.is_dir():
        raise WeightsError(f"--output {output}: there is no folder {output.parent}; create it, or use another file")


def unpack_bundle(bundle: Path) -> list[tuple[Published, Path]]:
    """Put every file of `bundle` into the cache, and return each entry with its path.

    First, all files are compared with the bundle's index and with the hashes that Keras publishes. If one differs, or
    if the bundle contains anything else, nothing is put into the cache. Raises WeightsError.
    """
    folder = cache_folder(FOLDER)
    parts: list[tuple[Published, Path]] = []
    with ExitStack() as stack:
        try:
            tar = stack.enter_context(_opened(bundle))
            members = iter(tar)
            rows = _index(bundle, tar, next(members, None))
            check_room(folder, sum(row["size"] for _, row in rows.values()), bundle.name)
            for entry, _ in rows.values():
                stack.enter_context(alone(folder, entry))
            for member, entry, row in _expected(bundle, members, rows):
                part = folder / f"{entry.file}.{os.getpid()}.tmp"
                stack.callback(part.unlink, missing_ok=True)
                parts.append((entry, part))
                _extract(bundle, tar, member, part, row)
                problem = file_problem(part, entry)
                if problem:
                    raise WeightsError(f"{bundle}: {entry.file} is not the published file: {problem}; nothing was kept")
        except tarfile.TarError as error:
            raise WeightsError(f"{bundle} is not a complete weights bundle ({error}); copy it again") from error
        except OSError as error:
            raise WeightsError(
                f"{bundle} cannot be unpacked into {folder}: {error.strerror}; free some disk space"
            ) from error
        missing = sorted(rows.keys() - {entry.file for entry, _ in parts})
        if missing:
            raise WeightsError(f"{bundle} is not complete: {missing[0]} is missing; copy it again")
        return [(entry, put_in_place(part, entry)) for entry, part in parts]


def _opened(bundle: Path) -> tarfile.TarFile:
    if bundle.exists() and not bundle.is_file() and not bundle.is_dir():
        raise WeightsError(f"{bundle} must be a regular file; give a file that `kerazoo weights bundle` made")
    try:
        return tarfile.open(bundle, "r:")
    except FileNotFoundError as error:
        raise WeightsError(f"there is no bundle {bundle}") from error
    except OSError as error:
        raise WeightsError(
            f"{bundle} cannot be read: {error.strerror}; give a file that `kerazoo weights bundle` made"
        ) from error


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)  # without user and time, so that the bytes depend only on the weights
    member.size = size
    member.mode = 0o644
    return member


def _index(
    bundle: Path, tar: tarfile.TarFile, member: tarfile.TarInfo | None
) -> dict[str, tuple[Published, dict[str, Any]]]:
    """File name -> the manifest's entry and the index's row."""
    if member is None or member.name != INDEX or not member.isreg() or member.size > MAX_INDEX:
        raise WeightsError(
            f"{bundle} must be a file that `kerazoo weights bundle` made: it does not begin with {INDEX}"
        )
    opened = tar.extractfile(member)
    assert opened is not None  # a regular file
    entries: dict[str, tuple[Published, dict[str, Any]]] = {}
    try:
        values = json.loads(opened.read())
        if values["kerazoo_weights"] != VERSION:
            raise WeightsError(
                f"{bundle} has version {values['kerazoo_weights']!r}, but this kerazoo reads only {VERSION}"
            )
        if not isinstance(values["weights"], list) or not values["weights"]:
            raise WeightsError(f"{bundle} contains no weights; make it again with `kerazoo weights bundle`")
        for row in values["weights"]:
            entry = manifest().get(row["name"])
            if entry is None or entry.file != row["file"]:
                raise WeightsError(f"{bundle} contains {row['file']!r}, which is not published for {row['name']!r}")
            entries[entry.file] = (entry, {"size": int(row["size"]), "sha256": str(row["sha256"])})
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"the index of {bundle} cannot be read ({error!r}); copy the bundle again") from error
    return entries


def _expected(
    bundle: Path, members: Iterator[tarfile.TarInfo], rows: dict[str, tuple[Published, dict[str, Any]]]
) -> Iterator[tuple[tarfile.TarInfo, Published, dict[str, Any]]]:
    """The members that the index lists, each once. Raises WeightsError for a link, or a wrong path or size."""
    left = {f"weights/{file}": value for file, value in rows.items()}
    for member in members:
        entry, row = left.pop(member.name, (None, {}))
        if entry is None or not member.isreg() or member.size != row["size"]:
            raise WeightsError(f"{bundle} contains {member.name!r}, which differs from its index; nothing was kept")
        yield member, entry, row


def _extract(bundle: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, part: Path, row: dict[str, Any]) -> None:
    opened = tar.extractfile(member)
    digest = hashlib.sha256()
    assert opened is not None  # a regular file
    try:
        with part.open("xb") as file:
            while block := opened.read(CHUNK):
                digest.update(block)
                file.write(block)
    except OSError as error:
        raise no_room(error, part) from error
    if digest.hexdigest() != row["sha256"]:
        raise WeightsError(
            f"{bundle}: the sha256 of {member.name} must be {row['sha256']}, got {digest.hexdigest()}; copy the bundle "
            "again"
        )
