"""One address into one file, over http or https: what a cut connection has left is kept, and the rest is asked for.

A part goes on only where the server says that the file is still the one it was (If-Range, with its strong ETag or its
Last-Modified); else it starts anew. `FILE.part.json` beside `FILE.part` keeps the address and that answer.
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

Progress = Callable[[int, int | None], None]  # bytes there, and of how many where the server says
TIMEOUT = 60.0  # seconds without a byte
ATTEMPTS = 4  # in a row that bring nothing new
PAUSE = 1.0  # seconds before the second attempt, twice as long before each next
RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)")
BLOCK = 1 << 20  # bytes read at a time
BUSY = (408, 429, 500, 502, 503, 504)  # answers that may be another in a moment


class UnreachableError(Exception):
    """What was asked for could not be had; the message is one line."""


class _CutError(Exception):
    """The connection ended early; another attempt may bring the rest."""


def download(
    url: str, part: Path, *, progress: Progress, most: int | None = None, timeout: float = TIMEOUT,
    attempts: int = ATTEMPTS, pause: float = PAUSE,
) -> None:  # fmt: skip
    """Fill `part` with all that lies at `url`; it may hold the first bytes already.

    Redirects to http and https are followed, but not from https to http. A server that sends nothing for `timeout`
    seconds, or after twice that less than 1 kB/s over a whole attempt, and `attempts` in a row without new bytes end
    it; `part` stays, and the next call goes on. What is longer than `most` bytes is not the file: it ends it, too, and
    `part` goes. Raises UnreachableError; WeightsError where the disk is full.
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
    """Remove `part` and what is known of it."""
    part.unlink(missing_ok=True)
    _state(part).unlink(missing_ok=True)


def check_room(folder: Path, size: int, what: str) -> None:
    """Raise WeightsError where `folder` has no room for `size` bytes more."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise WeightsError(
            f"{what} takes {format_bytes(size)} more, and {folder} has {format_bytes(free)} free; "
            "make room, or name another folder by KERAZOO_CACHE"
        )


def no_room(error: OSError, path: Path) -> WeightsError:
    """What to say of an error in writing `path`."""
    return WeightsError(
        f"{path} cannot be written: {error.strerror}; make room, or name another folder by KERAZOO_CACHE"
    )


def _watched(url: str, part: Path, progress: Progress, timeout: float, most: int | None) -> None:
    """One attempt, which ends. Raises _CutError, UnreachableError."""
    with Watch(2 * timeout) as watch:  # a server that sends nothing is told apart by the limit of a read
        try:
            _attempt(url, part, progress, timeout, most, watch)
        except RedirectError as error:
            raise UnreachableError(str(error)) from error
        except (_CutError, UnreachableError) as error:
            if watch.slow:
                raise UnreachableError(
                    f"{url} sent less than {format_bytes(LEAST)} a second for {2 * timeout:g} s; what came is kept"
                ) from error
            raise


def _attempt(url: str, part: Path, progress: Progress, timeout: float, most: int | None, watch: Watch) -> None:
    """Ask once, for all of it or for the rest. Raises _CutError, UnreachableError."""
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
        said = f"{url} answers {error.code} ({error.reason})"
        raise (_CutError if error.code in (416, *BUSY) else UnreachableError)(said) from error
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
            found = RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if not found or int(found[1]) != have or _validator(answer) not in ("", validator):
                forget(part)
                raise _CutError(f"{url} does not go on where it was cut")
            total = int(found[2]) if found[2].isdigit() else None
        else:
            have = 0
            with part.open("wb"):  # what it held is of another file; only then is the new one known by name
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
    """Write what comes behind the `have` bytes of `part`; how many there are then."""
    done = have
    progress(done, total)
    with part.open("ab") as file:
        while True:
            so_far = _after(done, total)
            try:
                block = answer.read1(BLOCK)
            except TimeoutError as error:
                raise UnreachableError(f"{url} sent nothing for {timeout:g} s {so_far}; what came is kept") from error
            except (OSError, http.client.HTTPException) as error:
                raise _CutError(f"{url} ended the connection {so_far}") from error
            if watch.slow:  # its closed connection looks like the end of the file
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
                    forget(part)  # to leave the disk full harms others
                raise no_room(error, part) from error
            done += len(block)
            watch.moved(len(block))
            progress(done, total)


def _after(done: int, total: int | None) -> str:
    return f"after {done:,} of {f'{total:,}' if total else 'unknown'} bytes"


def _refuse(url: str, part: Path, most: int) -> NoReturn:
    """End it: what lies at `url` is longer than the file can be."""
    forget(part)
    raise UnreachableError(f"{url} is not the published file: it is longer than {most:,} bytes; it was removed")


def _kept(part: Path, url: str) -> tuple[int, str]:
    """How many bytes of `url` are in `part`, and by what the server knows that they still are its own; (0, "")."""
    try:
        size, state = part.stat().st_size, read_json(_state(part))
    except (OSError, KerazooError):
        return 0, ""
    validator = state.get("validator")
    return (size, str(validator)) if size and validator and state.get("url") == url else (0, "")


def _remember(part: Path, url: str, validator: str) -> None:
    write_json(_state(part), {"url": url, "validator": validator})


def _state(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _validator(answer: Any) -> str:
    """The strong ETag of the answer, else its Last-Modified (RFC 9110, section 13.1.5), else ""."""
    etag = str(answer.headers.get("ETag", ""))
    return etag if etag.startswith('"') else str(answer.headers.get("Last-Modified", ""))


def _length(answer: Any) -> int | None:
    length = answer.headers.get("Content-Length", "")
    return int(length) if re.fullmatch("[0-9]{1,18}", length) else None
