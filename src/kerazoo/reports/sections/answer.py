"""The beginning of a report: the answer, and what to do next; then the results of every split in words."""

import math
import shlex
from pathlib import Path

from kerazoo.errors import KerazooError
from kerazoo.evaluation.answers import Evaluation
from kerazoo.evaluation.label_thresholds import label_results
from kerazoo.evaluation.mistakes import likely_label_errors, top_losses
from kerazoo.evaluation.per_class import most_confused
from kerazoo.exports.folder import Export, find_export
from kerazoo.files import read_json
from kerazoo.insight.findings.finding import reaches
from kerazoo.reports.html import Html, code, join, name_of, number, percent, plural, section, table, tag, with_code
from kerazoo.reports.material import Material
from kerazoo.reports.words import headline, interval_words, scale_words, split_words
from kerazoo.runs.run import RUNS, Run

EXPORTS = Path("saved_models")
DESCRIPTION = "model.json"
GOOD = 0.95  # of the answers are right: no advice about fitting
ALONE, EQUAL = 0.5, 0.8  # shares of the validation loss: a training loss below, and above
WORTH = 0.01  # of F1: thresholds that gain as much are worth a word
MANY = 0.15  # of all mistakes: a pair of classes with as many is worth a look
METRICS = {
    "accuracy": "Share of right answers; with several labels, of all labels of all images.",
    "exact_match": "Share of images for which every label is right.",
    "mean_average_precision": "How well the labels are ranked, from 0 to 1; the mean over the labels.",
    "macro_f1": "The mean F1 of the labels, each given from a probability of 0.5 on.",
    "macro_f1_thresholds": "The same with the thresholds that the model keeps; on the images that chose them by "
    "cross-fitting, each fifth with what the others choose.",
    "mae": "Mean absolute error, in the unit of the numbers.", "rmse": "Root of the mean squared error.",
    "r2": "Share of the variance that is explained; 1 is perfect, 0 as good as always the mean.",
    "loss": "What training lowers: cross-entropy in nats, or the mean squared error.",
}  # fmt: skip
UNITS = ("mae", "rmse")  # in the unit of the numbers


def answer(material: Material) -> Html:
    """The answer, its interval, what it means, and what to do next."""
    first = _best_known(material.results)
    lines = [tag("p", headline(first), class_="lead"), tag("p", interval_words(first)), tag("p", scale_words(first))]
    if len(material.results) > 1:
        lines += [tag("p", headline(other)) for other in material.results if other is not first]
    return join([*lines, tag("h2", "What to do next", id="next"), tag("ol", *(tag("li", s) for s in _steps(material)))])


def _best_known(results: list[Evaluation]) -> Evaluation:
    """The test images, if there are any: nothing was chosen by them."""
    return results[-1]


def results(material: Material) -> Html:
    """The metrics of every split, with intervals in words."""
    rows = [row for result in material.results for row in _rows(result)]
    about = [tag("p", _chosen(material))]
    made = table("Metrics", ["metric", "value"], rows)
    return section("Results", *about, made, anchor="results")


def _chosen(material: Material) -> str:
    if len(material.results) > 1:
        return (
            "The test images chose nothing, so their results are what to expect. The rest of this report is about "
            f"{split_words(material.main.split)}, so that the test images stay unseen."
        )
    if material.main.split == "val":
        return (
            "The validation images also chose among epochs, phases or settings, so that their result may be a little "
            "too good; a test split, as by data.test=0.1, tells."
        )
    return "Each image was answered by the network of the fold that had not seen it."


def _rows(result: Evaluation) -> list[list[object]]:
    rows: list[list[object]] = []
    summary = {**result.metrics(), "loss": result.loss}
    for name, value in summary.items():
        if name.endswith("_interval") or value is None:
            continue
        shown = number(value) if name in UNITS else f"{value:.4f}"
        interval = summary.get(f"{name}_interval")
        if name == "mae":
            low, high = result.score_interval()
            interval = [-high, -low] if math.isfinite(low) else None
        if interval:
            ends = [number(end) if name in UNITS else f"{end:.4f}" for end in interval]
            shown += f" (95 % interval {ends[0]} to {ends[1]})"
        title = f"{split_words(result.split)} {name.replace('_', ' ')}"
        rows.append([join([title, tag("span", METRICS.get(name, ""), class_="note below")]), shown])
    return rows


