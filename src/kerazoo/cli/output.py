"""The output of commands: progress on standard error, results on standard output."""

import csv
import io
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer
from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def say(line: str) -> None:
    """Print one line of progress on standard error. Errors of a full disk or a closed pipe are ignored."""
    with suppress(OSError):
        # in one piece: `print` writes the end of the line apart, and a decoder in C could write its own line between
        print(harmless(line) + "\n", end="", file=sys.stderr, flush=True)


class Lines(logging.Handler):
    """A log handler that prints plain messages on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        say(self.format(record))


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Inside, kerazoo's log messages are printed on standard error, and nowhere else."""
    log = logging.getLogger("kerazoo")
    lines = Lines()
    before = log.level, log.propagate
    log.addHandler(lines)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(lines)
        log.level, log.propagate = before


def print_text(line: str) -> None:
    """Print one line of results on standard output."""
    encoding = sys.stdout.encoding or "utf-8"
    print(harmless(line).encode(encoding, "backslashreplace").decode(encoding))


def print_json(values: dict[str, Any]) -> None:
    """Print one JSON object on standard output, in one line that a terminal can show."""
    utf = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    text = json.dumps(values, ensure_ascii=not utf)
    # only strings have unprintable characters; names that are not UTF-8 have characters \udcXX, which JSON can read
    print(text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text))


def print_row(cells: Sequence[str]) -> None:
    """Print one row of a CSV table on standard output."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    print_text(text.getvalue())


@contextmanager
def counting(done: str) -> Iterator[Callable[[int], None]]:
    """A function that shows a count on standard error, if that is a terminal and the results go elsewhere."""
    if not sys.stderr.isatty() or sys.stdout.isatty():
        yield lambda count: None
        return
    with Console(stderr=True).status("") as status:
        yield lambda count: status.update(f"{count:,} {done}")


def harmless(text: str) -> str:
    """`text` with escapes for unprintable characters, because file names can contain line breaks and escape codes."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
