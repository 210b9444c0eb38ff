"""The report of several runs side by side: what differs in their recipes, and the paired difference of their answers.

The first run is what the others are compared with, on the images that both have.
"""

from collections.abc import Sequence
from pathlib import Path

from kerazoo.errors import DataError, InputError
from kerazoo.evaluation.answers import Evaluation
from kerazoo.evaluation.comparison import Comparison, compare, difference_of, matching
from kerazoo.files import write_whole
from kerazoo.reports.html import Cell, Html, code, join, name_of, number, plural, section, table, tag
from kerazoo.reports.material import Material
from kerazoo.reports.page import FILE, page
from kerazoo.reports.sections.answer import next_command
from kerazoo.reports.words import headline, interval_words, split_words
from kerazoo.runs.run import Run

NAME = "comparison.html"
MOST = 12  # runs side by side
Pairs = list[tuple[Material, Comparison | str]]  # a run with its comparison, or why there is none


def write_comparison(runs: Sequence[Run], path: Path | None = None) -> Path:
    """Write the comparison of at least two finished runs, and return its path, by default in the folder of the first.

    Raises InputError if there are too few or too many runs, and RunError if the answers of one cannot be read.
    """
    content = comparison_of(runs).encode("utf-8")
    path = path or runs[0].folder / NAME
    write_whole(path, content)
    return path


def comparison_of(runs: Sequence[Run]) -> Html:
    """The comparison as HTML."""
    if not 2 <= len(runs) <= MOST:
        raise InputError(f"a comparison needs 2 to {MOST} runs, got {len(runs)}; name each run once")
    if len({run.folder.resolve() for run in runs}) < len(runs):
        raise InputError("a run is named twice; name each run once")
    first, *others = (Material.of(run) for run in runs)
    choices = len(others) * len(first.results)
    pairs = [(other, each) for other in others for each in _compared(first, other, choices=choices)]
    top = join(
        [*(tag("p", _sentence(first, other, each), class_="lead") for other, each in pairs), *_about(first, pairs)]
    )
    sections = [_paired(first, pairs), _metrics([first, *others]), _recipes([first, *others]), _facts([first, *others])]
    names = join([name_of(run.name) for run in runs], ", ")
    return page(f"{', '.join(run.name for run in runs)}: comparison", join(["Comparison of ", names]), top, sections)


def _compared(first: Material, other: Material, *, choices: int) -> list[Comparison | str]:
    try:
        return [compare(a, b, choices=choices) for a, b in matching(first.results, other.results)]
    except DataError as error:
        return [str(error)]


def _sentence(first: Material, other: Material, each: Comparison | str) -> Html:
    """The difference in one sentence."""
    names = name_of(other.run.name), name_of(first.run.name)
    if isinstance(each, str):
        return join([*_between(names, " and "), f" cannot be compared: {each}."])
    words = {"better": " is better than ", "worse": " is worse than "}
    clear = words.get(difference_of(each.gained), " may be as good as ")
    size = _size(each, first.main)
    return join([*_between(names, clear), f" on {plural(each.images, f'{split_words(each.split)} image')}: {size}."])


def _between(names: tuple[Html, Html], words: str) -> list[object]:
    return [names[0], words, names[1]]


def _size(each: Comparison, result: Evaluation) -> str:
    """The gain, and its interval."""
    gained = each.gained
    if not result.has_probabilities:
        ends = f"{-gained.high:+.4g} to {-gained.low:+.4g}"
        return f"the mean absolute error changes by {-gained.mean:+.4g} (95 % {ends}; below 0 is better)"
    what = "right answers" if result.is_exclusive else "right labels"
    return f"{100 * gained.mean:+.1f} points of {what} (95 % {100 * gained.low:+.1f} to {100 * gained.high:+.1f})"


