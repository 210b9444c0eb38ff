"""The manifest: the result of a check, saved beside the data. Training reads it and leaves out the excluded images.

`kerazoo-manifest.json` in an image folder, `FILE.kerazoo-manifest.json` beside a file: {"files": {key: [sha256, bytes,
time of change in ns]}, "splits": {key: split}, "split_by": {...}, "labels": digest, "excluded": {key: why}, "findings":
[...], "decoder": ..., "source": ...}. Users may read and edit it: remove a line from "excluded" to keep that image.
Leaks depend on the splits, so training uses the splits that were checked.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kerazoo.caches import cache_folder
from kerazoo.errors import DataError, RunError
from kerazoo.files import read_json, sha256, write_json
from kerazoo.pipelines.data.examples import TFDS, Examples
from kerazoo.pipelines.data.file_names import one_line, readable
from kerazoo.recipes.parts import DataPart

NAME = "kerazoo-manifest.json"
IGNORED = "none"
HASH = re.compile("[0-9a-f]{64}")
KEPT_SPLITS = ("train", "val", "test")


def manifest_path(source: str, setting: str | None = None) -> Path:
    """The path of the manifest of `source`, which may not exist; `setting` is another path."""
    if setting is not None:
        return Path(setting).expanduser()
    if source.startswith(TFDS):
        return cache_folder("manifests") / f"{source.removeprefix(TFDS).replace('/', '-')}.json"
    path = Path(source)
    return path / NAME if path.is_dir() else path.with_name(f"{path.name}.{NAME}")


def write_manifest(
    path: Path, examples: Examples, stamps: Sequence[tuple[str, int, int]], excluded: Mapping[str, str],
    findings: Iterable[Mapping[str, Any]], decoder: str, splits: Mapping[str, str], part: DataPart,
) -> None:  # fmt: skip
    """Write the result of a check of all `examples`; `stamps` has (sha256, bytes, time of change) of each.

    `splits` has the split that the check used, for each key that can be used.
    """
    if examples.paths is None:
        stamps = [_stamp_of(Path(examples.source))]
    keys = _file_keys(examples)
    values = {
        "decoder": decoder, "source": readable(examples.source), "labels": _labels_digest(examples),
        "split_by": _split_by(part), "splits": dict(splits), "excluded": dict(excluded), "findings": list(findings),
        "files": {key: list(stamp) for key, stamp in zip(keys, stamps, strict=True)},
    }  # fmt: skip
    try:
        write_json(path, values)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror}; set another path (--manifest PATH), and the same "
            "path for training (data.manifest)"
        ) from error


def follow(examples: Examples, part: DataPart, *, hold_out: bool = True) -> Examples:
    """`examples` without those that their manifest excludes; all of them if there is no manifest, or it is ignored.

    With `hold_out`, the splits are those that were checked. Raises DataError if files or labels were added, removed or
    changed after the manifest was written, or if `part` sets other splits.
    """
    setting = part.manifest
    if setting == IGNORED:
        return examples
    path = manifest_path(examples.source, setting)
    if not path.is_file():
        if setting is None:
            return examples
        raise DataError(f"there is no manifest {path}; write it with `kerazoo check {examples.source} --write`")
    values = _read(path)
    files, excluded = values["files"], values["excluded"]
    _check_unchanged(examples, files, path)
    if hold_out:
        _check_same(examples, part, values, path)
    keep = np.array([key not in excluded for key in examples.keys], bool)
    if not keep.any():
        raise DataError(f"{path} excludes every image of {examples.source}")
    known = None if examples.paths is None else tuple(files[key][0] for key in examples.keys)
    stamps = {key: stamp[0] for key, stamp in files.items()}
    content = json.dumps([stamps, values["labels"], values["splits"], excluded], sort_keys=True)
    drawn = examples.splits.tolist()
    if hold_out:
        drawn = [values["splits"].get(key, split) for key, split in zip(examples.keys, drawn, strict=True)]
    digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
    followed = replace(
        examples,
        splits=np.array(drawn),
        known_hashes=known,
        manifest=digest,
    ).take(np.flatnonzero(keep))
    here = set(examples.keys)
    left_out = {**examples.left_out, **{key: why for key, why in excluded.items() if key in here}}
    return replace(followed, left_out=left_out)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path)
        parts = ("files", "excluded", "splits", "split_by", "labels")
        files, excluded, splits, split_by, _ = (values[part] for part in parts)
        if not isinstance(split_by, dict):
            raise TypeError("split_by must be an object")
        for key, (digest, _, _) in files.items():
            if not HASH.fullmatch(digest) and (digest or key not in excluded):  # unreadable files have no hash
                raise TypeError(f"files must have [sha256, bytes, time], sha256 with 64 digits, got {digest[:70]!r}")
        if not isinstance(excluded, dict) or not set(splits.values()) <= set(KEPT_SPLITS):
            raise TypeError(f"excluded must be an object, splits must be {', '.join(KEPT_SPLITS)}")
    except (RunError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is not a manifest: {error}; write it again with `kerazoo check --write`") from error
    return values


def _check_same(examples: Examples, part: DataPart, values: Mapping[str, Any], path: Path) -> None:
    again = f"check it again with `kerazoo check {examples.source} --write`"
    if values["labels"] != _labels_digest(examples):
        raise DataError(f"labels, splits or groups in {examples.source} differ from those in {path.name}; {again}")
    for name, value in _split_by(part).items():
        given = {"validation": "val", "test": "test"}.get(name) in examples.split_names
        if value != values["split_by"].get(name) and not given:
            raise DataError(
                f"data.{name} is {value!r}, but {path.name} was written for {values['split_by'].get(name)!r}, and the "
                f"leaks depend on the splits; {_again(examples, name, value)}"
            )


def _again(examples: Examples, name: str, value: Any) -> str:
    """How to check the data with `data.NAME` set to `value`, on the command line and in Python."""
    flag = "" if value is None else f" --set {shlex.quote(f'data.{name}={value}')}"
    argument = "" if value is None else f", settings={{'data.{name}': {value!r}}}"
    return (
        f"check it again with `kerazoo check {examples.source} --write{flag}` "
        f"(in Python: kerazoo.check({examples.source!r}, write=True{argument}))"
    )


def _split_by(part: DataPart) -> dict[str, Any]:
    return {"validation": part.validation, "test": part.test, "group": part.group}


def _labels_digest(examples: Examples) -> str:
    """The sha256 of the label, split and group of all keys."""
    rows = [examples.labels.tolist(), examples.splits.tolist(), examples.groups, examples.class_names, examples.keys]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _file_keys(examples: Examples) -> tuple[str, ...]:
    return examples.keys if examples.paths is not None else (Path(examples.source).name,)


def _check_unchanged(examples: Examples, files: Mapping[str, Sequence[Any]], manifest: Path) -> None:
    keys = _file_keys(examples)
    paths = examples.paths if examples.paths is not None else (examples.source,)
    here = set(keys)
    changed = {
        "added": [key for key in keys if key not in files],
        "removed": [key for key in files if key not in here],
        "changed": [k for k, p in zip(keys, paths, strict=True) if k in files and _differs(Path(p), files[k])],
    }
    if any(changed.values()):
        words = "; ".join(f"{len(keys)} {what} ({one_line(keys[0])})" for what, keys in changed.items() if keys)
        raise DataError(
            f"{examples.source} has changed since {manifest.name} was written: {words}; "
            f"check it again with `kerazoo check {examples.source} --write`"
        )


def _stamp_of(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return sha256(path), status.st_size, status.st_mtime_ns


def _differs(path: Path, stamp: Sequence[Any]) -> bool:
    """Whether a file has changed since `stamp`. The content is compared only if size or time differ."""
    try:
        status = path.stat()
        if [status.st_size, status.st_mtime_ns] == list(stamp[1:]):
            return False
        return bool(status.st_size != stamp[1] or sha256(path) != stamp[0])
    except OSError:
        return bool(stamp[0])  # a file that was unreadable at the check may still be unreadable
