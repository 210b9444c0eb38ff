"""One address into one file, over http or https: what a cut connection has left is kept, and the rest is asked for.

A part goes on only where the server says that the file is still the one it was (If-Range, with its strong ETag or its
Last-Modified); else it starts anew. `FILE.part.json` beside `FILE.part` keeps the address and that answer.
"""

import errno
import http.client
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kerazoo.caches import in_words
from kerazoo.errors import KerazooError, WeightsError
from kerazoo.files import read_json, write_json

Progress = Callable[[int, int | None], None]  # bytes there, and of how many where the server says
TIMEOUT = 60.0  # seconds without a byte
ATTEMPTS = 4  # in a row that bring nothing new
PAUSE = 1.0  # seconds before the second attempt, twice as long before each next
BLOCK = 1 << 20  # bytes read at a time
BUSY = (408, 429, 500, 502, 503, 504)  # answers that may be another in a moment
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Unreachable(Exception):
    """What was asked for could not be had; the message is one line."""


class _CutError(Exception):
    """The connection ended early; another attempt may bring the rest."""


def download(
    url: str, part: Path, *, progress: Progress, timeout: float = TIMEOUT, attempts: int = ATTEMPTS,
    pause: float = PAUSE,
) -> bool:  # fmt: skip
    """Fill `part` with all that lies at `url`; True where it began with bytes of an earlier process.

    Redirects are followed. A server that sends nothing for `timeout` seconds, and `attempts` in a row that bring no
    new bytes, end it; `part` stays, and the next call goes on. Raises Unreachable; WeightsError where the disk is full.
    """
    resumed, most, left = _kept(part, url)[0] > 0, 0, attempts
    while True:
        try:
            resumed &= _attempt(url, part, progress, timeout) > 0
            return resumed
        except _CutError as cut:
            there = part.stat().st_size if part.exists() else 0
            left = attempts - 1 if there > most else left - 1
            most = max(most, there)
            if left < 1:
                raise Unreachable(f"{cut}; {attempts} attempts brought no more") from cut
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
            f"{what} takes {in_words(size)} more, and {folder} has {in_words(free)} free; make room, or name another "
            "folder by KERAZOO_CACHE"
        )


def no_room(error: OSError, path: Path) -> WeightsError:
    """What to say of an error in writing `path`."""
    return WeightsError(
        f"{path} cannot be written: {error.strerror}; make room, or name another folder by KERAZOO_CACHE"
    )


def _attempt(url: str, part: Path, progress: Progress, timeout: float) -> int:
    """Ask once, for all of it or for the rest; how many bytes were there before. Raises _CutError, Unreachable."""
    from kerazoo import __version__

    have, validator = _kept(part, url)
    headers = {"User-Agent": f"kerazoo/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # there is nothing behind what is here: the part is whole, or longer than the file is now
            if error.headers.get("Content-Range") == f"bytes */{have}":
                progress(have, have)
                return have
            forget(part)
        said = f"{url} answers {error.code} ({error.reason})"
        raise (_CutError if error.code in (416, *BUSY) else Unreachable)(said) from error
    except TimeoutError as error:
        raise Unreachable(f"{url} did not answer within {timeout:g} s") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise Unreachable(f"{url} did not answer within {timeout:g} s") from error
        kind = _CutError if isinstance(error.reason, ConnectionResetError | BrokenPipeError) else Unreachable
        raise kind(f"{url} cannot be reached ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(f"{url} ended the connection ({error!r})") from error
    except ValueError as error:
        raise Unreachable(f"{url} is no address ({error})") from error
    with answer:
        total = _length(answer)
        if have and answer.status == 206:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
            if not found or int(found[1]) != have or _validator(answer) not in ("", validator):
                forget(part)
                raise _CutError(f"{url} does not go on where it was cut")
            total = int(found[2]) if found[2].isdigit() else None
        else:
            have = 0
            with part.open("wb"):  # what it held is of another file; only then is the new one known by name
                pass
            _remember(part, url, _validator(answer))
        if total is not None:
            check_room(part.parent, total - have, part.name.removesuffix(".part"))
        _write(answer, url, part, have, total, progress, timeout)
    return have


def _write(answer: Any, url: str, part: Path, have: int, total: int | None, progress: Progress, timeout: float) -> None:
    done = have
    progress(done, total)
    with part.open("ab") as file:
        while True:
            so_far = f"after {done:,} of {f'{total:,}' if total else 'unknown'} bytes"
            try:
                block = answer.read1(BLOCK)
            except TimeoutError as error:
                raise Unreachable(f"{url} sent nothing for {timeout:g} s {so_far}; what came is kept") from error
            except (OSError, http.client.HTTPException) as error:
                raise _CutError(f"{url} ended the connection {so_far}") from error
            if not block:
                break
            try:
                file.write(block)
                file.flush()
            except OSError as error:
                if error.errno in FULL:
                    forget(part)  # to leave the disk full harms others
                raise no_room(error, part) from error
            done += len(block)
            progress(done, total)
    if total is not None and done != total:
        raise _CutError(f"{url} ended the connection {so_far}")


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
    return int(length) if length.isdigit() else None
