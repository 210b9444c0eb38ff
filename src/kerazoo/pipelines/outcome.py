"""What was kept of a run, in the terms of its drawings: curves, feature maps and TensorBoard show that."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kerazoo.callbacks.curves import curves_of
from kerazoo.models.heads import find_head
from kerazoo.pipelines.recipe import Recipe

if TYPE_CHECKING:
    from kerazoo.pipelines.stages import Stage

Values = dict[str, float]  # of a chart: "loss", and the head's metric


@dataclass(frozen=True)
class Outcome:
    """`levels` are the phases whose validation values are drawn as lines: the probe, and what was kept in the end.

    `dropped` is whether the epochs of fine-tuning were dropped; `epoch` whose weights were kept as they were, None
    where those of no epoch were.
    """

    epoch: float | None
    dropped: bool = False
    levels: Mapping[str, Values] = field(default_factory=dict)

    def draw(self, history: Sequence[Mapping[str, float]], folder: Path, say: Callable[[str], None]) -> None:
        """`curves.svg` and `curves.png`, where there are epochs; an error of the disk is said, and no more."""
        levels = {name: values for name, values in self.levels.items() if f"kept: {name}" not in self.levels}
        try:
            for ending in ("svg", "png") if history else ():
                path = folder / f"curves.{ending}"
                curves_of(history, path, kept=self.epoch, dropped=self.dropped, levels=levels)
        except OSError as error:
            say(f"{error.filename} cannot be written: {error.strerror}; the run goes on without it")


def trained(history: Sequence[Mapping[str, float]], recipe: Recipe) -> Outcome:
    """Of a training: the last epoch, or with early stopping the one of the lowest val_loss."""
    if not history:
        return Outcome(None)
    known = [(row["val_loss"], row["epoch"]) for row in history if math.isfinite(row.get("val_loss", math.nan))]
    best = min(known)[1] if known and recipe.training.early_stopping is not None else history[-1]["epoch"]
    return Outcome(best)


def transferred(
    history: Sequence[Mapping[str, float]], recipe: Recipe, stages: "Iterable[Stage]", task: str
) -> Outcome:  # fmt: skip
    """Of a transfer: the probe and the last phase that was kept, each with what it got on validation."""
    measured = [stage for stage in stages if stage.score is not None]
    kept = [stage for stage in measured if stage.kept][-1]
    tuned = next((stage for stage in measured if stage.name == "fine-tuning"), None)
    dropped = tuned is not None and not tuned.kept
    lines = {"probe": measured[0], f"kept: {kept.name}": kept}
    levels = {name: _values(stage, recipe, task) for name, stage in lines.items()}
    epoch = trained(history, recipe).epoch if kept is tuned else None
    return Outcome(epoch, dropped, levels)


def _values(stage: "Stage", recipe: Recipe, task: str) -> Values:
    head, training = find_head(task), recipe.training
    values: Values = {}
    if training.loss in (None, head.loss) and not training.label_smoothing:  # else the curves have another loss
        values["loss"] = math.nan if stage.loss is None else stage.loss
    assert stage.score is not None
    values["mae" if head.metric == "mae" else "accuracy"] = -stage.score if head.metric == "mae" else stage.score
    return values
