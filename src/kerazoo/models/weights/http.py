"""Download an address into a file, over http or https. After an interruption, only the rest is requested.

A download is continued only if the server confirms that the file has not changed (If-Range, with its strong ETag or its
Last-Modified); otherwise it starts again. `FILE.part.json` beside `FILE.part` has the address and that ETag or date.
"""

import http.client
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from kerazoo.errors import KerazooError, WeightsError
from kerazoo.files import FULL, read_json, write_json
from kerazoo.models.weights.connections import LEAST, RedirectError, Watch
from kerazoo.terminal import format_bytes

Progress = Callable[[int, int | None], None]  # bytes received, and the total if the server gives it
TIMEOUT = 60.0  # seconds without a byte
ATTEMPTS = 4  # attempts in a row without new bytes
PAUSE = 1.0  # seconds before the second attempt, doubled before each next
RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)")
BLOCK = 1 << 20  # bytes read at a time
BUSY = (408, 429, 500, 502, 503, 504)  # temporary errors


class UnreachableError(Exception):
    """The file could not be downloaded; the message is one line."""


class _CutError(Exception):
    """The connection ended early; another attempt may bring the rest."""


def download(
    url: str, part: Path, *, progress: Progress, most: int | None = None, timeout: float = TIMEOUT,
    attempts: int = ATTEMPTS, pause: float = PAUSE,
) -> None:  # fmt: skip
    """Download `url` into `part`, which may already contain the first bytes.

    Redirects to http and https are followed, but not from https to http. The download fails if the server sends nothing
    for `timeout` seconds, if an attempt has less than 1 kB/s after twice that time, or after `attempts` in a row
    without new bytes. Then `part` is kept, and the next call continues. It also fails if the file is longer than `most`
    bytes, and then `part` is removed. Raises UnreachableError, or WeightsError if the disk is full.
    """
    reached, left = 0, attempts
    while True:
        try:
            _watched(url, part, progress, timeout, most)
            return
        except _CutError as cut:
            there = part.stat().st_size if part.exists() else 0
            left = attempts - 1 if there > reached else left - 1
            reached = max(reached, there)
            if left < 1:
                raise UnreachableError(f"{cut}; {attempts} attempts brought no more") from cut
            time.sleep(pause * 2 ** (attempts - 1 - left))


def forget(part: Path) -> None:
    """Remove `part` and its record."""
    part.unlink(missing_ok=True)
    _state(part).unlink(missing_ok=True)


