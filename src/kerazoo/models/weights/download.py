"""Find the published weights in a cache, or download them once, check them, and put them into the cache.

A file is searched for in kerazoo's cache (`weights/` in `caches.cache_path`) and in Keras's cache
(`$KERAS_HOME/models`, or else `~/.keras/models`), to which nothing is written. It is downloaded from Keras's address,
or from a mirror: an address or a folder that contains the file under its plain name, given as an argument or as
`$KERAZOO_WEIGHTS_MIRROR`.
"""

import logging
import os
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kerazoo.caches import cache_folder, cache_path
from kerazoo.errors import WeightsError
from kerazoo.files import NotRegularError, is_locked, locked, put, sha256, write_whole
from kerazoo.models.weights.http import (
    PAUSE,
    TIMEOUT,
    Progress,
    UnreachableError,
    check_room,
    download,
    forget,
    no_room,
)
from kerazoo.models.weights.published import CHUNK, Published, file_problem, published
from kerazoo.terminal import download_bar

log = logging.getLogger("kerazoo")

FOLDER = "weights"
TABLES = 10_000_000  # bytes
MIRROR = "KERAZOO_WEIGHTS_MIRROR"


def published_path(
    name: str, *, mirror: str | None = None, entry: Published | None = None,
    timeout: float = TIMEOUT, pause: float = PAUSE,
) -> Path:  # fmt: skip
    """The checked file of the ImageNet weights for the backbone `name`, downloaded if it is not in a cache.

    `entry` replaces the manifest's entry. If several processes need a file at once, one downloads it. Raises
    WeightsError, which names the ways to get weights without a network.
    """
    entry = entry or published(name)
    path = find_cached(entry)
    if path is not None:
        return path
    folder = cache_folder(FOLDER)
    with alone(folder, entry):
        path = find_cached(entry)
        if path is not None:
            return path
        try:
            return _fetch(folder, entry, mirror or os.environ.get(MIRROR) or None, timeout, pause)
        except UnreachableError as error:
            raise WeightsError(f"no ImageNet weights for {name}: {error}; {_ways(entry)}") from error


def cache_paths(entry: Published) -> tuple[Path, Path]:
    """The paths of the file in kerazoo's cache and in Keras's cache, whether or not it exists."""
    home = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    return cache_path(FOLDER, entry.file), home / "models" / entry.file


def find_cached(entry: Published) -> Path | None:
    """The file in a cache, or None. A damaged file is not used, and the log says so."""
    ours, theirs = cache_paths(entry)
    for path in (ours, theirs):
        if path.is_file():
            try:
                problem = cache_problem(path, entry)
            except OSError as error:
                problem = f"it cannot be read: {error.strerror}"
            if not problem:
                return path
            log.warning(f"{path} is not used: {problem}")
    return None


def cache_problem(path: Path, entry: Published) -> str:
    """Why a cached file is not `entry`, in words; "" if it is. Raises OSError.

    If Keras publishes no hash of the file, it is compared with the sha256 that was recorded after the download.
    """
    problem = file_problem(path, entry)
    record = _record(path)
    if problem or entry.checked_by != "structure" or not record.is_file():
        return problem
    recorded = record.read_text(encoding="utf-8", errors="replace").split(" ")[0][:64]
    digest = sha256(path)
    return "" if recorded == digest else f"its sha256 is {digest}, but {recorded} was recorded after the download"


def put_in_place(part: Path, entry: Published) -> Path:
    """Rename the checked `part` to its name in the cache, and return the path. The caller must have the lock."""
    path = cache_paths(entry)[0]
    if entry.checked_by == "structure":
        write_whole(_record(path), f"{sha256(part)}  {entry.file}\n")
    put(part, path)
    return path


@contextmanager
def alone(folder: Path, entry: Published) -> Iterator[None]:
    """Lock the file of `entry`, so that only one process at a time downloads it. The lock ends with the process."""
    path = folder / f"{entry.file}.lock"
    with ExitStack() as stack:
        try:
            if is_locked(path):
                log.info(f"another process is downloading {entry.file}; waiting for it")
            stack.enter_context(locked(path, wait=True))
        except NotRegularError as error:
            raise WeightsError(f"{path} cannot be a lock: {error.strerror}") from error
        except OSError as error:
            raise no_room(error, path) from error
        yield


def _fetch(folder: Path, entry: Published, mirror: str | None, timeout: float, pause: float) -> Path:
    part = folder / f"{entry.file}.part"
    source = _source(entry, mirror)
    if part.exists() and not part.is_file():
        raise WeightsError(f"{part} must be a regular file; remove it")
    with download_bar(f"fetching {entry.name}", _host(source)) as progress:
        for again in (True, False):
            if isinstance(source, Path):
                _copy(source, part, most_bytes(entry), progress)
            else:
                download(source, part, progress=progress, most=most_bytes(entry), timeout=timeout, pause=pause)
            problem = file_problem(part, entry)
            if not problem:
                break
            forget(part)
            if not again or isinstance(source, Path):  # try again once: the transfer or an earlier part may be damaged
                raise UnreachableError(f"{source} is not the published file: {problem}; it was removed")
    path = put_in_place(part, entry)
    forget(part)
    if entry.checked_by == "structure":
        log.info(f"{path}: Keras publishes no hash of this file; only its structure was checked")
    return path


def _source(entry: Published, mirror: str | None) -> str | Path:
    """The address or the path to get the file from."""
    if mirror is None:
        return entry.url
    scheme = urllib.parse.urlsplit(mirror).scheme.lower()
    if scheme in ("http", "https"):
        return f"{mirror.rstrip('/')}/{urllib.parse.quote(entry.file)}"
    if scheme == "file":
        return Path(urllib.parse.unquote(urllib.parse.urlsplit(mirror).path)) / entry.file
    if "://" in mirror:
        raise WeightsError(f"the mirror {mirror!r} must be a folder or begin with http://, https:// or file://")
    return Path(mirror).expanduser() / entry.file


def _host(source: str | Path) -> str:
    return str(source.parent) if isinstance(source, Path) else urllib.parse.urlsplit(source).netloc


def most_bytes(entry: Published) -> int:
    """The largest allowed size of the file: its exact size, or if unknown, that of its numbers plus a tenth and 10 MB.

    HDF5's own tables need a few MB at most.
    """
    return entry.size or entry.bytes + entry.bytes // 10 + TABLES


def _copy(source: Path, part: Path, most: int, progress: Progress) -> None:
    """Copy a file of a mirror's folder into `part`."""
    try:
        total = source.stat().st_size
        if not source.is_file() or total > most:
            raise UnreachableError(
                f"{source} is not the published file: it is longer than {most:,} bytes, or not a regular file"
            )
        opened = source.open("rb")
    except OSError as error:
        raise UnreachableError(f"{source} cannot be read ({error.strerror})") from error
    check_room(part.parent, total, source.name)
    forget(part)
    try:
        with opened, part.open("wb") as file:
            while file.tell() <= total:
                block = opened.read(CHUNK)
                if not block:
                    break
                file.write(block)
                progress(file.tell(), total)
    except OSError as error:
        forget(part)
        raise no_room(error, part) from error


def _ways(entry: Published) -> str:
    return (
        f"without a network: (1) on another machine run `kerazoo weights fetch {entry.name}` and `kerazoo weights "
        f"bundle {entry.name} --output weights.tar`, then here `kerazoo weights unbundle weights.tar`; "
        f"(2) set {MIRROR} to an address or folder with {entry.file}; (3) give the file (--weights PATH)"
    )


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
