"""The published weights on this machine: found in a cache, or fetched once, checked, and only then put in place.

A file is looked for in kerazoo's cache (`weights/` below `caches.cache_path`) and in Keras's own (`$KERAS_HOME/models`,
else `~/.keras/models`), which is read only. It is fetched from where Keras publishes it, or from a mirror: an address
or a folder under which the file lies by its plain name, given by hand or as `$KERAZOO_WEIGHTS_MIRROR`.
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
    """The file of the ImageNet weights for the backbone `name`, whole and checked; fetched where no cache holds it.

    `entry` stands in for the manifest's own. Of processes
    that want a file at once one fetches it. Raises WeightsError, which names the ways to get weights without a network.
    """
    entry = entry or published(name)
    if (path := find_cached(entry)) is not None:
        return path
    folder = cache_folder(FOLDER)
    with alone(folder, entry):
        if (path := find_cached(entry)) is not None:
            return path
        try:
            return _fetch(folder, entry, mirror or os.environ.get(MIRROR) or None, timeout, pause)
        except UnreachableError as error:
            raise WeightsError(f"no ImageNet weights for {name}: {error}; {_ways(entry)}") from error


def cache_paths(entry: Published) -> tuple[Path, Path]:
    """Where the file would lie: in kerazoo's cache, in Keras's."""
    home = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    return cache_path(FOLDER, entry.file), home / "models" / entry.file


def find_cached(entry: Published) -> Path | None:
    """The file where a cache holds it whole. The log names one that is damaged; Keras's own is passed over."""
    ours, theirs = cache_paths(entry)
    for path in (ours, theirs):
        if path.is_file():
            try:
                wrong = cache_problem(path, entry)
            except OSError as error:
                wrong = f"it cannot be read: {error.strerror}"
            if not wrong:
                return path
            log.warning(f"{path} is not used: {wrong}")
    return None


def cache_problem(path: Path, entry: Published) -> str:
    """Why a cached file is not `entry`, in words, "" where it is. Raises OSError.

    A file of which Keras publishes no hash is compared with the sha256 that was kept when it came.
    """
    wrong = file_problem(path, entry)
    if wrong or entry.checked_by != "structure" or not (record := _record(path)).is_file():
        return wrong
    kept = record.read_text(encoding="utf-8", errors="replace").split(" ")[0][:64]
    found = sha256(path)
    return "" if kept == found else f"its sha256 is {found}, not {kept} as when it came"


def put_in_place(part: Path, entry: Published) -> Path:
    """Give the checked `part` its own name in the cache; the path. The caller holds the lock."""
    path = cache_paths(entry)[0]
    if entry.checked_by == "structure":
        write_whole(_record(path), f"{sha256(part)}  {entry.file}\n")
    put(part, path)
    return path


@contextmanager
def alone(folder: Path, entry: Published) -> Iterator[None]:
    """Only one process at a time brings the file of `entry`; the lock goes with the process, however it ends."""
    path = folder / f"{entry.file}.lock"
    with ExitStack() as stack:
        try:
            if is_locked(path):
                log.info(f"{entry.file} is being fetched by another process; waiting for it")
            stack.enter_context(locked(path, wait=True))
        except NotRegularError as error:
            raise WeightsError(f"{path} cannot be a lock: {error.strerror}") from error
        except OSError as error:
            raise no_room(error, path) from error
        yield


def _fetch(folder: Path, entry: Published, mirror: str | None, timeout: float, pause: float) -> Path:
    part, source = folder / f"{entry.file}.part", _source(entry, mirror)
    if part.exists() and not part.is_file():
        raise WeightsError(f"{part} is no regular file; remove it")
    with download_bar(f"fetching {entry.name}", _host(source)) as progress:
        for again in (True, False):
            if isinstance(source, Path):
                _copy(source, part, most_bytes(entry), progress)
            else:
                download(source, part, progress=progress, most=most_bytes(entry), timeout=timeout, pause=pause)
            wrong = file_problem(part, entry)
            if not wrong:
                break
            forget(part)
            if not again or isinstance(source, Path):  # bytes may be wrong once, on the way or from an earlier process
                raise UnreachableError(f"{source} is not the published file: {wrong}; it was removed")
    path = put_in_place(part, entry)
    forget(part)
    if entry.checked_by == "structure":
        log.info(f"{path}: Keras publishes no hash of it; its structure is right")
    return path


def _source(entry: Published, mirror: str | None) -> str | Path:
    """An address, or the path of a file."""
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
    """How long the file can be: its size, or where that is not known exactly, a tenth and 10 MB more than its numbers.

    HDF5's own tables take a few MB at most.
    """
    return entry.size or entry.bytes + entry.bytes // 10 + TABLES


def _copy(source: Path, part: Path, most: int, progress: Progress) -> None:
    """Copy a file of a mirror's folder into `part`."""
    try:
        total = source.stat().st_size
        if not source.is_file() or total > most:
            raise UnreachableError(
                f"{source} is not the published file, but longer than {most:,} bytes or no regular file"
            )
        opened = source.open("rb")
    except OSError as error:
        raise UnreachableError(f"{source} cannot be read ({error.strerror})") from error
    check_room(part.parent, total, source.name)
    forget(part)
    try:
        with opened, part.open("wb") as file:
            while file.tell() <= total and (block := opened.read(CHUNK)):
                file.write(block)
                progress(file.tell(), total)
    except OSError as error:
        forget(part)
        raise no_room(error, part) from error


def _ways(entry: Published) -> str:
    return (
        f"without a network: (1) elsewhere `kerazoo weights fetch {entry.name}` and `kerazoo weights bundle "
        f"{entry.name} --output weights.tar`, then here `kerazoo weights unbundle weights.tar`; "
        f"(2) set {MIRROR} to an address or folder that holds {entry.file}; (3) give the file by --weights PATH"
    )


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