def check_room(folder: Path, size: int, what: str) -> None:
    """Raise WeightsError if `folder` does not have `size` bytes of free space."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise WeightsError(
            f"{what} needs {format_bytes(size)} more, but {folder} has only {format_bytes(free)} free; "
            "free some disk space, or set KERAZOO_CACHE to another folder"
        )


def no_room(error: OSError, path: Path) -> WeightsError:
    """The error to raise if `path` cannot be written."""
    return WeightsError(
        f"{path} cannot be written: {error.strerror}; free some disk space, or set KERAZOO_CACHE to another folder"
    )


def _watched(url: str, part: Path, progress: Progress, timeout: float, most: int | None) -> None:
    """Make one attempt, with a time limit. Raises _CutError, UnreachableError."""
    with Watch(2 * timeout) as watch:  # the time limit of a read covers a server that sends nothing
        try:
            _attempt(url, part, progress, timeout, most, watch)
        except RedirectError as error:
            raise UnreachableError(str(error)) from error
        except (_CutError, UnreachableError) as error:
            if watch.slow:
                raise UnreachableError(
                    f"{url} sent less than {format_bytes(LEAST)} a second for {2 * timeout:g} s; the received part is "
                    "kept"
                ) from error
            raise


def _attempt(url: str, part: Path, progress: Progress, timeout: float, most: int | None, watch: Watch) -> None:
    """Request the whole file or the rest, once. Raises _CutError, UnreachableError."""
    from kerazoo.version import __version__

    have, validator = _kept(part, url)
    headers = {"User-Agent": f"kerazoo/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        answer = watch.open(urllib.request.Request(url, headers=headers), timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # there is nothing behind what is here: the part is whole, or longer than the file is now
            if error.headers.get("Content-Range") == f"bytes */{have}":
                progress(have, have)
                return
            forget(part)
        message = f"{url} answers {error.code} ({error.reason})"
        raise (_CutError if error.code in (416, *BUSY) else UnreachableError)(message) from error
    except TimeoutError as error:
        raise UnreachableError(f"{url} did not answer within {timeout:g} s") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise UnreachableError(f"{url} did not answer within {timeout:g} s") from error
        kind = _CutError if isinstance(error.reason, ConnectionResetError | BrokenPipeError) else UnreachableError
        raise kind(f"{url} cannot be reached ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(f"{url} ended the connection ({error!r})") from error
    except ValueError as error:
        raise UnreachableError(f"{url} is not an address ({error})") from error
    with answer:
        total = _length(answer)
        if have and answer.status == 206:
            match = RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if not match or int(match[1]) != have or _validator(answer) not in ("", validator):
                forget(part)
                raise _CutError(f"{url} does not continue from where it stopped")
            total = int(match[2]) if match[2].isdigit() else None
        else:
            have = 0
            with part.open("wb"):  # empty the old content before the new validator is recorded
                pass
            _remember(part, url, _validator(answer))
        if total is not None and most is not None and total > most:
            _refuse(url, part, most)
        if total is not None:
            check_room(part.parent, total - have, part.name.removesuffix(".part"))
        done = _write(answer, url, part, have, total, most, progress, timeout, watch)
    if total is not None and done != total:
        raise _CutError(f"{url} ended the connection {_after(done, total)}")


def _write(
    answer: Any, url: str, part: Path, have: int, total: int | None, most: int | None, progress: Progress,
    timeout: float, watch: Watch,
) -> int:  # fmt: skip
    """Append the received bytes to the `have` bytes of `part`, and return the new total."""
    done = have
    progress(done, total)
    with part.open("ab") as file:
        while True:
            so_far = _after(done, total)
            try:
                block = answer.read1(BLOCK)
            except TimeoutError as error:
                raise UnreachableError(
                    f"{url} sent nothing for {timeout:g} s {so_far}; the received part is kept"
                ) from error
            except (OSError, http.client.HTTPException) as error:
                raise _CutError(f"{url} ended the connection {so_far}") from error
            if watch.slow:  # the closed connection looks like the end of the file
                raise _CutError(f"{url} is too slow {so_far}")
            if not block:
                return done
            if most is not None and done + len(block) > most:
                _refuse(url, part, most)
            try:
                file.write(block)
                file.flush()
            except OSError as error:
                if error.errno in FULL:
                    forget(part)  # a full disk would affect other programs
                raise no_room(error, part) from error
            done += len(block)
            watch.moved(len(block))
            progress(done, total)


def _after(done: int, total: int | None) -> str:
    return f"after {done:,} of {f'{total:,}' if total else 'unknown'} bytes"


def _refuse(url: str, part: Path, most: int) -> NoReturn:
    """Raise UnreachableError, because the file at `url` is too long."""
    forget(part)
    raise UnreachableError(f"{url} is not the published file: it is longer than {most:,} bytes; it was removed")


def _kept(part: Path, url: str) -> tuple[int, str]:
    """The number of bytes of `url` in `part`, and the validator for the server; (0, "") if it cannot be continued."""
    try:
        size = part.stat().st_size
        state = read_json(_state(part))
    except (OSError, KerazooError):
        return 0, ""
    validator = state.get("validator")
    return (size, str(validator)) if size and validator and state.get("url") == url else (0, "")


def _remember(part: Path, url: str, validator: str) -> None:
    write_json(_state(part), {"url": url, "validator": validator})


def _state(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _validator(answer: Any) -> str:
    """The strong ETag of the response, else its Last-Modified (RFC 9110, section 13.1.5), else ""."""
    etag = str(answer.headers.get("ETag", ""))
    return etag if etag.startswith('"') else str(answer.headers.get("Last-Modified", ""))


def _length(answer: Any) -> int | None:
    length = answer.headers.get("Content-Length", "")
    return int(length) if re.fullmatch("[0-9]{1,18}", length) else None
