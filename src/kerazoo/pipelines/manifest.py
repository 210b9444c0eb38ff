"""The manifest: what a check found, kept beside the data. Training reads it and leaves out what is named there.

`kerazoo-manifest.json` in an image folder, `FILE.kerazoo-manifest.json` beside a file: {"files": {key: [sha256, bytes,
time of change in ns]}, "excluded": {key: why}, "findings": [...], "decoder": ..., "source": ...}. It is made to be read
and edited: taking a line out of "excluded" keeps that picture.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kerazoo.errors import DataError, RunError
from kerazoo.models.stored import read_json, sha256, write_json
from kerazoo.pipelines.caches import cache_folder
from kerazoo.pipelines.examples import TFDS, Examples

NAME = "kerazoo-manifest.json"
IGNORED = "none"


def manifest_path(source: str, setting: str | None = None) -> Path:
    """Where the manifest of `source` is, or would be; `setting` names another place."""
    if setting is not None:
        return Path(setting).expanduser()
    if source.startswith(TFDS):
        return cache_folder("manifests") / f"{source.removeprefix(TFDS).replace('/', '-')}.json"
    path = Path(source)
    return path / NAME if path.is_dir() else path.with_name(f"{path.name}.{NAME}")


def write_manifest(
    path: Path, examples: Examples, stamps: Sequence[tuple[str, int, int]], excluded: Mapping[str, str],
    findings: Iterable[Mapping[str, Any]], decoder: str,
) -> None:  # fmt: skip
    """Write what a check found of `examples`, all of them; `stamps` are (sha256, bytes, time of change) of each."""
    if examples.paths is None:
        stamps = [_stamp_of(Path(examples.source))]
    keys = _file_keys(examples)
    values = {
        "decoder": decoder, "source": examples.source, "excluded": dict(excluded), "findings": list(findings),
        "files": {key: list(stamp) for key, stamp in zip(keys, stamps, strict=True)},
    }  # fmt: skip
    try:
        write_json(path, values)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror}; name another place by --manifest PATH, "
            "and the same place in training by --set data.manifest=PATH"
        ) from error


def follow(examples: Examples, setting: str | None) -> Examples:
    """`examples` without what their manifest excludes; as they are where there is no manifest, or it is ignored.

    Raises DataError where files came, went or changed since the manifest was written.
    """
    if setting == IGNORED:
        return examples
    path = manifest_path(examples.source, setting)
    if not path.is_file():
        if setting is None:
            return examples
        raise DataError(f"there is no manifest {path}; write it by `kerazoo check {examples.source} --write`")
    files, excluded = _read(path)
    _check_unchanged(examples, files, path)
    keep = np.array([key not in excluded for key in examples.keys], bool)
    if not keep.any():
        raise DataError(f"{path} excludes every picture of {examples.source}")
    known = None if examples.paths is None else tuple(files[key][0] for key in examples.keys)
    content = json.dumps([{key: stamp[0] for key, stamp in files.items()}, excluded], sort_keys=True)
    followed = replace(
        examples, known_hashes=known, manifest=hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
    ).take(np.flatnonzero(keep))
    here = set(examples.keys)
    left_out = {**examples.left_out, **{key: why for key, why in excluded.items() if key in here}}
    return replace(followed, left_out=left_out)


def decoder_of(source: str, setting: str | None) -> str | None:
    """The decoder that the manifest of `source` was made with."""
    path = manifest_path(source, setting)
    return read_json(path).get("decoder") if path.is_file() else None


def _read(path: Path) -> tuple[dict[str, list[Any]], dict[str, str]]:
    try:
        values = read_json(path)
        files, excluded = values["files"], values["excluded"]
        if not all(len(stamp) == 3 for stamp in files.values()) or not isinstance(excluded, dict):
            raise TypeError("files must hold [sha256, bytes, time], excluded must be an object")
    except (RunError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no manifest: {error}; write it anew by `kerazoo check --write`") from error
    return files, excluded


def _file_keys(examples: Examples) -> tuple[str, ...]:
    return examples.keys if examples.paths is not None else (Path(examples.source).name,)


def _check_unchanged(examples: Examples, files: Mapping[str, Sequence[Any]], manifest: Path) -> None:
    keys = _file_keys(examples)
    paths = examples.paths if examples.paths is not None else (examples.source,)
    here = set(keys)
    changed = {
        "came": [key for key in keys if key not in files],
        "went": [key for key in files if key not in here],
        "changed": [k for k, p in zip(keys, paths, strict=True) if k in files and _differs(Path(p), files[k])],
    }
    if any(changed.values()):
        words = "; ".join(f"{len(keys)} {what} ({_first(keys)})" for what, keys in changed.items() if keys)
        raise DataError(
            f"{examples.source} is not as it was when {manifest.name} was written: {words}; "
            f"check it again by `kerazoo check {examples.source} --write`"
        )


def _first(keys: Sequence[str]) -> str:
    return keys[0] if keys[0].isprintable() else repr(keys[0])


def _stamp_of(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return sha256(path), status.st_size, status.st_mtime_ns


def _differs(path: Path, stamp: Sequence[Any]) -> bool:
    """Whether a file is not the one that `stamp` was taken of: by size and time, and where these differ by content."""
    try:
        status = path.stat()
        if [status.st_size, status.st_mtime_ns] == list(stamp[1:]):
            return False
        return bool(status.st_size != stamp[1] or sha256(path) != stamp[0])
    except OSError:
        return bool(stamp[0])  # what could not be read then need not be readable now
