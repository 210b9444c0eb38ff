"""The evaluations of a finished run from the files in its folder, without its data and without its network."""

import csv
import io

import numpy as np

from kerazoo.arrays import read_answers
from kerazoo.errors import RunError
from kerazoo.evaluation.answers import FOLDS, Evaluation, from_text
from kerazoo.files import WAY_OUT, open_regular
from kerazoo.runs.digests import check_digests
from kerazoo.runs.records import read_data
from kerazoo.runs.run import Run
from kerazoo.tasks.task import find_task


def recorded_results(run: Run) -> list[Evaluation]:
    """The evaluations that say how good `run` is, from its files: on val and test, for an ensemble on folds and test.

    Raises RunError, which names the file, if one is missing, damaged, or was changed after the run finished.
    """
    check_digests(run.folder)
    first = FOLDS if run.spec.members else "val"
    tested = ["test"] if "test" in read_data(run.folder).get("counts", {}) else []
    return [_read(run, split) for split in (first, *tested)]


def _read(run: Run, split: str) -> Evaluation:
    spec = run.spec
    path = run.folder / "evaluation" / f"{split}.csv"
    task = find_task(spec.task)
    try:
        with io.TextIOWrapper(open_regular(path), "utf-8", newline="") as text:
            _, *rows = ([from_text(cell) for cell in row] for row in csv.reader(text))
        labels = task.labels_of_cells([row[1:] for row in rows], spec.class_names)
    except (OSError, ValueError, KeyError, IndexError, csv.Error) as error:
        raise RunError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}; {WAY_OUT}") from error
    answers = read_answers(path.with_suffix(".npy"), (len(rows), len(spec.class_names)))
    loss = float(np.mean(task.losses_of_answers(answers, labels)))
    return Evaluation(
        split, tuple(row[0] for row in rows), labels, answers, spec.class_names, loss, spec.task,
        thresholds=spec.thresholds, chose=split in (FOLDS, "val"),
    )  # fmt: skip
