"""For several labels an image: the result of each label, and the thresholds that a run keeps."""

from dataclasses import dataclass, replace

from kerazoo.evaluation.answers import Evaluation
from kerazoo.tasks.measures import average_precisions
from kerazoo.tasks.task import find_task
from kerazoo.tasks.thresholds import HALF, best_threshold, cross_fitted_f1, f1, kept_thresholds


def choose_thresholds(result: Evaluation) -> Evaluation:
    """`result`, the answers of validation, with the thresholds that they choose; as it is for tasks without them.

    Only what is said of the answers changes: the answers, the loss and the metrics at 0.5 stay.
    """
    if not find_task(result.task).has_thresholds:
        return result
    return replace(result, thresholds=kept_thresholds(result.labels, result.probabilities), chose=True)


@dataclass(frozen=True)
class LabelResult:
    """A label: its examples, average precision (None without examples), and F1 with threshold 0.5 and with the best.

    `threshold` and `f1_best` are None where there are too few examples to choose. `kept` is the model's threshold.
    """

    name: str
    examples: int
    average_precision: float | None
    f1: float
    threshold: float | None
    f1_best: float | None
    kept: float = HALF


def label_results(result: Evaluation) -> list[LabelResult]:
    """The result of each label of an evaluation with several labels an example."""
    precisions = average_precisions(result.labels, result.probabilities)
    kept = result.thresholds or (HALF,) * len(result.class_names)
    columns = zip(result.class_names, result.labels.T, result.probabilities.T, precisions, kept, strict=True)
    rows = []
    for name, labels, chances, precision, threshold in columns:
        has = labels > 0
        score = cross_fitted_f1(has, chances)
        row = LabelResult(
            name=name, examples=int(has.sum()), average_precision=precision, f1=f1(has, chances >= HALF),
            threshold=None if score is None else best_threshold(has, chances), f1_best=score, kept=threshold,
        )  # fmt: skip
        rows.append(row)
    return rows
