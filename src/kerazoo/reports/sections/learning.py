"""How the network learned: phases, curves, the numbers of the loggers, pictures of the network, findings."""

import math
import re
from pathlib import Path
from typing import Any

from kerazoo.insight.curves import chart_of
from kerazoo.reports.html import Cell, Html, chart, join, number, section, table, tag, with_code
from kerazoo.reports.material import Material
from kerazoo.reports.pictures import of_file

SIZE = (360, 270)  # px of a chart: as wide as a phone
MOST_POINTS = 400  # of a curve
LAYERS = 3  # kernels in a chart: the first, the middle and the last
MOST_PICTURES = 6
HEAD = "head_epoch"


def phases(material: Material) -> Html | None:
    """What each phase of fine-tuning cost and gained."""
    if not material.run.phases:
        return None
    rows = []
    for phase in material.run.phases:
        score, loss = phase.get("score"), phase.get("loss")
        kept = "kept" if phase.get("kept") else str(phase.get("why") or "dropped")
        why = str(phase.get("why") or "") if phase.get("gain") is None else ""
        rows.append([
            phase["name"], Cell("" if score is None else f"{score:.4f}", score), _gain(phase.get("gain")),
            Cell("" if loss is None else f"{loss:.4f}", loss), Cell(f"{phase['seconds']:.1f} s", phase["seconds"]),
            why or kept,
        ])  # fmt: skip
    note = (
        "A phase is kept only if it lowers the validation loss significantly and does not lower the score. The score "
        "is the accuracy; for several labels, the share of labels that are right; for numbers, minus the mean absolute "
        "error."
    )
    columns = ["phase", "score", "gain (95 % interval)", "loss", "time", "outcome"]
    return section("What each phase gained", table("Phases", columns, rows, note=note), anchor="phases")


def _gain(values: Any) -> Cell:
    if not isinstance(values, dict) or values.get("mean") is None:
        return Cell("", None, kind="number")
    low, high = values.get("low"), values.get("high")
    ends = None if low is None or high is None else tag("span", f" ({low:+.4f} to {high:+.4f})", class_="ends")
    return Cell(join([f"{values['mean']:+.4f}", ends]), float(values["mean"]))


def curves(material: Material) -> Html | None:
    """The losses and metrics of each epoch."""
    history = material.history
    epochs = max((len(values) for values in history.values()), default=0)
    if not epochs:
        return None
    names = sorted({n.removeprefix("val_") for n in history} - {HEAD, "learning_rate"}, key=lambda n: (n != "loss", n))
    steps = [float(n + 1) for n in range(epochs)]
    figures = []
    for name in names:
        series = {
            words: (steps, history[full])
            for words, full in (("train", name), ("validation", f"val_{name}"))
            if full in history
        }
        title = name.replace("_", " ")
        words = _described(series)
        made = chart_of(
            series, title=title, x_label="epoch", y_label="", size=SIZE, name=f"curve-{_id(name)}", description=words,
            levels=_levels(material, name),
        )  # fmt: skip
        figures.append(chart(made.svg(), words))
    note = tag("p", _augmented(), class_="note") if len(names) else None
    return section("Curves", tag("div", *figures, class_="grid"), note, anchor="curves")


def _augmented() -> str:
    return (
        "Training values are means over an epoch, with augmentation and dropout on, while validation comes at its end "
        "with both off; so training may look worse than validation at first."
    )


def _levels(material: Material, name: str) -> list[tuple[float, str]]:
    """The loss of the probe as a line, which fine-tuning must go below."""
    probe = next((phase for phase in material.run.phases if phase.get("name") == "probe"), {})
    training = material.run.recipe.training
    own_loss = training.loss is None and not training.label_smoothing
    value = probe.get("loss") if name == "loss" and own_loss else None
    return [] if value is None else [(float(value), "probe")]


def _described(series: dict[str, tuple[list[float], list[float]]]) -> str:
    """The course of each curve in words."""
    words = []
    for name, (_, values) in series.items():
        known = [value for value in values if math.isfinite(value)]
        if known:
            words.append(f"{name} from {known[0]:.4g} to {known[-1]:.4g}")
    return f"{', '.join(words)}."


def inside(material: Material) -> Html | None:
    """The learning rate, gradients, weights and feature maps."""
    series = material.watched
    figures = [_rate(material), *(_figure(series, *each) for each in WATCHED)]
    pictures = _pictures(material)
    shown = [figure for figure in figures if figure is not None]
    if not shown and not pictures:
        return None
    parts: list[object] = [tag("div", *shown, class_="grid")] if shown else []
    parts += [tag("h3", "Feature maps"), tag("div", *pictures, class_="grid")] if pictures else []
    return section("Inside the network", *parts, anchor="inside")


