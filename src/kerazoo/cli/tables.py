"""The tables of a check's findings, of an export's formats, and of where the seconds of a run went."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kerazoo.cli.output import harmless

if TYPE_CHECKING:
    from kerazoo.api.data import CheckReport
    from kerazoo.api.exports import FormatResult

SHOWN = 3  # findings of each kind in the table; --json has all


def table(report: "CheckReport") -> None:
    """Print the findings by kind, the classes, and the next step."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    settled = set(report.excluded) if report.manifest else set()
    rows = Table("finding", "number", "which", box=None, pad_edge=False)
    for kind, findings in report.kinds().items():
        spoils = any(f.spoils and f.key not in settled for f in findings)
        shown = [f"{harmless(f.key)}: {harmless(f.detail)}" for f in findings[:SHOWN]]
        more = [f"and {len(findings) - SHOWN} more (--json lists all)"] if len(findings) > SHOWN else []
        style = "red" if spoils else ""
        rows.add_row(kind, str(len(findings)), escape("\n".join(shown + more)), style=style)
    if report.findings:
        console.print(rows)
    for split, counts in report.counts.items():
        sizes = sorted(counts.values())
        each = f"{sizes[0]}" if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"
        total = "" if len(counts) == 1 else f", {len(counts)} classes, {each} each"
        console.print(f"{split}: {sum(sizes):,} images{total}", markup=False)
    console.print(_verdict(report), markup=False, soft_wrap=True)


def format_table(results: "Sequence[FormatResult]") -> None:
    """Print what each format of an export answers and costs."""
    if results:
        rows = Table(*results[0].columns, results[0].metric, box=None, pad_edge=False)
        for result in results:
            rows.add_row(*result.row())
        Console(highlight=False, width=None if sys.stdout.isatty() else 140).print(rows)


def timings_table(timings: Mapping[str, float]) -> None:
    """Print the seconds of each part of a run, and its share of the whole as a bar."""
    whole = sum(timings.values()) or 1.0
    for name, seconds in timings.items():
        share = max(seconds, 0.0) / whole
        print(f"{seconds:8.1f} s  {share:4.0%}  {name:<22} {'#' * round(40 * share)}".rstrip())
    print(f"{sum(timings.values()):8.1f} s        in all")


def _verdict(report: "CheckReport") -> str:
    if report.manifest:
        text = f"{report.manifest}: training leaves out {len(report.excluded)} of {report.images:,} images"
        return text + (f"; {_findings(report)} left that would spoil a result" if report.spoiled else "")
    if report.spoiled:
        advice = "correct them, or exclude them from training with --write"
        return f"{_findings(report)} in {report.images:,} images would spoil a result: {advice}"
    return f"{report.images:,} images, nothing that would spoil a result"


def _findings(report: "CheckReport") -> str:
    number = len(report.spoiled)
    return f"{number} finding{'s' if number > 1 else ''}"
