"""What commands say: progress on standard error, results on standard output."""

import json
import sys
from contextlib import suppress
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def say(line: str) -> None:
    """One line of progress, on standard error. A full disk under it, or a closed pipe, ends nothing."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def print_json(values: dict[str, Any]) -> None:
    """One JSON object on standard output."""
    # names that are no UTF-8 are written as \udcXX, which JSON reads
    print(json.dumps(values, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8"))
