"""The cost and the validation gain of each phase of transfer learning: log lines during it, `phases.json` at the end.

A phase is kept only if it is significantly better (`Measured.helps_over`), so the result is never worse than the probe.
Values that are fitted to validation are evaluated by cross-fitting: `score` and `loss` of each fold use the values that
are fitted to the other folds.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kerazoo.files import write_json
from kerazoo.tasks.base import Task
from kerazoo.tasks.scores import Gain, Measured
from kerazoo.training.second_view import COST, NAME
from kerazoo.transfer.cross_fitting import Average, Temperature
from kerazoo.transfer.features import Features
from kerazoo.transfer.probe import Probe

log = logging.getLogger("kerazoo")


@dataclass(frozen=True)
class Phase:
    """One phase: its time in seconds, its mean score and loss on validation, and its gain over the phase kept before.

    `gain` is the gain in score, `saved` the reduction of the loss. `computed` is the number of features computed.
    `choices` is the number of epochs from which fine-tuning chose the best on validation; it widens the intervals.
    `ece_before` and `ece` are the expected calibration errors without and with a temperature.
    """

    name: str
    seconds: float
    score: float | None = None
    loss: float | None = None
    gain: Gain | None = None
    saved: Gain | None = None
    kept: bool = True
    why: str = ""
    computed: int | None = None
    choices: int = 1
    ece_before: float | None = None
    ece: float | None = None
    line: str = ""  # as in the log


class Phases:
    """The phases of a run so far, and the measure of the best one. Each gets a log line, which starts with `title`."""

    def __init__(self, task: Task, title: str = "") -> None:
        self.task = task
        self.title = title
        self.phases: list[Phase] = []
        self.best: Measured | None = None

    def features(self, passes: Sequence[Features]) -> None:
        """Add the first phase: passes of the frozen network."""
        computed = sum(one.computed for one in passes)
        seconds = sum(one.seconds for one in passes)
        rows = sum(len(one.values) for one in passes)
        where = f"{computed:,} computed, {rows - computed:,} from the cache" if computed < rows else "all computed"
        self._add(
            Phase("features", seconds, why=where, computed=computed),
            f"features of {rows:,} images: {where}; {seconds:.1f} s",
        )

    def probe(self, probe: Probe, measured: Measured, seconds: float) -> None:
        """Add the second phase: the baseline."""
        self.best = measured
        words = f"penalty {probe.penalty:g}"
        if probe.path and probe.score is not None:
            metric, value = self._metric(probe.score)
            words += f" (best of {len(probe.path)} by {probe.folds}-fold cross-validation, {metric} {value:.4f})"
        if probe.unsolved:
            words += f"; {', '.join(f'{p:g}' for p in probe.unsolved)} did not converge"
        score = float(measured.scores.mean())
        loss = float(measured.losses.mean())
        line = f"probe: val {score:.4f}, loss {loss:.4f}; {words}; {seconds:.1f} s"
        self._add(Phase("probe", seconds, score, loss, why=words), line)

    def keep_if_better(self, name: str, measured: Measured, seconds: float, *, choices: int = 1) -> bool:
        """Add a later phase; whether it is kept because it is better than the phase kept before.

        It was chosen as the best of `choices` on validation.
        """
        assert self.best is not None
        kept = self._judge(name, measured, self.best, measured.helps_over(self.best, choices=choices), seconds, choices)
        if kept:
            self.best = measured
        return kept

    def average(self, average: Average, seconds: float) -> bool:
        """Add an average; whether it is kept. Each fold is measured with the share that the other folds choose."""
        assert self.best is not None
        if average.share is None:
            self.leave_out("average", "no average is better on validation", seconds)
            return False
        kept = average.helps_over(self.best)
        self._judge(f"average, {average.share:g} tuned", average.judged, self.best, kept, seconds)
        if kept:
            self.best = average.measured
        return kept

    def mirror_images(self, measured: Measured, seconds: float, *, always: bool = False) -> bool:
        """Add answers from images and their mirror images; whether they are kept."""
        assert self.best is not None
        kept = always or measured.helps_over(self.best)
        self._judge(NAME, measured, self.best, kept, seconds, cost=COST)
        if kept:
            self.best = measured
        return kept

    def temperature(self, temperature: Temperature, seconds: float) -> bool:
        """Add a temperature; whether it is kept. Each fold is measured with the value fitted to the other folds."""
        before = temperature.error_before
        after = temperature.error
        if temperature.at_end:
            self.leave_out(
                "temperature",
                f"the best value is at the end of the search range, {temperature.value:g}; the answers do not "
                "determine a temperature (for example because all are right)",
                seconds, ece_before=before,
            )  # fmt: skip
            return False
        self._judge(
            f"temperature {temperature.value:.3f}", temperature.judged, temperature.before, temperature.helps, seconds,
            ece_before=before, ece=after,
        )  # fmt: skip
        return temperature.helps

    def leave_out(self, name: str, why: str, seconds: float, ece_before: float | None = None) -> None:
        """Add a later phase that was dropped without a measurement."""
        why = f"dropped: {why}"
        error = "" if ece_before is None else f"ECE {ece_before:.4f}; "
        line = f"{name}: {error}{why}; {seconds:.1f} s"
        self._add(Phase(name, seconds, kept=False, why=why, ece_before=ece_before), line)

    def _judge(
        self, name: str, measured: Measured, over: Measured, kept: bool, seconds: float, choices: int = 1,
        ece_before: float | None = None, ece: float | None = None, cost: str = "",
    ) -> bool:  # fmt: skip
        gained = measured.gain_over(over, choices=choices)
        saved = measured.saved_over(over, choices=choices)
        images = f"on {len(measured.scores):,} val images"
        score = float(measured.scores.mean())
        loss = float(measured.losses.mean())
        metric, value = self._metric(score)
        _, before = self._metric(float(over.scores.mean()))
        if kept:
            why = f"kept; {cost}" if cost else "kept"
        elif not np.isfinite(loss):
            why = f"dropped: its loss {images} is not finite"
        elif gained.mean < 0:
            worse = "lower" if value < before else "higher"  # a higher error is worse, a lower accuracy
            why = f"dropped: its {metric} {images} is {worse}, {value:.4f} against {before:.4f}"
        elif saved.mean < 0:
            why = f"dropped: its loss {images} is higher, {loss:.4f} against {float(over.losses.mean()):.4f}"
        else:
            why = f"dropped: the gain {images} may be chance"
        lower = f"{saved.mean:.4f} (95 % {saved.low:.4f} to {saved.high:.4f})"
        line = f"{name}: val {score:.4f}, gain {gained}, loss {loss:.4f}, lower by {lower}; "
        if choices > 1:
            line += f"best of {choices} epochs; "
        if ece is not None:
            line += f"ECE {ece_before:.4f} -> {ece:.4f}; "
        self._add(
            Phase(
                name, seconds, score, loss, gained, saved, kept, why, choices=choices, ece_before=ece_before, ece=ece
            ),
            f"{line}{why}; {seconds:.1f} s",
        )
        return kept

    def _metric(self, score: float) -> tuple[str, float]:
        """The metric of the task and its value, from a mean score."""
        ((name, value),) = self.task.chart_values(score).items()
        return name, value

    def _add(self, phase: Phase, line: str) -> None:
        self.phases.append(replace(phase, line=line))
        log.info(f"{self.title}{line}")

    def to_json(self) -> list[dict[str, Any]]:
        """The phases as JSON values; infinite ends of an interval are null."""

        def finite(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: finite(one) for key, one in value.items()}
            return None if isinstance(value, float) and not np.isfinite(value) else value

        return [finite(asdict(phase)) for phase in self.phases]

    def write(self, folder: Path, probe: Probe) -> None:
        """Write `phases.json`: the phases, and the penalties that the probe tried."""
        path = [{"penalty": p, "loss": loss, "score": score} for p, loss, score in probe.path]
        write_json(folder / "phases.json", {"phases": self.to_json(), "penalties": path})
