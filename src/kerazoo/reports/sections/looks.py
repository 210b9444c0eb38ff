"""The images to look at first: the largest losses, and labels that may be wrong."""

from dataclasses import dataclass

from kerazoo.evaluation.answers import Evaluation
from kerazoo.evaluation.mistakes import likely_label_errors, top_losses
from kerazoo.reports.html import Html, join, name_of, percent, plural, section, tag
from kerazoo.reports.material import Material
from kerazoo.reports.pictures import Pictures
from kerazoo.reports.words import split_words

SHOWN = 9  # images with the largest losses, and with Grad-CAM
SUSPECTS = 12  # images of each list of labels to check
LABEL_ERRORS = "label_errors"  # the finding of the diagnostics, and the tag of its text


@dataclass(frozen=True)
class Looks:
    """The rows of `result` to look at: `losses` and `suspects`; and `trained`, (key, label) of training images."""

    result: Evaluation
    losses: list[int]
    suspects: list[int]
    trained: list[tuple[str, str]]

    @classmethod
    def of(cls, material: Material) -> "Looks":
        """Choose them."""
        result = material.main
        suspects = likely_label_errors(result)
        return cls(result, top_losses(result, SHOWN), suspects, _trained(material))

    @property
    def keys(self) -> list[str]:
        """The keys of the images that are shown."""
        rows = [*self.losses, *self.suspects[:SUSPECTS]]
        return [*(self.result.keys[row] for row in rows), *(key for key, _ in self.trained[:SUSPECTS])]

    @property
    def outputs(self) -> dict[str, int]:
        """The output of the network to explain by Grad-CAM, by key: the answer, or the first number."""
        best = self.result.probabilities.argmax(axis=1)
        return {self.result.keys[row]: int(best[row]) if self.result.has_probabilities else 0 for row in self.losses}


def _trained(material: Material) -> list[tuple[str, str]]:
    """The training images that the diagnostics list, as the loggers wrote them: lines of key and label."""
    names = sorted(material.main.class_names, key=len, reverse=True)
    rows = []
    for line in material.texts.get(LABEL_ERRORS, "").splitlines():
        label = next((name for name in names if line.endswith(f": {name}")), None)
        if label is not None:
            rows.append((line[: -len(label) - 2], label))
    return rows


def largest_losses(looks: Looks, pictures: Pictures) -> Html | None:
    """The images whose answer is furthest from the truth, and where the network looked in them."""
    if not looks.losses:
        return None
    result = looks.result
    losses = result.losses
    figures = []
    for row in looks.losses:
        key = result.keys[row]
        words = _words(result, row)
        images = [pictures.large(key, f"{key}")] if pictures.has(key) else []
        looked = pictures.looked(key, f"where the network looked in {key}")
        caption = tag("figcaption", words, tag("span", f" loss {losses[row]:.3g}, ", name_of(key), class_="note"))
        figures.append(tag("figure", *images, looked, caption, class_="pair" if looked is not None else None))
    what = "surest wrong answers" if result.has_probabilities else "answers furthest from the truth"
    about = f"The {what} of {split_words(result.split)}."
    if any(pictures.has_look(result.keys[row]) for row in looks.losses):
        about += f" Bright colors show where the network looked for {_explained(result)} (Grad-CAM)."
    return section("Largest losses", tag("p", about), tag("div", *figures, class_="images"), anchor="losses")


def _explained(result: Evaluation) -> str:
    """What the heat maps are for."""
    if result.is_exclusive:
        return "its answer"
    return "its most probable label" if result.has_probabilities else f"the first number, {result.class_names[0]}"


def _words(result: Evaluation, row: int) -> Html:
    chance = f" ({percent(float(result.probabilities[row].max()), 0)})" if result.is_exclusive else ""
    return join([
        "true: ", name_of(result.truth(row)), tag("br"), "answer: ", tag("strong", name_of(result.answer(row))), chance,
        tag("br"),
    ])  # fmt: skip


def labels_to_check(looks: Looks, pictures: Pictures) -> Html | None:
    """Images whose label may be wrong: a person must look at them; nothing is removed."""
    parts: list[object] = []
    result = looks.result
    if looks.suspects:
        figures = [
            _suspect(pictures, result.keys[row], result.truth(row), result.answer(row))
            for row in looks.suspects[:SUSPECTS]
        ]
        about = (
            f"In {split_words(result.split)}, {plural(len(looks.suspects), 'image')}: the network is as sure of "
            "another class as it usually is of that class, and did not learn from these images (confident learning)."
        )
        parts += [tag("p", about), tag("div", *figures, class_="images")]
    if looks.trained:
        figures = [_suspect(pictures, key, label, None) for key, label in looks.trained[:SUSPECTS]]
        about = (
            f"In training, {plural(len(looks.trained), 'image')}: over the epochs, they were on average answered with "
            "another class than their label."
        )
        parts += [tag("p", about), tag("div", *figures, class_="images")]
    if not parts:
        return None
    note = "Hard and rare images are among them. Correct a label, or remove the image, only after you have looked."
    return section("Labels to check", tag("p", note), *parts, anchor="labels-to-check")


def _suspect(pictures: Pictures, key: str, label: str, answer: str | None) -> Html:
    words = ["label: ", name_of(label), tag("br")]
    words += [] if answer is None else ["answer: ", tag("strong", name_of(answer)), tag("br")]
    image = pictures.large(key, key) if pictures.has(key) else None
    return tag("figure", image, tag("figcaption", *words, tag("span", name_of(key), class_="note")))
