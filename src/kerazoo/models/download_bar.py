"""What a person sees of a download, on standard error: a bar on a terminal, else a line now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kerazoo.caches import in_words

EVERY = 15.0  # seconds between two lines


@contextmanager
def download_bar(title: str, source: str, say: Callable[[str], None]) -> Iterator[Callable[[int, int | None], None]]:
    """A function of (bytes there, bytes in all or None) that shows them; lines go to `say` and name the source, too."""
    if not sys.stderr.isatty():
        yield _lines(f"{title} from {source}", say)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn(title, markup=False), *columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(title: str, say: Callable[[str], None]) -> Callable[[int, int | None], None]:
    said: float | None = None

    def show(done: int, total: int | None) -> None:
        nonlocal said
        now = time.monotonic()
        if said is None or (now - said >= EVERY and done != total):
            of = f" of {in_words(total)}" if total else ""
            say(f"{title}: {in_words(done)}{of}")
            said = now

    return show
