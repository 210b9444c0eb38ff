"""Progress bars, and sizes in words."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger("kerazoo")

EVERY = 15.0  # seconds between two lines
FILES_A_LINE = 2000  # files between two lines if there is no terminal


@contextmanager
def download_bar(title: str, source: str) -> Iterator[Callable[[int, int | None], None]]:
    """A function (bytes received, total bytes or None) that shows them: a bar on a terminal, else lines in the log."""
    if not sys.stderr.isatty():
        yield _lines(f"{title} from {source}")
        return
    from rich.progress import DownloadColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn(title, markup=False), *columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(title: str) -> Callable[[int, int | None], None]:
    said: float | None = None

    def show(done: int, total: int | None) -> None:
        nonlocal said
        now = time.monotonic()
        if said is None or (now - said >= EVERY and done != total):
            of = f" of {format_bytes(total)}" if total else ""
            log.info(f"{title}: {format_bytes(done)}{of}")
            said = now

    return show


def format_bytes(size: float) -> str:
    """A number of bytes in words: 1.5 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"


def format_macs(macs: int) -> str:
    """A number of multiply-accumulate operations in words: 3.86 GMACs."""
    if macs < 100_000:
        return f"{macs:,} MACs"
    unit, size = ("GMACs", 1e9) if macs >= 1e8 else ("MMACs", 1e6)
    return f"{macs / size:.3g} {unit}"


@contextmanager
def progress_bar(doing: str = "checking", done: str = "checked") -> Iterator[Callable[[int, int], None]]:
    """A function (count, total) that shows them on standard error: a bar on a terminal, else a line now and then."""
    if not sys.stderr.isatty():

        def line(count: int, of: int) -> None:
            if count % FILES_A_LINE < 256 and count >= FILES_A_LINE and count != of:
                print(f"{done} {count:,} of {of:,}", file=sys.stderr, flush=True)

        yield line
        return

    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda count, of: bar.update(task, completed=count, total=of)
