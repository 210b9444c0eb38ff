"""The confusion matrix, the most confused pairs of classes with their images, and the result of each class."""

from dataclasses import dataclass

import numpy as np

from kerazoo.evaluation.answers import Evaluation
from kerazoo.evaluation.per_class import ClassResult, Pair, Share, class_results, class_results_of, most_confused
from kerazoo.reports.html import Cell, Html, join, name_of, percent, plural, section, table, tag
from kerazoo.reports.pictures import Pictures
from kerazoo.reports.words import split_words

LARGEST_MATRIX = 30  # classes in the matrix; of more, those that are confused most often
MOST_PAIRS = 100  # pairs of classes with images
FIRST_PAIRS = 12  # of them at first sight
MOST_IMAGES, IN_A_PAIR = 180, 8
LEVELS = 5  # shades of a cell


@dataclass(frozen=True)
class Confused:
    """The (K, K) counts of an evaluation, its most confused pairs, and the rows of the images shown for each."""

    result: Evaluation
    counts: np.ndarray
    pairs: list[Pair]
    rows: dict[tuple[int, int], list[int]]

    @classmethod
    def of(cls, result: Evaluation) -> "Confused":
        """Choose the images: of every pair one, then a second, and so on; the most confident mistakes first."""
        counts = result.confusion()
        pairs = most_confused(counts, MOST_PAIRS)
        predicted = result.predicted
        wrong = np.flatnonzero(predicted != result.labels)
        sure = result.probabilities[wrong, predicted[wrong]]
        every: dict[tuple[int, int], list[int]] = {(pair.true, pair.answer): [] for pair in pairs}
        for row in wrong[np.argsort(-sure, kind="stable")]:
            place = (int(result.labels[row]), int(predicted[row]))
            if place in every:
                every[place].append(int(row))
        chosen: dict[tuple[int, int], list[int]] = {place: [] for place in every}
        left = MOST_IMAGES
        for turn in range(IN_A_PAIR):
            for place, rows in every.items():
                if turn < len(rows) and left:
                    chosen[place].append(rows[turn])
                    left -= 1
        return cls(result, counts, pairs, chosen)

    @property
    def keys(self) -> list[str]:
        """The keys of the images that are shown."""
        return [self.result.keys[row] for rows in self.rows.values() for row in rows]


def confusion(confused: Confused, pictures: Pictures) -> Html:
    """The matrix: a row for each true class, a column for each answer; cells lead to their images."""
    names = confused.result.class_names
    chosen = _chosen(confused)
    sizes = np.maximum(confused.counts.sum(axis=1), 1)
    linked = {place for place, rows in confused.rows.items() if rows and pictures}
    columns = tag("tr", tag("th", "true class", scope="col"), *(
        tag("th", tag("span", name_of(names[k]), title=names[k]), scope="col", data_key=str(k), class_="turned")
        for k in chosen
    ))  # fmt: skip
    body = [
        tag("tr", tag("th", tag("span", name_of(names[t]), title=names[t]), scope="row", data_key=str(t)), *(
            _count(confused.counts[t, a], confused.counts[t, a] / sizes[t], t == a, (t, a) in linked, (t, a))
            for a in chosen
        ))
        for t in chosen
    ]  # fmt: skip
    caption = f"Confusion matrix of {split_words(confused.result.split)}: rows are true classes, columns answers"
    made = tag("table", tag("caption", caption), tag("thead", columns), tag("tbody", *body), class_="matrix",
               data_matrix=True)  # fmt: skip
    frame = tag("div", made, class_="scroll", tabindex="0", role="region", aria_label="Confusion matrix (table)")
    note = "The darker a cell, the larger its share of the row."
    note += " Underlined numbers lead to the images behind them." if linked else ""
    if len(chosen) < len(names):
        note += f" Of {len(names):,} classes, these {len(chosen)} are confused most often."
    return section("Confusion matrix", tag("p", note), frame, anchor="confusion")