def _steps(material: Material) -> list[Html]:
    """What to do, the most useful first."""
    steps = []
    findings = material.findings or []
    for finding in findings:
        if reaches([finding], "warning"):
            words = tag("strong", f"{finding.severity.capitalize()}: {finding.name.replace('_', ' ')}. ")
            steps.append(join([words, with_code(finding.change), " (", tag("a", "why", href="#findings"), ")"]))
    steps += _fit(material) if not steps else []
    steps += _looks(material)
    steps += _commands(material)
    return steps


def _fit(material: Material) -> list[Html]:
    """Whether the network learned too little of its training images, or them alone; by the losses at the end."""
    train, val = (material.history.get(name, [math.nan])[-1] for name in ("loss", "val_loss"))
    if not (train > 0 and val > 0 and material.main.has_probabilities) or material.main.right > GOOD:
        return []
    losses = f"(loss {train:.3g} in training, {val:.3g} on validation)"
    if train < ALONE * val:
        words = f" it knows its training images much better than others {losses}; augmentation.policy helps, too."
        return [join([tag("strong", "Add images:"), words])]
    if train > EQUAL * val:
        more = 2 * int(material.run.recipe.training.epochs)
        words = f" it knows its training images hardly better than others {losses}: "
        return [join([tag("strong", "Train longer:"), words, code(f"--epochs {more}"), ", or take a larger network."])]
    return []


def _looks(material: Material) -> list[Html]:
    result = material.main
    if not result.is_exclusive:
        steps = [join([tag("strong", "Look at "), tag("a", "the images with the largest losses", href="#losses"), "."])]
        return [*steps, *_thresholds(result)] if top_losses(result, 1) else []
    steps = []
    suspects = likely_label_errors(result)
    if suspects:
        link = tag("a", f"{plural(len(suspects), 'image')} whose label may be wrong", href="#labels-to-check")
        steps.append(join([tag("strong", "Look at "), link, "; correct or remove those that are."]))
    counts = result.confusion()
    mistakes = int(counts.sum() - counts.trace())
    pairs = most_confused(counts, 1)
    if pairs and pairs[0].count >= max(MANY * mistakes, 3):
        pair, names = pairs[0], result.class_names
        both = join([name_of(names[pair.true]), " taken for ", name_of(names[pair.answer])])
        share = f": {percent(pair.count / mistakes, 0)} of all mistakes; more images of both help most."
        steps.append(join([tag("strong", "Look at "), tag("a", both, href="#pairs"), share]))
    return steps


def _thresholds(result: Evaluation) -> list[Html]:
    """Whether other thresholds than 0.5 are worth their while, for a model that keeps none: of an earlier version."""
    if result.thresholds:
        return []
    rows = [each for each in label_results(result) if each.f1_best is not None] if result.has_probabilities else []
    if not rows:
        return []
    before, after = (sum(values) / len(rows) for values in zip(*((r.f1, r.f1_best or 0.0) for r in rows), strict=True))
    if after < before + WORTH:
        return []
    link = tag("a", "thresholds of their own", href="#thresholds")
    return [
        join([tag("strong", "Use "), link, f" for the labels: the mean F1 is {after:.3f} instead of {before:.3f}."])
    ]


def _commands(material: Material) -> list[Html]:
    run = material.run
    export = exported(material)
    if export is not None:
        command = f"kerazoo serve {shlex.quote(str(export.parent))}"
        return [join([tag("strong", "Serve "), "the export of this run: ", code(command)])]
    return [join([tag("strong", "Export "), "it, to serve it or to use it elsewhere: ", code(next_command(run))])]


def next_command(run: Run) -> str:
    """The command that follows a finished run."""
    return f"kerazoo export {shlex.quote(words_for(run))}"


def words_for(run: Run) -> str:
    """The name of `run` below runs/ in the current folder, or its path."""
    return run.name if (RUNS / run.name).absolute() == run.folder.absolute() else str(run.folder)


def exported(material: Material) -> Path | None:
    """The newest export of the weights of this run below saved_models/, if there is one."""
    try:
        weights = read_json(material.run.folder / DESCRIPTION).get("weights_sha256")
        found = find_export(EXPORTS / material.run.name)
        same = found is not None and Export(found).passport.get("weights_sha256") == weights
    except (KerazooError, OSError):  # what another program left there
        return None
    return found if same else None
