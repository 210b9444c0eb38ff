"""The table of the results of folds, and the results of the ensemble."""

import logging
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from kerazoo.evaluation.answers import FOLDS, Evaluation
from kerazoo.tasks.measures import interval, mean_interval
from kerazoo.tasks.task import find_task

log = logging.getLogger("kerazoo")


@dataclass(frozen=True)
class FoldResult:
    """The result of the run of a fold on its images, which it did not see.

    `run` is its path below the ensemble's folder, `kept` its last kept phase.
    """

    run: str
    fold: int
    images: int
    score: float
    loss: float
    seconds: float
    kept: str | None

    title: ClassVar[str] = "fold    images  {metric:>8}    loss       s  kept"

    def line(self, value: float) -> str:
        """A row of the table under `title`, with the score as the metric's `value`."""
        return (
            f"{self.fold:<6}  {self.images:>6,}  {value:>8.4f}  {self.loss:.4f}  {self.seconds:>6.0f}  "
            f"{self.kept or 'training'}"
        )


def show_folds(
    rows: list[FoldResult], result: Evaluation, groups: tuple[str, ...] | None, tested: list[Evaluation]
) -> dict[str, Any]:
    """Log the table, and return the results of the run."""
    task = find_task(result.task)
    scores = task.scores_of_answers(result.probabilities, result.labels)
    ((metric, value),) = task.chart_values(float(scores.mean())).items()
    each = [task.chart_values(row.score)[metric] for row in rows]
    log.info(FoldResult.title.format(metric=metric))
    for row, one in zip(rows, each, strict=True):
        log.info(row.line(one))
    losses = np.array([row.loss for row in rows])
    spread = float(np.std(each, ddof=1))
    log.info(f"mean            {np.mean(each):>8.4f}  {losses.mean():.4f}")
    log.info(f"spread          {spread:>8.4f}  {losses.std(ddof=1):.4f}  (standard deviation over the folds)")
    low, high = _interval(scores, groups, exclusive=task.exclusive)
    low, high = sorted(task.chart_values(end)[metric] for end in (low, high))
    each_loss = task.losses_of_answers(result.probabilities, result.labels)
    loss_low, loss_high = mean_interval(each_loss, groups)
    log.info(
        f"out of fold: {metric} {value:.4f} (95 % {low:.4f} to {high:.4f}), loss {result.loss:.4f} (95 % "
        f"{loss_low:.4f} to {loss_high:.4f}), {len(scores):,} images"
    )
    log.info("the ensemble's networks have seen these images; only a test split can tell how good it is")
    for evaluation in tested:
        log.info(evaluation.line())
    return {
        **result.summary(), f"{FOLDS}_{metric}_interval": [low, high], f"{FOLDS}_loss_interval": [loss_low, loss_high],
        f"{FOLDS}_{metric}_mean": float(np.mean(each)), f"{FOLDS}_{metric}_spread": spread,
        **{name: value for one in tested for name, value in one.summary().items()},
    }  # fmt: skip


def _interval(scores: np.ndarray, groups: tuple[str, ...] | None, *, exclusive: bool) -> tuple[float, float]:
    """The 95 % interval of the mean score: Wilson's for right and wrong answers, unless images belong together."""
    if exclusive and groups is None:
        return interval(float(scores.mean()), len(scores))
    return mean_interval(scores, groups)
