"""The report of a finished run: `report.html`, one file without a network, for people and for screen readers.

First the answer and what to do next, then the reasons. The page has no address of anything outside it, and its policy
allows none: only its own style and script run, by their hashes (Content Security Policy, level 3).
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from kerazoo.files import write_whole
from kerazoo.reports.html import Html, join, name_of, tag
from kerazoo.reports.material import Material
from kerazoo.reports.pictures import Pictures
from kerazoo.reports.sections import answers, asked, confusion, learning, looks, network
from kerazoo.reports.sections.answer import answer, results
from kerazoo.runs.run import Run
from kerazoo.version import __version__

FILE = "report.html"
STYLE, SCRIPT = (Path(__file__).with_name(name) for name in ("report.css", "report.js"))
TITLE = re.compile(r'<section id="([^"]+)".*?<h2[^>]*>(.*?)</h2>', re.DOTALL)


def write_report(run: Run, path: Path | None = None) -> Path:
    """Write the report of a finished run, by default into its folder, and return its path.

    What cannot be read, such as images that have moved, is left out, and the log and the report say so in one line.
    Raises RunError if the answers of the run cannot be read, and OSError if the report cannot be written.
    """
    path = path or run.folder / FILE
    write_whole(path, report_of(run).encode("utf-8"))
    return path


def report_of(run: Run) -> Html:
    """The report as HTML. Raises RunError if the answers of the run cannot be read."""
    material = Material.of(run)
    pictures = Pictures(material)
    main = material.main
    chosen = looks.Looks.of(material)
    confused = confusion.Confused.of(main) if main.is_exclusive else None
    pictures.read([*chosen.keys, *(confused.keys if confused else [])])
    pictures.look(chosen.outputs)
    about: list[Html | None] = [results(material)]
    if confused is not None:
        about += [confusion.confusion(confused, pictures), confusion.pairs(confused, pictures)]
    about += [looks.largest_losses(chosen, pictures), looks.labels_to_check(chosen, pictures)]
    if not main.has_probabilities:
        about.append(answers.residuals(main))
    else:
        about.append(confusion.classes(main))
        about += [] if main.is_exclusive else [answers.labels(main)]
        about.append(answers.calibration(material))
    about += [learning.findings(material), learning.phases(material), learning.curves(material)]
    about += [learning.inside(material), network.network(material), asked.asked(material), asked.again(material)]
    notes = [tag("p", note, class_="missing") for note in material.notes]
    return page(f"{run.name}: report", join(["Run ", name_of(run.name)]), answer(material), [*notes, *about])


def page(title: str, heading: object, top: object, sections: Sequence[Html | None]) -> Html:
    """A whole page: `top` comes before the list of sections."""
    style, script = (Html(path.read_text(encoding="utf-8")) for path in (STYLE, SCRIPT))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    body = join([section for section in sections if section is not None])
    links = [tag("li", tag("a", Html(words), href=f"#{anchor}")) for anchor, words in TITLE.findall(body)]
    head = tag(
        "head", tag("meta", charset="utf-8"), tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"), tag("link", rel="icon", href="data:,"),
        tag("title", title), tag("style", style),
    )  # fmt: skip
    made = tag(
        "body", tag("a", "To the sections", class_="skip", href="#sections"),
        tag("header", tag("h1", heading), top), tag("nav", tag("ul", *links), aria_label="Sections", id="sections"),
        tag("main", body), tag("footer", f"kerazoo {__version__}"), tag("script", script),
    )  # fmt: skip
    return Html(f"<!doctype html>\n{tag('html', head, made, lang='en')}\n")


def _hash(content: str) -> str:
    digest = base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode()
    return f"sha256-{digest}"
