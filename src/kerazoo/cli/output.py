"""What commands say: progress on standard error, results on standard output."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def say(line: str) -> None:
    """One line of progress, on standard error. A full disk under it, or a closed pipe, ends nothing."""
    with suppress(OSError):
        print(harmless(line), file=sys.stderr, flush=True)


class Lines(logging.Handler):
    """Prints what is logged on standard error, bare."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        say(self.format(record))


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Within, what kerazoo logs is printed on standard error, and nowhere else."""
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
    """One line of results, on standard output."""
    encoding = sys.stdout.encoding or "utf-8"
    print(harmless(line).encode(encoding, "backslashreplace").decode(encoding))


def print_json(values: dict[str, Any]) -> None:
    """One JSON object on standard output, on one line that a terminal can show."""
    utf = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    text = json.dumps(values, ensure_ascii=not utf)
    # what does not print stands in strings only; names that are no UTF-8 have characters \udcXX, which JSON reads
    print(text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text))


def harmless(text: str) -> str:
    """`text` with characters that do not print written out: names of files can hold line breaks and escape codes."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
