"""The outcome of training for its charts: which epoch or phase was kept."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kerazoo.insight.curves import curves_of

log = logging.getLogger("kerazoo")

Values = dict[str, float]  # values in a chart: "loss", and the task's metric


@dataclass(frozen=True)
class Outcome:
    """The epoch or the phase that was kept.

    `epoch` is the epoch whose weights were kept, or None if other weights were kept. `dropped` is whether the epochs of
    fine-tuning were dropped. `levels` are the phases whose validation values are drawn as lines: the probe, and the
    phase that was kept.
    """

    epoch: float | None
    dropped: bool = False
    levels: Mapping[str, Values] = field(default_factory=dict)

    def draw(self, history: Sequence[Mapping[str, float]], folder: Path) -> None:
        """Draw `curves.svg` and `curves.png` if there are epochs. An error of the disk is only logged."""
        levels = {name: values for name, values in self.levels.items() if f"kept: {name}" not in self.levels}
        try:
            for ending in ("svg", "png") if history else ():
                path = folder / f"curves.{ending}"
                curves_of(history, path, kept=self.epoch, dropped=self.dropped, levels=levels)
        except OSError as error:
            log.info(f"{error.filename} cannot be written: {error.strerror}; the run continues without it")


def trained(history: Sequence[Mapping[str, float]], *, keeps_best: bool) -> Outcome:
    """The outcome of training: the last epoch, or with `keeps_best` the epoch with the lowest val_loss."""
    if not history:
        return Outcome(None)
    known = [(row["val_loss"], row["epoch"]) for row in history if math.isfinite(row.get("val_loss", math.nan))]
    best = min(known)[1] if known and keeps_best else history[-1]["epoch"]
    return Outcome(best)
