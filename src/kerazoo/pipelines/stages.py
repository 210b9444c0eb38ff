"""What each stage of a transfer cost and gained on validation: lines as it goes on, `stages.json` at the end.

A stage is kept where it helps by more than chance (`Measured.helps_over`), so that the result is never below the probe.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kerazoo.files import write_json
from kerazoo.pipelines.features import Features
from kerazoo.pipelines.probe import Probe
from kerazoo.pipelines.scores import Gain, Measured


@dataclass(frozen=True)
class Stage:
    """One stage: seconds; of features, how many were `computed`; the mean score and loss on validation with it; what it
    gained in score, and saved in loss, over what was kept before."""

    name: str
    seconds: float
    score: float | None = None
    loss: float | None = None
    gain: Gain | None = None
    saved: Gain | None = None
    kept: bool = True
    why: str = ""
    computed: int | None = None


class Stages:
    """The stages of a run so far, and the measure of the best of them. `say` takes one line for each."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.stages: list[Stage] = []
        self.best: Measured | None = None

    def features(self, passes: Sequence[Features]) -> None:
        """The first stage: passes of the frozen network."""
        computed, seconds = sum(one.computed for one in passes), sum(one.seconds for one in passes)
        rows = sum(len(one.values) for one in passes)
        where = f"{computed:,} computed, {rows - computed:,} from the cache" if computed < rows else "all computed"
        self._add(
            Stage("features", seconds, why=where, computed=computed),
            f"features of {rows:,} pictures: {where}; {seconds:.1f} s",
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
        self._add(Stage("probe", seconds, score, loss, why=said), line)

    def judge(self, name: str, measured: Measured, seconds: float) -> bool:
        """Whether a later stage is kept: where it helps over what was kept before."""
        assert self.best is not None
        gained, saved = measured.gain_over(self.best), measured.saved_over(self.best)
        kept, pictures = measured.helps_over(self.best), f"{len(measured.scores):,} val pictures"
        score, loss = float(measured.scores.mean()), float(measured.losses.mean())
        if kept:
            why = "kept"
        elif not np.isfinite(loss):
            why = f"dropped: its loss on {pictures} is no finite number"
        elif gained.mean < 0:
            why = f"dropped: it is worse on {pictures}"
        else:
            why = f"dropped: on {pictures} it may be chance"
        line = f"{name}: val {score:.4f}, gain {gained}, loss {loss:.4f}; {why}; {seconds:.1f} s"
        self._add(Stage(name, seconds, score, loss, gained, saved, kept, why), line)
        if kept:
            self.best = measured
        return kept

    def _add(self, stage: Stage, line: str) -> None:
        self.stages.append(stage)
        self.say(line)

    def to_json(self) -> list[dict[str, Any]]:
        """As they are stored: infinite ends of an interval are null."""

        def finite(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: finite(one) for key, one in value.items()}
            return None if isinstance(value, float) and not np.isfinite(value) else value

        return [finite(asdict(stage)) for stage in self.stages]

    def write(self, folder: Path, probe: Probe) -> None:
        """`stages.json`: the stages, and the path of penalties that the probe was chosen from."""
        path = [{"penalty": p, "loss": loss, "score": score} for p, loss, score in probe.path]
        write_json(folder / "stages.json", {"stages": self.to_json(), "penalties": path})