def _about(first: Material, pairs: Pairs) -> list[Html]:
    """What an interval with 0 in it means, and what to do."""
    known = [each for _, each in pairs if isinstance(each, Comparison)]
    unclear = [each for each in known if difference_of(each.gained) == "not clear"]
    lines = [tag("h2", "What to do next", id="next")]
    if unclear:
        lines.append(tag("p", (
            "An interval with 0 in it cannot tell the runs apart on these images: choose the one that is cheaper, or "
            "compare them on more images, or with other seeds (--seed)."
        )))  # fmt: skip
    worse = {id(other) for other, each in pairs if _differs(each, "worse")}
    better = [(each.gained.mean, other) for other, each in pairs
              if isinstance(each, Comparison) and _differs(each, "better") and id(other) not in worse]  # fmt: skip
    if better or (known and all(_differs(each, "worse") for each in known)):
        chosen = max(better, key=lambda one: one[0])[1] if better else first
        lines.append(tag("p", "Export the better one: ", code(next_command(chosen.run))))
    lines.append(tag("p", f"Each run has a report of its own: {FILE} in its folder."))
    return lines


def _differs(each: Comparison | str, how: str) -> bool:
    return isinstance(each, Comparison) and difference_of(each.gained) == how


def _paired(first: Material, pairs: Pairs) -> Html:
    """The differences as a table."""
    rows: list[list[object]] = []
    for other, each in pairs:
        if isinstance(each, str):
            rows.append([name_of(other.run.name), each, "", "", "", "", ""])
            continue
        rows.append([
            name_of(other.run.name), Cell(f"{split_words(each.split)}, {each.images:,}", each.images),
            Cell(str(each.gained), each.gained.mean), Cell(str(each.saved), each.saved.mean),
            *(Cell("" if n is None else f"{n:,}", n) for n in (each.won, each.lost)),
            Cell("" if each.chance is None else f"{each.chance:.3g}", each.chance),
        ])  # fmt: skip
    columns = ["run", "images", "gain in score", "lower loss", "only this one right", "only the first right",
               "p, McNemar's exact test"]  # fmt: skip
    together = ""
    if len(pairs) > 1:
        together = " The intervals hold for all rows at once (Bonferroni); the p-values are for one comparison alone."
    note = (
        "The score is 1 for a right answer and 0 for a wrong one; for several labels, the share of labels that are "
        "right; for numbers, minus the absolute error. Differences are image by image, so that what is hard for both "
        "runs does not blur them (for right and wrong: Agresti and Min 2005; else Student's interval)." + together
    )
    caption = join(["Compared with ", name_of(first.run.name)])
    return section("The same images", table(caption, columns, rows, note=note), anchor="paired")


def _metrics(materials: Sequence[Material]) -> Html:
    """The results of each run by itself."""
    rows = [
        [name_of(m.run.name), split_words(result.split), headline(result), interval_words(result), number(result.loss)]
        for m in materials
        for result in m.results
    ]
    return section("Each run by itself", table("Results", ["run", "split", "result", "interval", "loss"], rows),
                   anchor="results")  # fmt: skip


def _recipes(materials: Sequence[Material]) -> Html:
    """The keys of the recipes that differ."""
    flat = [_flat(m.run.recipe.model_dump(mode="json")) for m in materials]
    keys = [key for key in sorted({key for one in flat for key in one}) if len({one.get(key) for one in flat}) > 1]
    names = [name_of(m.run.name) for m in materials]
    if not keys:
        return section("What differs in the recipes", tag("p", "Nothing: the recipes are equal."), anchor="recipes")
    rows = [[code(key), *(code(one[key]) if key in one else "" for one in flat)] for key in keys]
    return section("What differs in the recipes", table("Keys that differ", ["key", *names], rows), anchor="recipes")


def _flat(values: dict[str, object], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def _facts(materials: Sequence[Material]) -> Html:
    """Data, versions, time and size of each run."""
    same = len({m.data.get("digest") for m in materials}) == 1
    about = "All runs have the same data (digest)." if same else "The data of the runs differ; see the digests."
    rows: list[list[object]] = [
        ["data", *(code(str(m.data.get("digest", ""))[:16]) for m in materials)],
        ["network", *(code(m.run.recipe.model.name) for m in materials)],
        ["seconds", *(Cell(f"{m.run.seconds:,.0f}", m.run.seconds) for m in materials)],
        ["kerazoo", *(str((m.environment.get("versions") or {}).get("kerazoo", "")) for m in materials)],
    ]
    names = [name_of(m.run.name) for m in materials]
    return section("Data and time", tag("p", about), table("Facts", ["fact", *names], rows), anchor="facts")