# title, the start and the end of its tags, the label of the axis, and what to see in it
WATCHED = (
    ("Gradients", "gradients/", "/norm", "norm", "The norm of all gradients. Sudden peaks or a fall to zero are bad."),
    ("Updates", "updates/", "/ratio", "share", "How much a step changes the weights, as a share of them: 0.0001 to "
     "0.01 is usual."),
    ("Weights", "weights/", "/distance", "share", "How far the weights went from their start, as a share of them."),
)  # fmt: skip


def _rate(material: Material) -> Html | None:
    rates = material.history.get("learning_rate")
    found = material.watched.get("epoch/train/learning_rate")
    if rates:
        found = ([float(n + 1) for n in range(len(rates))], rates)
    if not found or len(found[0]) < 2:
        return None
    made = chart_of(
        {"learning rate": found}, title="Learning rate", x_label="epoch", y_label="", size=SIZE, name="rate",
        description=f"from {found[1][0]:.3g} to {found[1][-1]:.3g}, at most {max(found[1]):.3g}",
    )  # fmt: skip
    return chart(made.svg(), f"The learning rate after each epoch, at most {max(found[1]):.3g}.")


def _figure(
    series: dict[str, tuple[list[float], list[float]]], title: str, start: str, end: str, label: str, note: str
) -> Html | None:
    """A chart of all weights together if there is one, else of a few layers."""
    whole = f"{start}global{end}"
    tags = [whole] if whole in series else _some([tag for tag in series if tag.startswith(start) and tag.endswith(end)])
    chosen = {
        "all weights" if tag == whole else _short(tag[len(start) : -len(end)]): _thinned(*series[tag]) for tag in tags
    }
    if not any(sum(value > 0 for value in values) > 1 for _, values in chosen.values()):
        return None
    made = chart_of(
        chosen, title=title, x_label="step", y_label=label, log_y=True, size=SIZE, name=f"watch-{_id(title)}",
        description=_described(chosen),
    )  # fmt: skip
    return chart(made.svg(), note)


def _some(tags: list[str]) -> list[str]:
    kernels = [tag for tag in tags if tag.rpartition("/")[0].endswith("kernel")] or tags
    if len(kernels) <= LAYERS:
        return kernels
    return [kernels[round(n * (len(kernels) - 1) / (LAYERS - 1))] for n in range(LAYERS)]


def _short(path: str) -> str:
    """The end of a long path, so that a legend fits."""
    return path if len(path) <= 28 else f"\N{HORIZONTAL ELLIPSIS}{path[-27:]}"


def _thinned(steps: list[float], values: list[float]) -> tuple[list[float], list[float]]:
    every = max(1, math.ceil(len(steps) / MOST_POINTS))
    return steps[::every], values[::every]


def _id(name: str) -> str:
    return "".join(character if character.isascii() and character.isalnum() else "-" for character in name)


def in_order(path: Path | str) -> list[tuple[str, int]]:
    """A key that puts block_2 before block_10."""
    return [(words, int(part or 0)) for words, part in re.findall(r"(\D*)(\d*)", str(path))]


def _pictures(material: Material) -> list[Html]:
    """Feature maps of some layers, the newest of each, and the filters of the first convolution."""
    folder = material.run.folder / "feature_maps"
    paths = sorted(folder.rglob("*.png"), key=in_order) if folder.is_dir() else []
    if len(paths) > MOST_PICTURES:
        paths = [paths[round(n * (len(paths) - 1) / (MOST_PICTURES - 1))] for n in range(MOST_PICTURES)]
    figures = []
    for path in paths:
        name = str(path.relative_to(folder).with_suffix(""))
        picture = of_file(path, f"feature maps: {name}")
        if picture is not None:
            figures.append(tag("figure", picture, tag("figcaption", name)))
    return figures


def findings(material: Material) -> Html | None:
    """What the diagnostics say."""
    found = material.findings
    if found is None:
        return None
    if not found:
        return section("Findings", tag("p", "The diagnostics of the training found nothing wrong."), anchor="findings")
    items = []
    for one in found:
        place = f" ({one.where})" if one.where else ""
        numbers = ", ".join(f"{key.replace('_', ' ')} {number(value)}" for key, value in one.evidence.items())
        items.append(tag(
            "li", tag("strong", f"{one.severity}: {one.name.replace('_', ' ')}{place}. ", class_=one.severity),
            f"{one.meaning} ", tag("strong", "Change: "), with_code(one.change),
            tag("span", f" {numbers}", class_="note"),
        ))  # fmt: skip
    return section("Findings", tag("ul", *items, class_="findings"), anchor="findings")
