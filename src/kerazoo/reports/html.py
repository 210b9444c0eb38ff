"""HTML from texts and numbers. What is not `Html` is escaped, so that no name in the data can add a tag or a script."""

import html
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

EMPTY = frozenset({"img", "meta", "link", "br", "input"})  # elements without an end
NOT_TEXT = ("Cc", "Cs", "Cn")  # categories of characters that a page cannot show


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def escape(value: object) -> Html:
    """`value` as HTML: the only function that text of any origin goes through, also inside attributes."""
    if isinstance(value, Html):
        return value
    text = str(value)
    if not text.isprintable():
        text = "".join(" " if c in "\n\t" else "\N{REPLACEMENT CHARACTER}" if _no_text(c) else c for c in text)
    return Html(html.escape(text, quote=True))


def _no_text(character: str) -> bool:
    return unicodedata.category(character) in NOT_TEXT


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element. Of an attribute's name, a final `_` is left out, and others are hyphens; None leaves it out."""
    words = [name]
    for key, value in attributes.items():
        if value is not None and value is not False:
            shown = key.rstrip("_").replace("_", "-")
            words.append(shown if value is True else f'{shown}="{escape(value)}"')
    start = f"<{' '.join(words)}>"
    return Html(start if name in EMPTY else f"{start}{join(children)}</{name}>")


def join(parts: Iterable[object], between: str = "") -> Html:
    """The escaped parts, one after another."""
    return Html(escape(between).join(escape(part) for part in parts if part is not None))


def name_of(text: object) -> Html:
    """A name of the data: its direction of writing does not change that of the text around it."""
    return tag("bdi", text)


def code(text: object) -> Html:
    """Something to type, or a file."""
    return tag("code", text)


class Cell:
    """A cell of a table: what it shows, and by what it is sorted; numbers are set to the right."""

    __slots__ = ("key", "kind", "shown")

    def __init__(self, shown: object, key: float | str | None = None, *, kind: str | None = None) -> None:
        self.shown = shown
        self.key = key
        self.kind = kind or ("number" if isinstance(key, float | int) or shown == "" else None)


def table(
    caption: object, columns: Sequence[object], rows: Iterable[Sequence[object]], *, sortable: bool = False,
    note: object = None,
) -> Html:  # fmt: skip
    """A table in a frame that scrolls by itself. The first cell of a row names it; `rows` may have Cells."""
    head = tag("tr", *(tag("th", column, scope="col") for column in columns))
    body = [tag("tr", *(_cell(cell, first=n == 0) for n, cell in enumerate(row))) for row in rows]
    made = tag(
        "table", tag("caption", caption), tag("thead", head), tag("tbody", *body), data_sortable=sortable or None
    )
    frame = tag("div", made, class_="scroll", tabindex="0", role="region", aria_label=f"{_plain(caption)} (table)")
    return frame if note is None else join([frame, tag("p", note, class_="note")])


def _cell(cell: object, *, first: bool) -> Html:
    shown = cell if isinstance(cell, Cell) else Cell(cell)
    key = None if shown.key is None else f"{shown.key:.9g}" if isinstance(shown.key, float) else shown.key
    if first:
        return tag("th", shown.shown, scope="row", data_key=key, class_=shown.kind)
    return tag("td", shown.shown, data_key=key, class_=shown.kind)


def with_code(text: str) -> Html:
    """A sentence in which what stands between backticks is to be typed."""
    return join(code(part) if n % 2 else part for n, part in enumerate(text.split("`")))


def facts(pairs: Iterable[tuple[object, object]]) -> Html:
    """Names with their values, one a line."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs), class_="facts")


def section(title: str, *parts: object, anchor: str) -> Html:
    """A section of the page with its heading."""
    return tag("section", tag("h2", title, id=f"{anchor}-title"), *parts, id=anchor, aria_labelledby=f"{anchor}-title")


def paragraphs(*texts: object) -> Html:
    """A paragraph for each text."""
    return join(tag("p", text) for text in texts if text is not None)


def chart(svg: str, note: object = None) -> Html:
    """A drawing of `insight/drawing.py`, which escapes its texts, with a line below it."""
    return tag("figure", Html(svg), None if note is None else tag("figcaption", note))


def _plain(value: object) -> str:
    return str(value) if not isinstance(value, Html) else html.unescape(_without_tags(value))


def _without_tags(text: str) -> str:
    parts = [piece.partition(">")[2] if n else piece for n, piece in enumerate(text.split("<"))]
    return "".join(parts)


def plural(count: int, one: str, many: str | None = None) -> str:
    """ "1 image", "2 images"."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def percent(share: float, digits: int = 1) -> str:
    """A share as a percentage."""
    return f"{100 * share:.{digits}f} %"


def number(value: Any) -> str:
    """A number with four significant digits; whole numbers with commas."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
