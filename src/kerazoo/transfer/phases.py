"""What each phase of a transfer cost and gained on validation: lines as it goes on, `phases.json` at the end.

A phase is kept where it helps by more than chance (`Measured.helps_over`), so that the result is never below the probe.
What is fitted to validation is judged by cross-fitting: `score` and `loss` are those of each fold with what the others
give.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kerazoo.files import write_json
from kerazoo.tasks.scores import Gain, Measured
from kerazoo.transfer.cross_fitting import Average, Temperature
from kerazoo.transfer.features import Features
from kerazoo.transfer.probe import Probe

log = logging.getLogger("kerazoo")


@dataclass(frozen=True)
class Phase:
    """One phase: seconds; of features, how many were `computed`; the mean score and loss on validation with it; what it
    gained in score, and saved in loss, over what was kept before. Of fine-tuning, of how many epochs it is the best on
    validation (`choices`), which widens the intervals; of a temperature, the expected calibration error before and with
    it (`ece_before`, `ece`)."""

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


class Phases:
    """The phases of a run so far, and the measure of the best of them. The log gets a line for each, behind `title`."""

    def __init__(self, title: str = "") -> None:
        self.title = title
        self.phases: list[Phase] = []
        self.best: Measured | None = None

    def features(self, passes: Sequence[Features]) -> None:
        """The first phase: passes of the frozen network."""
        computed, seconds = sum(one.computed for one in passes), sum(one.seconds for one in passes)
        rows = sum(len(one.values) for one in passes)
        where = f"{computed:,} computed, {rows - computed:,} from the cache" if computed < rows else "all computed"
        self._add(
            Phase("features", seconds, why=where, computed=computed),
            f"features of {rows:,} images: {where}; {seconds:.1f} s",
        )

    def probe(self, probe: Probe, measured: Measured, seconds: float) -> None:
        """The second: the baseline."""
        self.best = measured
        said = f"penalty {probe.penalty:g}"
        if probe.path:
            said += f" of {len(probe.path)} by {probe.folds} folds, which give {probe.score:.4f}"
        if probe.unsolved:
            said += f"; {', '.join(f'{p:g}' for p in probe.unsolved)} did not converge"
        score, loss = float(measured.scores.mean()), float(measured.losses.mean())
        line = f"probe: val {score:.4f}, loss {loss:.4f}; {said}; {seconds:.1f} s"
        self._add(Phase("probe", seconds, score, loss, why=said), line)

    def keep_if_better(self, name: str, measured: Measured, seconds: float, *, choices: int = 1) -> bool:
        """Whether a later phase is kept: where it helps over what was kept before.

        It is the best of `choices` on validation.
        """
        assert self.best is not None
        kept = self._judge(name, measured, self.best, measured.helps_over(self.best, choices=choices), seconds, choices)
        if kept:
            self.best = measured
        return kept

    def average(self, average: Average, seconds: float) -> bool:
        """Whether an average is kept, by what it gets with shares chosen on other folds."""
        assert self.best is not None
        if average.share is None:
            self.leave_out("average", "none is better on validation than what is kept", seconds)
            return False
        kept = average.helps_over(self.best)
        self._judge(f"average, {average.share:g} tuned", average.judged, self.best, kept, seconds)
        if kept:
            self.best = average.measured
        return kept

    def temperature(self, temperature: Temperature, seconds: float) -> bool:
        """Whether a temperature is kept, by what it gets where it is fitted to other folds."""
        before, after = temperature.error_before, temperature.error
        if temperature.at_end:
            self.leave_out(
                "temperature",
                f"the best value is at the end of the searched range, {temperature.value:g}; these answers do not "
                "determine one (as when all are right)",
                seconds, ece_before=before,
            )  # fmt: skip
            return False
        self._judge(
            f"temperature {temperature.value:.3f}", temperature.judged, temperature.before, temperature.helps, seconds,
            ece_before=before, ece=after,
        )  # fmt: skip
        return temperature.helps

    def leave_out(self, name: str, why: str, seconds: float, ece_before: float | None = None) -> None:
        """A later phase that there is nothing to judge of."""
        why = f"dropped: {why}"
        error = "" if ece_before is None else f"ECE {ece_before:.4f}; "
        line = f"{name}: {error}{why}; {seconds:.1f} s"
        self._add(Phase(name, seconds, kept=False, why=why, ece_before=ece_before), line)

    def _judge(
        self, name: str, measured: Measured, over: Measured, kept: bool, seconds: float, choices: int = 1,
        ece_before: float | None = None, ece: float | None = None,
    ) -> bool:  # fmt: skip
        gained, saved = measured.gain_over(over, choices=choices), measured.saved_over(over, choices=choices)
        images = f"{len(measured.scores):,} val images"
        score, loss = float(measured.scores.mean()), float(measured.losses.mean())
        if kept:
            why = "kept"
        elif not np.isfinite(loss):
            why = f"dropped: its loss on {images} is not finite"
        elif gained.mean < 0:
            why = f"dropped: it is worse on {images}"
        elif saved.mean < 0:
            why = f"dropped: its loss on {images} is higher"
        else:
            why = f"dropped: on {images} it may be chance"
        line = f"{name}: val {score:.4f}, gain {gained}, loss {loss:.4f}, saved {saved}; "
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

    def _add(self, phase: Phase, line: str) -> None:
        self.phases.append(phase)
        log.info(f"{self.title}{line}")

    def to_json(self) -> list[dict[str, Any]]:
        """As they are stored: infinite ends of an interval are null."""

        def finite(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: finite(one) for key, one in value.items()}
            return None if isinstance(value, float) and not np.isfinite(value) else value

        return [finite(asdict(phase)) for phase in self.phases]

    def write(self, folder: Path, probe: Probe) -> None:
        """`phases.json`: the phases, and the path of penalties that the probe was chosen from."""
        path = [{"penalty": p, "loss": loss, "score": score} for p, loss, score in probe.path]
        write_json(folder / "phases.json", {"phases": self.to_json(), "penalties": path})
