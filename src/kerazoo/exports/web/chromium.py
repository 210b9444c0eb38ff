"""Headless Chromium: where it is installed, and a page shown in it."""

import os
import shutil
import subprocess
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


LOG = "stderr.txt"


@contextmanager
def chromium(address: str, profile: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """Inside, a headless browser shows the page at `address`; `profile` is a new folder for its files."""
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # Chromium refuses root otherwise
    command = [find_browser(), *OPTIONS, *root, f"--user-data-dir={profile}", address]
    profile.mkdir()
    with (profile / LOG).open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
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
    """The last line that a browser with this profile wrote to its standard error."""
    lines = (profile / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it gave no reason")
