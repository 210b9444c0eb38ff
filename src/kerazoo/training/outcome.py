"""What was kept of a training, as its drawings show it: curves, feature maps and TensorBoard."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kerazoo.insight.curves import curves_of

log = logging.getLogger("kerazoo")

Values = dict[str, float]  # of a chart: "loss", and the task's metric


@dataclass(frozen=True)
class Outcome:
    """`levels` are the phases whose validation values are drawn as lines: the probe, and what was kept in the end.

    `dropped` is whether the epochs of fine-tuning were dropped; `epoch` whose weights were kept as they were, None
    where those of no epoch were.
    """

    epoch: float | None
    dropped: bool = False
    levels: Mapping[str, Values] = field(default_factory=dict)

    def draw(self, history: Sequence[Mapping[str, float]], folder: Path) -> None:
        """`curves.svg` and `curves.png`, where there are epochs; an error of the disk is said, and no more."""
        levels = {name: values for name, values in self.levels.items() if f"kept: {name}" not in self.levels}
        try:
            for ending in ("svg", "png") if history else ():
                path = folder / f"curves.{ending}"
                curves_of(history, path, kept=self.epoch, dropped=self.dropped, levels=levels)
        except OSError as error:
            log.info(f"{error.filename} cannot be written: {error.strerror}; the run goes on without it")


def trained(history: Sequence[Mapping[str, float]], *, keeps_best: bool) -> Outcome:
    """Of a training: the last epoch, or where it `keeps_best` the one of the lowest val_loss."""
    if not history:
        return Outcome(None)
    known = [(row["val_loss"], row["epoch"]) for row in history if math.isfinite(row.get("val_loss", math.nan))]
    best = min(known)[1] if known and keeps_best else history[-1]["epoch"]
    return Outcome(best)