def _chosen(confused: Confused) -> list[int]:
    """The classes in the matrix."""
    count = len(confused.result.class_names)
    if count <= LARGEST_MATRIX:
        return list(range(count))
    chosen: dict[int, None] = {}
    for pair in confused.pairs:
        chosen |= dict.fromkeys((pair.true, pair.answer))
        if len(chosen) >= LARGEST_MATRIX - 1:
            break
    return sorted(chosen)


def _count(count: int, share: float, right: bool, linked: bool, place: tuple[int, int]) -> Html:
    level = 0 if not count else 1 + min(int(share * LEVELS), LEVELS - 1)
    shown = tag("a", f"{count:,}", href=f"#{_anchor(place)}") if linked else f"{count:,}"
    return tag("td", shown, class_=f"{'right' if right else 'wrong'}{level}", data_key=str(int(count)))


def _anchor(place: tuple[int, int]) -> str:
    return f"pair-{place[0]}-{place[1]}"


def pairs(confused: Confused, pictures: Pictures) -> Html | None:
    """The pairs of classes with the most wrong answers, each with its images."""
    if not confused.pairs:
        return section("Most confused pairs", tag("p", "Every answer is right."), anchor="pairs")
    result, names = confused.result, confused.result.class_names
    groups = []
    for number, pair in enumerate(confused.pairs):
        rows = confused.rows[pair.true, pair.answer] if pictures else []
        words = join([
            name_of(names[pair.true]), " taken for ", name_of(names[pair.answer]),
            f": {plural(pair.count, 'image')}, {percent(pair.share)} of the class",
        ])  # fmt: skip
        images = [_mistake(result, row, pictures) for row in rows]
        more = (
            tag("p", f"The {len(rows)} surest of {pair.count}.", class_="note") if 0 < len(rows) < pair.count else None
        )
        inner = tag("div", tag("div", *images, class_="images"), more, id=_anchor((pair.true, pair.answer)))
        groups.append(tag("details", tag("summary", words), inner, open=number < 2) if rows else tag("p", words))
    note = tag("p", (
        "Below each image is the probability of the wrong answer. All answers are in evaluation/ in the run's folder."
    ))  # fmt: skip
    if len(groups) > FIRST_PAIRS:
        others = tag("summary", plural(len(groups) - FIRST_PAIRS, "more pair"))
        groups[FIRST_PAIRS:] = [tag("details", others, *groups[FIRST_PAIRS:])]
    return section("Most confused pairs", note, *groups, anchor="pairs")


def _mistake(result: Evaluation, row: int, pictures: Pictures) -> Html:
    chance = result.probabilities[row].max()
    words = f"{result.truth(row)}, answered {result.answer(row)} with {percent(float(chance), 0)}"
    caption = tag("figcaption", f"{percent(float(chance), 0)}")
    return tag("figure", pictures.small(result.keys[row], f"{words}: {result.keys[row]}"), caption)


def classes(result: Evaluation) -> Html:
    """Precision, recall and F1 of each class, or of each label, with intervals."""
    if result.is_exclusive:
        found = class_results_of(result.confusion(), result.class_names)
    else:
        found = class_results(result.labels, result.predicted, result.class_names)
    word = "class" if result.is_exclusive else "label"
    rows = [_row(number, each) for number, each in enumerate(found)]
    note = (
        f"Recall: the share of the images of a {word} that got it as an answer. Precision: the share of the answers "
        f"with it that are right. F1 is their harmonic mean. In brackets: the 95 % interval."
    )
    columns = [word, "images", "answers", "precision", "recall", "F1"]
    made = table(f"Each {word}", columns, rows, sortable=True, note=note)
    return section("Classes" if result.is_exclusive else "Labels", made, anchor="classes")


def _row(number: int, each: ClassResult) -> list[object]:
    cells = [Cell(name_of(each.name), str(number)), Cell(f"{each.examples:,}", each.examples)]
    cells += [Cell(f"{each.answers:,}", each.answers)]
    return [*cells, *(_share(share) for share in (each.precision, each.recall, each.f1))]


def _share(share: Share) -> Cell:
    if share.value != share.value:
        return Cell("none", -1.0)
    ends = tag("span", f" ({share.low:.2f} to {share.high:.2f})", class_="ends")
    return Cell(join([f"{share.value:.3f}", ends]), share.value)
