"""What a person sees of a check: a table of what was found, a progress bar, and a picture of the augmentation."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from kerazoo.models.preprocessing import Preprocessing
from kerazoo.pipelines.augmentation import draw_grid
from kerazoo.pipelines.examples import read_examples
from kerazoo.pipelines.image_folder import one_line
from kerazoo.pipelines.pictures import decoded_from
from kerazoo.pipelines.preflight import Report
from kerazoo.pipelines.recipe import Recipe
from kerazoo.pipelines.training import augmentation_of

SHOWN = 3  # findings of a kind that the table names; --json has all
DRAWN = 6  # pictures
SIDE = 160  # px of a drawn picture
FILES_A_LINE = 2000  # files between two lines where there is no terminal


@contextmanager
def progress_bar(doing: str = "checking", done: str = "checked") -> Iterator[Callable[[int, int], None]]:
    """A function of (count, of) that shows them on standard error: a bar on a terminal, else a line now and then."""
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


def table(report: Report) -> None:
    """Print the findings by kind, the classes, and what to do next."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    settled = set(report.excluded) if report.manifest else set()
    rows = Table("finding", "number", "which", box=None, pad_edge=False)
    for kind, findings in report.kinds().items():
        spoils = any(f.spoils and f.key not in settled for f in findings)
        shown = [f"{one_line(f.key)}: {one_line(f.detail)}" for f in findings[:SHOWN]]
        more = [f"and {len(findings) - SHOWN} more (--json names all)"] if len(findings) > SHOWN else []
        style = "red" if spoils else ""
        rows.add_row(kind, str(len(findings)), escape("\n".join(shown + more)), style=style)
    if report.findings:
        console.print(rows)
    for split, counts in report.counts.items():
        sizes = sorted(counts.values())
        each = f"{sizes[0]}" if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"
        total = "" if len(counts) == 1 else f", {len(counts)} classes, {each} each"
        console.print(f"{split}: {sum(sizes):,} pictures{total}", markup=False)
    console.print(_verdict(report), markup=False, soft_wrap=True)


def _verdict(report: Report) -> str:
    if report.manifest:
        said = f"{report.manifest}: training leaves out {len(report.excluded)} of {report.pictures:,} pictures"
        return said + (f"; {len(report.spoiled)} findings left that would spoil a result" if report.spoiled else "")
    if report.spoiled:
        advice = "mend them, or have training leave them out by --write"
        return f"{len(report.spoiled)} findings in {report.pictures:,} pictures would spoil a result: {advice}"
    return f"{report.pictures:,} pictures, nothing that would spoil a result"


def show_augmented_pictures(recipe: Recipe, report: Report, path: Path) -> None:
    """Draw some training pictures that can be used, as they are and as the recipe's augmentation shows them."""
    examples = read_examples(recipe.data).split("train")
    examples = examples.take(i for i, key in enumerate(examples.keys) if key not in report.excluded)
    step = max(1, len(examples) // DRAWN)
    chosen = examples.take(range(0, len(examples), step)[:DRAWN])
    side = recipe.data.size or SIDE
    channels = 3 if chosen.pixels is None else chosen.pixels.shape[-1]
    decode = decoded_from(chosen, Preprocessing(side, side, channels=channels))
    import tensorflow as tf

    pictures = np.stack([decode(tf.constant(index)).numpy() for index in range(len(chosen))])
    draw_grid(path, pictures, augmentation_of(recipe), seed=recipe.seed)
