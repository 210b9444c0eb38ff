"""What was kept of a fine-tuning, as its drawings show it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from kerazoo.recipes.recipe import Recipe
from kerazoo.tasks.task import find_head
from kerazoo.training.outcome import Outcome, Values, trained

if TYPE_CHECKING:
    from kerazoo.transfer.phases import Stage


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
