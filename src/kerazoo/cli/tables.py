"""The tables of a check's findings, an export's formats, the seconds of a run, and the anatomy of a model."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kerazoo.cli.output import harmless
from kerazoo.terminal import format_bytes, format_macs

if TYPE_CHECKING:
    from kerazoo.api.data import CheckReport
    from kerazoo.api.exports import FormatResult
    from kerazoo.api.inspection import Anatomy, Chain, LayerAnatomy

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


def anatomy_table(anatomy: "Anatomy") -> None:
    """Print a row for each layer, the sums, and why fields are not known."""
    rows = Table(box=None, pad_edge=False)
    for name in ("layer", "kind", "output"):
        rows.add_column(name, overflow="fold")
    for name in ("parameters", "MACs", "memory", "field", "jump", "start"):
        rows.add_column(name, justify="right")
    for layer in anatomy.layers:
        rows.add_row(*map(escape, _cells(layer)))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(rows)
    macs = "unknown" if anatomy.macs is None else f"{format_macs(anatomy.macs)} ({anatomy.macs:,})"
    print(
        f"{anatomy.model} on {'x'.join(map(str, anatomy.input_shape))}: {anatomy.parameters:,} parameters "
        f"({anatomy.trainable:,} trainable), {macs}, activations {format_bytes(anatomy.activation_bytes)}"
    )
    last = anatomy.last_map
    if last is not None:
        print(f"receptive field of {last.name}: {last.field.text()} px, every {_numbers(last, 'jump')} px")
    if any(layer.field.global_context for layer in anatomy.layers):
        print("+ it also knows the whole image, by a factor or by statistics over all positions")
    for reason in dict.fromkeys(layer.field.unknown for layer in anatomy.layers if layer.field.unknown):
        print(f"unknown: {harmless(reason)}")


def layer_lines(layer: "LayerAnatomy") -> None:
    """Print what is known of one layer, a line each."""
    names = ("layer", "kind", "output", "parameters", "MACs", "memory", "receptive field", "jump", "start")
    for name, cell in zip(names, _cells(layer), strict=True):
        print(f"{name:<16} {harmless(cell)}")
    if layer.field.unknown:
        print(f"{'unknown because':<16} {harmless(layer.field.unknown)}")


def _cells(layer: "LayerAnatomy") -> list[str]:
    return [
        layer.name, layer.kind, "x".join(map(str, layer.output_shape)), f"{layer.parameters:,}",
        "unknown" if layer.macs is None else f"{layer.macs:,}", format_bytes(layer.activation_bytes),
        layer.field.text(), _numbers(layer, "jump"), _numbers(layer, "start"),
    ]  # fmt: skip


def _numbers(layer: "LayerAnatomy", name: str) -> str:
    """The jump or the start of a field: one number where it is the same on all axes, none where it means nothing."""
    if layer.field.unknown or layer.field.is_whole_image:
        return "-"
    values = [f"{number:g}" for number in layer.field.to_json()[name]]
    return values[0] if len(set(values)) == 1 else ",".join(values)


def chain_table(chains: "Sequence[Chain]") -> None:
    """Print what chains of convolutions cost, and how much less than the first."""
    rows = Table(box=None, pad_edge=False)
    for name in ("convolutions", "channels", "field", "weights", "MACs", "of the first"):
        rows.add_column(name, justify="left" if name in ("convolutions", "channels") else "right")
    for chain in chains:
        widths = [chain.convolutions[0].channels, *(one.filters for one in chain.convolutions)]
        rows.add_row(
            chain.text, " > ".join(map(str, widths)), "x".join(map(str, chain.receptive_field)),
            f"{chain.weights:,}", f"{chain.macs:,}", f"{chain.weights / chains[0].weights:.1%}",
        )  # fmt: skip
    Console(highlight=False, width=None if sys.stdout.isatty() else 140).print(rows)


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
