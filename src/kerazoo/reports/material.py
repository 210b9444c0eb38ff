"""What a report is made of: everything that a finished run's folder holds, read once."""

import json
import logging
import os
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kerazoo.errors import KerazooError
from kerazoo.evaluation.answers import Evaluation
from kerazoo.evaluation.recorded import recorded_results
from kerazoo.files import open_regular, read_json
from kerazoo.insight.findings.finding import FILE, Finding
from kerazoo.runs.records import read_data, read_state
from kerazoo.runs.run import Run

log = logging.getLogger("kerazoo")

LINES = "watch.jsonl"
LARGEST = 64 * 2**20  # bytes of it that are read
SHOWN = (b"epoch/train/learning_rate", b"/global/", b'"text"', b'/ratio"', b'/distance"')  # parts of its lines
Series = dict[str, tuple[list[float], list[float]]]  # tag -> steps, values


@dataclass(frozen=True)
class Material:
    """A finished run. `results` are its evaluations, `main` the first of them, which the report looks into."""

    run: Run
    results: list[Evaluation]
    notes: list[str] = field(default_factory=list)  # what could not be shown, and why

    @classmethod
    def of(cls, run: Run) -> "Material":
        """Read the answers of `run`. Raises RunError, which names the file, if they cannot be read."""
        return cls(run, recorded_results(run))

    @property
    def main(self) -> Evaluation:
        """The evaluation on validation, or the out-of-fold answers of an ensemble."""
        return self.results[0]

    @cached_property
    def state(self) -> dict[str, Any]:
        """The fields of `run.json`."""
        return read_state(self.run.folder)

    @cached_property
    def data(self) -> dict[str, Any]:
        """The fields of `data.json`."""
        return read_data(self.run.folder)

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions, hardware and command; {} if they cannot be read."""
        return self._optional("environment.json")

    @cached_property
    def history(self) -> dict[str, list[float]]:
        """The losses and metrics of each epoch; {} if they cannot be read."""
        try:
            return self.run.history
        except KerazooError as error:
            self.leave_out("the curves", error)
            return {}

    @cached_property
    def findings(self) -> list[Finding] | None:
        """The findings of the diagnostics, the worst first; None if there were no diagnostics."""
        values = self._optional(FILE)
        try:
            return [Finding.from_json(each) for each in values["findings"]] if values else None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self.leave_out("the findings", error)
            return None

    @cached_property
    def watched(self) -> Series:
        """The numbers that the loggers wrote, by tag; {} if there are none."""
        series: Series = {}
        for line in self._written:
            value = line.get("value")
            if isinstance(value, int | float):
                steps, values = series.setdefault(str(line["tag"]), ([], []))
                steps.append(float(line["step"]))
                values.append(float(value))
        return series

    @cached_property
    def texts(self) -> dict[str, str]:
        """The newest text of each tag that the loggers wrote."""
        return {str(line["tag"]): str(line["text"]) for line in self._written if "text" in line}

    @cached_property
    def _written(self) -> list[dict[str, Any]]:
        path = self.run.folder / LINES
        if not path.is_file():
            return []
        rows = []
        try:
            with open_regular(path) as file:
                if file.seekable() and path.stat().st_size > LARGEST:  # the newest lines
                    file.seek(-LARGEST, os.SEEK_END)
                    file.readline()
                for line in file:
                    with suppress(ValueError):  # a line that a killed process did not finish
                        rows += [json.loads(line)] if wanted(line) else []
        except OSError as error:
            self.leave_out("what the loggers wrote", error)
        return [row for row in rows if isinstance(row, dict) and {"tag", "step"} <= row.keys()]

    def _optional(self, name: str) -> dict[str, Any]:
        if not (self.run.folder / name).is_file():
            return {}
        try:
            return read_json(self.run.folder / name)
        except KerazooError as error:
            self.leave_out(name, error)
            return {}

    def leave_out(self, what: str, why: object) -> None:
        """Note that `what` is not in the report, and log it in one line."""
        reason = " ".join(str(why).split())[:300]
        note = f"{what} could not be shown: {reason}"
        if note not in self.notes:
            self.notes.append(note)
            log.warning(f"the report of {self.run.folder} is without {what}: {reason}")


def wanted(line: bytes) -> bool:
    """Whether a line has a number or a text that a report shows; most lines have not, and parsing them takes time."""
    return any(part in line for part in SHOWN)
