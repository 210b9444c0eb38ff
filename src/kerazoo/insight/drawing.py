"""Lines, dots and text on white, kept as SVG (no script, no font from elsewhere) or PNG."""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, pairwise
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from PIL import Image, ImageDraw, ImageFont

from kerazoo.files import write_whole

Point = tuple[float, float]

FONT = 12  # px
INK = "#222222"
FINER = 2  # pixels of a PNG to one of the drawing


class Drawing:
    """An image of `width` x `height` px with a title and a description for those who do not see it.

    With a `name`, the SVG is a part of an HTML page: its ids begin with the name, its background is the page's, and the
    page can replace a color, #0072b2 by its own `--chart-0072b2`.
    """

    def __init__(self, width: int, height: int, title: str, description: str, *, name: str = "") -> None:
        self.title = title
        self._size = (width, height)
        self._inline = bool(name)
        ids = [f"{name}-{part}" if name else part for part in ("title", "desc")]
        size = "" if name else f' xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        self._svg = [
            f'<svg{size} viewBox="0 0 {width} {height}"'
            f' role="img" aria-labelledby="{" ".join(ids)}" font-family="sans-serif" font-size="{FONT}">',
            f'<title id="{ids[0]}">{_clean(title)}</title>\n<desc id="{ids[1]}">{_clean(description)}</desc>',
        ]
        if not name:
            self._svg.append(f'<rect width="{width}" height="{height}" fill="#ffffff"/>')
        self._strokes: list[Callable[[ImageDraw.ImageDraw], object]] = []

    def line(
        self, points: Sequence[Point], colour: str, *, width: int = 1, dash: Sequence[int] = (), name: str = ""
    ) -> None:
        """A line through `points`; `name` is what a pointer on it shows."""
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashes = f' stroke-dasharray="{" ".join(map(str, dash))}"' if dash else ""
        self._svg.append(
            f'<polyline points="{places}" fill="none" stroke="{self._paint(colour)}" stroke-width="{width}"{dashes}'
            f' stroke-linejoin="round"{self._named("polyline", name)}'
        )

        def draw(pen: ImageDraw.ImageDraw) -> None:
            for piece in _dashed(points, dash) if dash else [points]:
                pen.line([(x * FINER, y * FINER) for x, y in piece], fill=colour, width=width * FINER, joint="curve")

        self._strokes.append(draw)

    def dot(self, x: float, y: float, colour: str, name: str = "", *, radius: float = 3) -> None:
        """A small disc."""
        self._svg.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{self._paint(colour)}"'
            f"{self._named('circle', name)}"
        )
        self._strokes.append(lambda pen: pen.circle((x * FINER, y * FINER), radius * FINER, fill=colour))

    def box(self, x: float, y: float, width: float, height: float, colour: str, name: str = "") -> None:
        """A filled rectangle, `x` and `y` being its upper left corner."""
        self._svg.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{self._paint(colour)}"'
            f"{self._named('rect', name)}"
        )
        corners = (x * FINER, y * FINER, (x + width) * FINER, (y + height) * FINER)
        self._strokes.append(lambda pen: pen.rectangle(corners, fill=colour))

    def text(
        self, x: float, y: float, text: str, *, anchor: str = "start", size: int = FONT, bold: bool = False
    ) -> None:
        """Text on the base line `y`; `anchor` is the part of it at `x`: "start", "middle" or "end"."""
        if not text:
            return
        weight = ' font-weight="bold"' if bold else ""
        self._svg.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{self._paint(INK)}"'
            f"{weight}>{_clean(text)}</text>"
        )
        self._strokes.append(
            lambda pen: pen.text(
                (x * FINER, y * FINER), _printable(text), fill=INK, font=ImageFont.load_default(size * FINER),
                anchor={"start": "ls", "middle": "ms", "end": "rs"}[anchor],
            )
        )  # fmt: skip

    def svg(self) -> str:
        """The drawing as SVG."""
        return "\n".join([*self._svg, "</svg>\n"])

    def save(self, path: str | Path) -> None:
        """Write the file whole or not at all: PNG where its name ends so, else SVG."""
        path = Path(path)
        if path.suffix == ".png":
            width, height = self._size
            image = Image.new("RGB", (width * FINER, height * FINER), "#ffffff")
            pen = ImageDraw.Draw(image)
            for stroke in self._strokes:
                stroke(pen)
            png = io.BytesIO()
            image.save(png, format="PNG", optimize=True)
            write_whole(path, png.getvalue())
        else:
            write_whole(path, self.svg())

    def _named(self, tag: str, name: str) -> str:
        """The end of an element with a name; in a page without a label: there, a drawing is one image."""
        label = "" if self._inline else f" aria-label={quoteattr(_printable(name))}"
        return f"{label}><title>{_clean(name)}</title></{tag}>" if name else "/>"

    def _paint(self, colour: str) -> str:
        return f"var(--chart-{colour[1:]},{colour})" if self._inline else colour


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
