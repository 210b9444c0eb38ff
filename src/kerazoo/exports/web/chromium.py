"""Headless Chromium: where it is installed, and a page shown in it."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kerazoo.errors import InputError

# CHROME_BIN is the variable that other tools read, too
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge", "msedge")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
OPTIONS = (
    "--headless=new", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--mute-audio",
)  # fmt: skip
LOG = "stderr.txt"  # in the folder of the browser's profile


def find_browser() -> str:
    """The path of Chromium, Chrome or Edge. Raises InputError if none is installed."""
    own = os.environ.get("CHROME_BIN")
    for name in [own] if own else [*NAMES, MAC]:
        path = shutil.which(name)
        if path:
            return path
    where = f"CHROME_BIN names {own!r}, which is no program" if own else "none is installed"
    raise InputError(
        f"format 'web' needs Chromium or Chrome, in which its page is tried before it is kept, and {where}; install "
        "one (on Debian: apt install chromium), or name it in CHROME_BIN"
    )


@contextmanager
def chromium(address: str, profile: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """Inside, a headless browser shows the page at `address`; `profile` is a new folder for its files."""
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # Chromium refuses root otherwise
    command = [find_browser(), *OPTIONS, *root, f"--user-data-dir={profile}", address]
    profile.mkdir()
    with (profile / LOG).open("wb") as log:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True
            )
        except OSError as error:
            raise InputError(f"the browser {command[0]} cannot be started: {error.strerror}; see CHROME_BIN") from error
    try:
        yield process
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a browser and all of its processes, so that none of them writes into the profile any more."""
    for number, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        until = time.monotonic() + seconds
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
            while time.monotonic() < until:
                process.poll()  # or it would stay in the group
                os.killpg(process.pid, 0)
                time.sleep(0.02)
    process.wait()


def largest_memory(browser: int) -> int | None:
    """The largest number of bytes that a process which shows a page had; None where the system does not say."""
    children: dict[int, list[int]] = {}
    peaks: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError, IndexError, ValueError):  # a process may end meanwhile
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            number = int(status.parent.name)
            children.setdefault(int(lines["PPid"]), []).append(number)
            if b"--type=renderer" in (status.parent / "cmdline").read_bytes():
                peaks[number] = 1024 * int(lines["VmHWM"].split()[0])
    below = [browser]
    for number in below:
        below += children.get(number, [])
    return max((peaks[number] for number in below if number in peaks), default=None)


def last_words(profile: Path) -> str:
    """What a browser with this profile wrote last to its standard error: the last line that tells of an error."""
    text = (profile / LOG).read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "FATAL" in line or "ERROR" in line]
    return [*lines, *errors][-1] if lines else "it gave no reason"
