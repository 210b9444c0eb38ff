"""The gate for a format: every answer from the images' bytes, in a fresh process, and what the format costs."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kerazoo.errors import GateError
from kerazoo.exports.formats import reference
from kerazoo.exports.formats.table import BROWSER, LOSS, REFERENCE, SAVED_MODEL_FORMAT, Format
from kerazoo.exports.layout import DEFAULT, SAVED_MODEL, VARIABLES
from kerazoo.exports.questions import Question
from kerazoo.exports.web.browser import browse
from kerazoo.startup import fresh_python
from kerazoo.tasks.measures import TOLERANCE, differences, interval
from kerazoo.tasks.task import find_task

if TYPE_CHECKING:
    from kerazoo.pipelines.data.examples import Examples

ROUNDINGS = 4  # times the effect of rounding: engines compute the resizing in other orders again
MEASURING = "kerazoo.exports.formats.measuring"


@dataclass(frozen=True)
class FormatResult:
    """What a format answers and costs, beside the SavedModel (`name` "saved_model").

    `bytes` is the size of its files. Of the `images` of validation, `agreement` is the share with the recorded class,
    and `largest_difference` that of an answer, of which `allowed` was the limit, None for integers. `quality` is the
    `metric` on these images: accuracy, or a regression's r2; for classes it has Wilson's 95 % `interval`.
    `milliseconds` are the times for an image in batches of 1 and of 8, of the network's size; `memory` is the largest
    number of bytes that its process had, None where a system does not say. Both are of the machine that exported.
    """

    name: str
    bytes: int
    images: int
    agreement: float
    largest_difference: float
    allowed: float | None
    metric: str
    quality: float
    interval: Sequence[float]
    milliseconds: Sequence[float]
    memory: int | None

    columns: ClassVar[tuple[str, ...]] = ("format", "MB", "agreement", "difference", "ms at 1", "at 8", "MB used")

    def to_json(self) -> dict[str, Any]:
        """The fields, as in the passport."""
        return asdict(self)

    def row(self) -> tuple[str, ...]:
        """The result in words, for the `columns` and one more, the quality."""
        one, eight = self.milliseconds
        between = f" ({self.interval[0]:.3f}-{self.interval[1]:.3f})" if self.interval else ""
        memory = "" if self.memory is None else f"{self.memory / 1e6:.0f}"
        return (
            self.name, f"{self.bytes / 1e6:.2f}", f"{self.agreement:.4f}", f"{self.largest_difference:.1g}",
            f"{one:.1f}", f"{eight:.1f}", memory, f"{self.quality:.4f}{between}",
        )  # fmt: skip


def check_format(
    export: Path, one: Format, asked: Sequence[Question], val: "Examples", rounding: float, scratch: Path
) -> FormatResult:  # fmt: skip
    """The result of a format of `export`. `asked` are questions of the gate, the first of which is about all of `val`.

    `rounding` is what rounding of pixels does to an answer, see `effect_of_rounding`. Raises GateError if an answer
    differs by more than ROUNDINGS times that over the format's tolerance, if more than LOSS right answers and more than
    one are lost, or if the format cannot be used.
    """
    if (export / REFERENCE).read_bytes() != Path(reference.__file__).read_bytes():
        raise GateError(f"{REFERENCE} is not that of this version of kerazoo")
    usable = [question for question in asked if question.signature == DEFAULT]
    files = [file for question in usable for file in question.files]
    found = browse(export, files, scratch) if one.engine == BROWSER else _measured(export, one.name, files, scratch)
    task = find_task(val.task)
    tolerance = None if one.tolerance is None else one.tolerance + ROUNDINGS * rounding
    start = 0
    for question in usable:
        answers = found["answers"][start : start + len(question.keys)]
        start += len(question.keys)
        if tolerance is not None:
            same = task.same_decision(answers, question.expected, tolerance)
            _refuse_others(one, question, answers, same, tolerance)
    if found["twice"]:
        raise GateError(f"format {one.name}: its answer differs from one call to the next")
    if not found["alone"] <= (1 if one.tolerance is None else one.tolerance):
        raise GateError(f"format {one.name}: an answer differs by {found['alone']:.2g} alone and in a batch")
    recorded = usable[0].expected
    answers = found["answers"][: len(val)]
    was, now = (task.quality(val.labels, values) for values in (recorded, answers))
    limit = max(LOSS, 1 / len(val)) if task.probabilities else LOSS  # of few images one may be another
    if not was[1] - now[1] <= limit + 1e-9:
        raise GateError(
            f"format {one.name}: its {now[0]} on validation is {now[1]:.4f}, and that of the evaluated model "
            f"{was[1]:.4f}; it may lose {limit:.2g}; leave the format out"
        )
    agreement = float(task.same_decision(answers, recorded, 0.0).mean())
    size = sum(file.stat().st_size for file in (export / one.folder).rglob("*") if file.is_file())
    largest = float(differences(answers, recorded).max())
    return _result(one.name, size, val, answers, found, agreement, largest, tolerance)


def measure_saved_model(
    export: Path, recorded: Question, val: "Examples", largest_difference: float, scratch: Path
) -> FormatResult:
    """The result of the SavedModel, whose answers the gate has compared."""
    found = _measured(export, SAVED_MODEL_FORMAT, recorded.files, scratch)
    files = [export / SAVED_MODEL, *(export / VARIABLES).parent.iterdir()]
    size = sum(file.stat().st_size for file in files)
    return _result(SAVED_MODEL_FORMAT, size, val, recorded.expected, found, 1.0, largest_difference, TOLERANCE)


def _result(
    name: str, size: int, val: "Examples", answers: np.ndarray, found: dict[str, Any], agreement: float, largest: float,
    allowed: float | None,
) -> FormatResult:  # fmt: skip
    task = find_task(val.task)
    metric, quality = task.quality(val.labels, answers)
    between = list(interval(quality, len(val))) if task.exclusive else []
    times = [round(float(seconds) * 1000, 3) for seconds in found["seconds"]]
    memory = None if found["memory"] is None else int(found["memory"])
    return FormatResult(name, size, len(val), agreement, largest, allowed, metric, quality, between, times, memory)


def _refuse_others(
    one: Format, question: Question, answers: np.ndarray, same: np.ndarray, tolerance: float
) -> None:  # fmt: skip
    """Raise GateError, which names the images, if an answer is another one than expected."""
    if answers.shape != question.expected.shape:
        raise GateError(f"format {one.name}: its answers must be {question.expected.shape}, got {answers.shape}")
    difference = differences(answers, question.expected)
    wrong = [question.keys[number] for number in np.flatnonzero(~((difference <= tolerance) & same)).tolist()]
    if wrong:
        named = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        other = "the evaluated model" if question.recorded else "the run's own network"
        raise GateError(
            f"format {one.name} does not give the same answers as {other} for {len(wrong)} of {len(question.keys)} "
            f"images, {named} (largest difference {difference.max():.2g}, at most {tolerance:.2g} is allowed)"
        )


def _measured(export: Path, name: str, files: Sequence[str], scratch: Path) -> dict[str, Any]:
    questions, result = scratch / f"{name}.json", scratch / f"{name}.npz"
    questions.write_text(json.dumps({"files": list(files)}), encoding="utf-8")
    command = fresh_python(MEASURING, "measure", str(export.absolute()), name, str(questions), str(result))
    process = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if process.returncode:
        default = f"it was ended by signal {-process.returncode}" if process.returncode < 0 else "no message"
        reason = (process.stderr.strip().splitlines() or [default])[-1]
        raise GateError(f"format {name} cannot be used in a fresh process: {reason}")
    with np.load(result) as found:
        return dict(found)
