"""The outcome of fine-tuning, for its charts: the phase that was kept."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from kerazoo.recipes.parts import TrainingPart
from kerazoo.tasks.base import Task
from kerazoo.training.outcome import Outcome, Values, trained

if TYPE_CHECKING:
    from kerazoo.transfer.phases import Phase


def transferred(
    history: Sequence[Mapping[str, float]], phases: "Iterable[Phase]", training: TrainingPart, task: Task
) -> Outcome:
    """The outcome of transfer learning: the probe and the last phase that was kept, with their validation values."""
    measured = [phase for phase in phases if phase.score is not None]
    kept = [phase for phase in measured if phase.kept][-1]
    tuned = next((phase for phase in measured if phase.name == "fine-tuning"), None)
    dropped = tuned is not None and not tuned.kept
    lines = {"probe": measured[0], f"kept: {kept.name}": kept}
    levels = {name: _values(phase, training, task) for name, phase in lines.items()}
    epoch = trained(history, keeps_best=training.early_stopping is not None).epoch if kept is tuned else None
    return Outcome(epoch, dropped, levels)


def _values(phase: "Phase", training: TrainingPart, task: Task) -> Values:
    values: Values = {}
    if training.loss in (None, task.loss) and not training.label_smoothing:  # otherwise the curves show another loss
        values["loss"] = math.nan if phase.loss is None else phase.loss
    assert phase.score is not None
    return values | task.chart_values(phase.score)
