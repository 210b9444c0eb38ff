"""Whether probabilities can be trusted; the labels of images that have several; the residuals of numbers."""

import numpy as np

from kerazoo.evaluation.answers import Evaluation
from kerazoo.evaluation.calibration import Calibration, calibration_of
from kerazoo.evaluation.label_thresholds import LabelResult, label_results
from kerazoo.insight.charts import Reliability, reliability_chart, scatter_chart
from kerazoo.reports.html import Cell, Html, chart, name_of, number, section, table, tag
from kerazoo.reports.material import Material
from kerazoo.reports.words import split_words

WELL, BADLY = 0.05, 0.15  # expected calibration errors
MOST_NUMBERS = 8  # numbers of a regression with charts
LONGEST = 24  # characters of a chart's title


def calibration(material: Material) -> Html | None:
    """How often answers come true, by their probability."""
    result = material.main
    found = calibration_of(result)
    if found is None:
        return None
    bins = [Reliability(b.count, b.confidence, b.right, b.right_low, b.right_high) for b in found.bins]
    made = reliability_chart(bins, title="Calibration", name="reliability")
    rows = [
        [f"{b.low:.2f} to {b.high:.2f}", Cell(f"{b.count:,}", b.count), Cell(f"{b.confidence:.3f}", b.confidence),
         Cell(f"{b.right:.3f} ({b.right_low:.2f} to {b.right_high:.2f})", b.right)]
        for b in found.bins
    ]  # fmt: skip
    columns = ["probability", "answers", "mean probability", "share that is right (95 % interval)"]
    numbers = tag("details", tag("summary", "The numbers of the chart"), table("Calibration", columns, rows))
    return section(
        "Can the probabilities be trusted?", tag("p", _verdict(found, result)), tag("p", _temperature(material)),
        chart(made.svg(), "Dots on the dashed line are as right as their probability says; below it, too sure."),
        numbers, anchor="calibration",
    )  # fmt: skip


def _verdict(found: Calibration, result: Evaluation) -> str:
    confidence = sum(b.confidence * b.count for b in found.bins)
    right = sum(b.right * b.count for b in found.bins)
    side = "too sure" if confidence > right else "not sure enough"
    what = "of the answer" if result.is_exclusive else "of each label"
    size = (
        "They can be trusted" if found.error <= WELL
        else f"On the whole they are {side}; use them for ranking only" if found.error > BADLY
        else f"On the whole they are a little {side}"
    )  # fmt: skip
    return (
        f"{size}: the probability {what} differs from the share that is right by {found.error:.3f} on average "
        f"(expected calibration error, ECE, over 15 bins)."
    )


def _temperature(material: Material) -> str:
    spec = material.run.spec
    if spec.members:
        values = ", ".join(f"{member.temperature:.3f}" for member in spec.members)
        return f"Each network of the ensemble has a temperature of its own: {values}."
    phase = next((p for p in material.run.phases if str(p.get("name", "")).startswith("temperature")), None)
    if spec.temperature == 1:
        why = str((phase or {}).get("why", "")).removeprefix("dropped: ")
        return f"No temperature is applied{f': {why}' if why else ''}."
    effect = "less sure" if spec.temperature > 1 else "surer"
    errors = [(phase or {}).get(key) for key in ("ece_before", "ece")]
    change = f" (ECE {errors[0]:.3f} without, {errors[1]:.3f} with it, by cross-fitting)" if None not in errors else ""
    return (
        f"The logits are divided by a temperature of {spec.temperature:.3f}, fitted on validation, which makes answers "
        f"{effect}{change}. It is part of the run and of its exports."
    )


def labels(result: Evaluation) -> Html:
    """The average precision of each label, the threshold that suits it best, and the one that the model keeps."""
    rows = [_label(number, each) for number, each in enumerate(label_results(result))]
    note = (
        "Average precision: how well the images with a label are ranked before those without it; 1 is perfect, and the "
        "share of images with the label is as good as chance. The best threshold has the largest F1 on "
        f"{split_words(result.split)}; its F1 is by cross-fitting, each fifth of the images with the threshold that "
        f"the others choose. {_kept(result)}"
    )
    columns = [
        "label", "images", "average precision", "F1 at 0.5", "best threshold", "F1 at the best threshold", "kept",
    ]  # fmt: skip
    made = table("Labels", columns, rows, sortable=True, note=note)
    return section("Average precision and thresholds", made, anchor="thresholds")


def _kept(result: Evaluation) -> str:
    measured = "Metrics are at 0.5, unless they say otherwise."
    if not result.thresholds:
        return f"The model keeps no thresholds: each label is given from a probability of 0.5 on. {measured}"
    return (
        "The column kept has the thresholds that the model and its exports keep: the best one if it raises F1 by "
        f"cross-fitting, else 0.5. Predictions give a label from this probability on. {measured}"
    )


def _label(place: int, each: LabelResult) -> list[object]:
    return [
        Cell(name_of(each.name), str(place)), Cell(f"{each.examples:,}", each.examples),
        _number(each.average_precision), _number(each.f1), _number(each.threshold), _number(each.f1_best),
        _number(each.kept),
    ]  # fmt: skip


def _number(value: float | None) -> Cell:
    return Cell("too few images", -1.0) if value is None else Cell(f"{value:.3f}", value)


def residuals(result: Evaluation) -> Html:
    """For each number: the answers over the truth, and the errors over the answers."""
    parts: list[object] = []
    rows = []
    for place, name in enumerate(result.class_names):
        true, answers = (v[:, place].astype(np.float64) for v in (result.labels, result.probabilities))
        errors = answers - true
        rows.append(_errors(place, name, true, errors))
        if place >= MOST_NUMBERS:
            continue
        title = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
        over = scatter_chart(true, answers, title=title, x_label="true", y_label="answer", equal=True,
                             name=f"answers-{place}", description=_course(true, answers))  # fmt: skip
        left = scatter_chart(answers, errors, title=f"{title}: residuals", x_label="answer", y_label="answer - true",
                             name=f"residuals-{place}", description=_course(answers, errors))  # fmt: skip
        parts += [chart(over.svg(), "On the dashed line, the answer is the truth."),
                  chart(left.svg(), "Residuals should lie evenly around 0 everywhere.")]  # fmt: skip
    note = "The bias is the mean of answer - true: above 0, the answers are too large. R2 is 1 for perfect answers."
    columns = ["number", "mean absolute error", "root mean squared error", "bias", "R2"]
    made = table("Each number", columns, rows, sortable=True, note=note)
    return section("Errors", made, tag("div", *parts, class_="grid"), anchor="residuals")


def _errors(place: int, name: str, true: np.ndarray, errors: np.ndarray) -> list[object]:
    spread = float(((true - true.mean()) ** 2).sum())
    values = [float(np.abs(errors).mean()), float(np.sqrt((errors**2).mean())), float(errors.mean())]
    explained = 1 - float((errors**2).sum()) / spread if spread else None
    return [Cell(name_of(name), str(place)), *(Cell(number(value), value) for value in values), _number(explained)]


def _course(x: np.ndarray, y: np.ndarray) -> str:
    if len(x) < 2 or not x.std() or not y.std():
        return f"{len(x):,} images"
    return f"{len(x):,} images, correlation {np.corrcoef(x, y)[0, 1]:.3f}"
