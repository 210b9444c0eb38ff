"""Lines, dots and text on white, kept as SVG (no script, no font from elsewhere) or PNG."""

import io
import math
from collections.abc import Iterator, Sequence
from itertools import cycle, pairwise
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from PIL import Image, ImageDraw, ImageFont

from kerazoo.files import write_whole

Point = tuple[float, float]

FONT = 12  # px
FINER = 2  # pixels of a PNG to one of the drawing


class Drawing:
    """An image of `width` x `height` px with a title and a description for those who do not see it."""

    def __init__(self, width: int, height: int, title: str, description: str) -> None:
        self.title = title
        self._svg = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
            f' role="img" aria-labelledby="title desc" font-family="sans-serif" font-size="{FONT}">',
            f'<title id="title">{_clean(title)}</title>\n<desc id="desc">{_clean(description)}</desc>',
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        ]
        self._image = Image.new("RGB", (width * FINER, height * FINER), "#ffffff")
        self._pen = ImageDraw.Draw(self._image)

    def line(
        self, points: Sequence[Point], colour: str, *, width: int = 1, dash: Sequence[int] = (), name: str = ""
    ) -> None:
        """A line through `points`; `name` is what a pointer on it shows."""
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashes = f' stroke-dasharray="{" ".join(map(str, dash))}"' if dash else ""
        self._svg.append(
            f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{width}"{dashes}'
            f' stroke-linejoin="round"{_named("polyline", name)}'
        )
        for piece in _dashed(points, dash) if dash else [points]:
            self._pen.line([(x * FINER, y * FINER) for x, y in piece], fill=colour, width=width * FINER, joint="curve")

    def dot(self, x: float, y: float, colour: str, name: str = "") -> None:
        """A small disc."""
        self._svg.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"{_named("circle", name)}')
        self._pen.circle((x * FINER, y * FINER), 3 * FINER, fill=colour)

    def text(
        self, x: float, y: float, text: str, *, anchor: str = "start", size: int = FONT, bold: bool = False
    ) -> None:
        """Text on the base line `y`; `anchor` is the part of it at `x`: "start", "middle" or "end"."""
        if not text:
            return
        weight = ' font-weight="bold"' if bold else ""
        self._svg.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="#222222"{weight}>'
            f"{_clean(text)}</text>"
        )
        self._pen.text(
            (x * FINER, y * FINER), _printable(text), fill="#222222", font=ImageFont.load_default(size * FINER),
            anchor={"start": "ls", "middle": "ms", "end": "rs"}[anchor],
        )  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Write the file whole or not at all: PNG where its name ends so, else SVG."""
        path = Path(path)
        if path.suffix == ".png":
            png = io.BytesIO()
            self._image.save(png, format="PNG", optimize=True)
            write_whole(path, png.getvalue())
        else:
            write_whole(path, "\n".join([*self._svg, "</svg>\n"]))


def _named(tag: str, name: str) -> str:
    return f" aria-label={quoteattr(_printable(name))}><title>{_clean(name)}</title></{tag}>" if name else "/>"


def _printable(text: str) -> str:
    """Without what XML cannot hold."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _clean(text: str) -> str:
    return escape(_printable(text))


def _dashed(points: Sequence[Point], dash: Sequence[int]) -> Iterator[list[Point]]:
    """The drawn parts of a line, `dash` being lengths drawn and left out in turn."""
    lengths = cycle(dash)
    left, drawn, piece = float(next(lengths)), True, [points[0]]
    for (x, y), (to_x, to_y) in pairwise(points):
        length = math.hypot(to_x - x, to_y - y)
        gone = 0.0
        while length - gone > left:
            gone += left
            place = (x + (to_x - x) * gone / length, y + (to_y - y) * gone / length)
            if drawn:
                yield [*piece, place]
            left, drawn, piece = float(next(lengths)), not drawn, [place]
        left -= length - gone
        piece.append((to_x, to_y))
    if drawn and len(piece) > 1:
        yield piece
