"""Curves of a run as SVG or PNG, by its name's ending: losses and metrics over epochs, or any numbers over any other.

Own small code: matplotlib is no dependency, for Keras imports it wherever it is installed, which takes two seconds.
Colours are Okabe and Ito's, which colour-blind people tell apart; each curve has a dash pattern of its own besides.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kerazoo.insight.drawing import INK, Drawing

Curve = tuple[Sequence[float], Sequence[float]]  # x, y

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
DASHES = ((), (6, 3), (2, 3), (9, 3, 2, 3))
FAINT, MARK = "#dddddd", "#666666"
WIDTH, HEIGHT = 640, 400  # of a chart, px
LEVEL_DASHES = ((1, 3), (12, 4))
LEFT, RIGHT, FOOT = 66, 18, 46  # px around the plot
LARGEST = 1e300  # what is beyond is drawn as little as infinity is


class Axis(NamedTuple):
    """Values from `low` to `high`, with ticks."""

    low: float
    high: float
    log: bool
    ticks: tuple[tuple[float, str], ...]

    def place(self, value: float) -> float:
        """0 at `low`, 1 at `high`."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def curves_of(
    history: Sequence[Mapping[str, float]], path: str | Path, *, best: float | None = None, kept: float | None = None,
    dropped: bool = False, levels: Mapping[str, Mapping[str, float]] | None = None,
) -> None:  # fmt: skip
    """Draw a run's history, one chart for each loss and metric with its validation beside it, one epoch marked.

    That is the `kept` one, else the `best`, by default of the lowest `val_loss`; none of epochs that were `dropped` as
    a whole, whose curves say so, or where `levels` say what was kept instead. `levels` are lines across the charts:
    name -> value by loss or metric. The epochs of a head learned first (`head_epoch`) have charts of their own, above.
    """
    phases = [(key, [row for row in history if key in row]) for key in ("head_epoch", "epoch")]
    charts = [(key, name, rows) for key, rows in phases for name in _measured(rows, key)]
    across = max((len(_measured(rows, key)) for key, rows in phases), default=0) or 1
    rows_of = [key for key, rows in phases if _measured(rows, key)] or ["epoch"]
    drawing = Drawing(WIDTH * across, HEIGHT * len(rows_of), "Training curves", ", ".join(c[1] for c in charts))
    if not charts:
        _chart(drawing, (0, 0), {}, title="no epochs", x_label="epoch", y_label="")
    columns = dict.fromkeys(rows_of, 0)
    for key, name, rows in charts:
        tuning = key == "epoch"
        epochs = [row[key] for row in rows]
        series = {
            f"{split} (dropped)" if dropped and tuning else split: (epochs, [row.get(full, math.nan) for row in rows])
            for split, full in (("train", name), ("validation", f"val_{name}"))
            if any(full in row for row in rows)
        }
        corner = (WIDTH * columns[key], HEIGHT * rows_of.index(key))
        columns[key] += 1
        across_chart = [(values[name], label) for label, values in (levels or {}).items() if name in values]
        _chart(
            drawing, corner, series, title=name.replace("_", " "), x_label=key.replace("_", " "), y_label="",
            marks=_marked(rows, key, best, kept, plain=not (dropped or levels)),
            levels=[(value, f"{label} {value:.4f}") for value, label in across_chart] if tuning else (),
        )  # fmt: skip
    drawing.save(path)


def _marked(
    rows: Sequence[Mapping[str, float]], key: str, best: float | None, kept: float | None, *, plain: bool
) -> list[tuple[float, str]]:  # fmt: skip
    """The epoch to mark, with its label: the lowest `val_loss` is what was kept of `plain` trainings only."""
    if key == "epoch" and kept is not None:
        return [(kept, f"kept: {kept:g}")]
    if key == "epoch" and not plain:
        return []
    number = best if key == "epoch" and best is not None else _lowest(rows, key)
    return [] if number is None else [(number, f"best: {number:g}")]


def draw_curves(path: str | Path, series: Mapping[str, Curve], *, title: str, **options: Any) -> None:
    """Draw curves into the file `path`; see `chart_of`."""
    chart_of(series, title=title, **options).save(path)


def chart_of(
    series: Mapping[str, Curve], *, title: str, x_label: str, y_label: str, log_x: bool = False, log_y: bool = False,
    marks: Iterable[tuple[float, str]] = (), levels: Iterable[tuple[float, str]] = (),
    size: tuple[int, int] = (WIDTH, HEIGHT), name: str = "", description: str = "",
) -> Drawing:  # fmt: skip
    """One chart of curves, name -> (x, y). `marks` are values of x with a label each, `levels` values of y.

    A value that is not finite, or not above 0 on a logarithmic axis, leaves a gap. `size` is in px, and `name` is as in
    `Drawing`.
    """
    words = description or f"{y_label} over {x_label}: {', '.join(series)}"
    drawing = Drawing(*size, title, words, name=name)
    _chart(
        drawing, (0, 0), series, title=title, x_label=x_label, y_label=y_label, log_x=log_x, log_y=log_y, marks=marks,
        levels=levels, size=size,
    )  # fmt: skip
    return drawing


def _measured(rows: Sequence[Mapping[str, float]], key: str) -> list[str]:
    """What was measured, losses first."""
    names = dict.fromkeys(name.removeprefix("val_") for row in rows for name in row if name != key)
    return sorted(names, key=lambda name: name != "loss")


def _lowest(rows: Sequence[Mapping[str, float]], key: str) -> float | None:
    known = [(row["val_loss"], row[key]) for row in rows if math.isfinite(row.get("val_loss", math.nan))]
    return min(known)[1] if known else None


def _chart(
    drawing: Drawing, corner: tuple[float, float], series: Mapping[str, Curve], *, title: str, x_label: str,
    y_label: str, log_x: bool = False, log_y: bool = False, marks: Iterable[tuple[float, str]] = (),
    levels: Iterable[tuple[float, str]] = (), size: tuple[int, int] = (WIDTH, HEIGHT),
) -> None:  # fmt: skip
    left, right = corner[0] + LEFT, corner[0] + size[0] - RIGHT
    drawing.text(left, corner[1] + 24, title, size=16, bold=True)
    levels = [level for level in levels if _drawn(level[0], log_y)]
    legend = [(name, COLOURS[n % len(COLOURS)], DASHES[n % len(DASHES)]) for n, name in enumerate(series)]
    legend += [(label, INK, LEVEL_DASHES[n % len(LEVEL_DASHES)]) for n, (_, label) in enumerate(levels)]
    top = _legend(drawing, left, right, corner[1] + 46, legend) + 28
    bottom = corner[1] + size[1] - FOOT
    pieces = {name: list(_pieces(*curve, log_x=log_x, log_y=log_y)) for name, curve in series.items()}
    points = [point for parts in pieces.values() for part in parts for point in part]
    drawing.text((left + right) / 2, corner[1] + size[1] - 10, x_label, anchor="middle")
    drawing.text(left, top - 8, y_label)
    marks = [mark for mark in marks if _drawn(mark[0], log_x)] if points else []
    across = [x for x, _ in points] + [x for x, _ in marks]
    x_axis = axis(across, log=log_x, whole=all(x == round(x) for x in across))  # there is no epoch 1.5
    y_axis = axis([y for _, y in points] + [y for y, _ in levels], log=log_y, margin=0.04)

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x_axis.place(x) * (right - left), bottom - y_axis.place(y) * (bottom - top)

    for value, label in x_axis.ticks if points else ():
        x = at(value, y_axis.low)[0]
        drawing.line([(x, top), (x, bottom)], FAINT)
        drawing.text(x, bottom + 17, label, anchor="middle")
    for value, label in y_axis.ticks if points else ():
        y = at(x_axis.low, value)[1]
        drawing.line([(left, y), (right, y)], FAINT)
        drawing.text(left - 7, y + 4, label, anchor="end")
    drawing.line([(left, top), (left, bottom), (right, bottom)], INK)
    if not points:
        drawing.text((left + right) / 2, (top + bottom) / 2, "nothing to draw", anchor="middle")
    for value, label in marks:
        x = at(value, y_axis.low)[0]
        drawing.line([(x, top), (x, bottom)], MARK, dash=(3, 3))
        near_end = x > (left + right) / 2
        beside = x if near_end else max(x, left + 7 * len(y_label) + 10 * bool(y_label))
        drawing.text(beside, top - 8, label, anchor="end" if near_end else "start")
    for number, (value, label) in enumerate(levels if points else ()):
        y = at(x_axis.low, value)[1]
        drawing.line([(left, y), (right, y)], INK, dash=LEVEL_DASHES[number % len(LEVEL_DASHES)], name=label)
    for number, (name, parts) in enumerate(pieces.items()):
        for part in parts:
            places = [at(*point) for point in part]
            if len(places) == 1:
                drawing.dot(*places[0], COLOURS[number % len(COLOURS)], name)
            else:
                dash = DASHES[number % len(DASHES)]
                drawing.line(places, COLOURS[number % len(COLOURS)], width=2, dash=dash, name=name)


def _legend(
    drawing: Drawing, left: float, right: float, y: float, entries: Iterable[tuple[str, str, tuple[int, ...]]]
) -> float:  # fmt: skip
    """The names beside their lines (colour, dash), in as many rows as they need; where the last one stands."""
    x = left
    for name, colour, dash in entries:
        wide = 44 + 7 * len(name)
        if x > left and x + wide > right:
            x, y = left, y + 18
        drawing.line([(x, y - 4), (x + 24, y - 4)], colour, width=1 if colour == INK else 2, dash=dash)
        drawing.text(x + 29, y, name)
        x += wide
    return y


def _drawn(value: float, log: bool) -> bool:
    return math.isfinite(value) and abs(value) < LARGEST and (value > 1 / LARGEST or not log)


def _pieces(
    xs: Sequence[float], ys: Sequence[float], *, log_x: bool, log_y: bool
) -> Iterator[list[tuple[float, float]]]:
    """The curve between its gaps."""
    piece: list[tuple[float, float]] = []
    for x, y in zip(map(float, xs), map(float, ys), strict=True):
        if _drawn(x, log_x) and _drawn(y, log_y):
            piece.append((x, y))
        elif piece:
            yield piece
            piece = []
    if piece:
        yield piece


def axis(values: Sequence[float], *, log: bool = False, whole: bool = False, margin: float = 0.0) -> Axis:
    """The axis for `values`, all of which can be drawn; a constant, or none at all, has room around it.

    `whole` has ticks at whole numbers only; `margin` is a share of the range to add at both ends, where not `log`.
    """
    low, high = min(values, default=1.0), max(values, default=1.0)
    if log:
        low, high = (low / 2, high * 2) if high <= low * (1 + 1e-9) else (low, high)
        ticks = _log_ticks(low, high)
        if len(ticks) > 1:
            return Axis(low, high, log, tuple((tick, f"{tick:g}") for tick in ticks))
    elif high - low <= 1e-12 * max(abs(low), abs(high)):
        room = abs(low) / 2 or 1.0
        low, high = low - room, high + room
    else:
        low, high = low - margin * (high - low), high + margin * (high - low)
    step = 10.0 ** math.floor(math.log10((high - low) / 5))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    step = max(step, 1.0) if whole else step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    plain = decimals <= 5 and max(abs(low), abs(high)) < 1e6
    return Axis(
        low, high, log, tuple((n * step, f"{n * step:.{decimals}f}" if plain else f"{n * step:.3g}")
                              for n in range(first, last + 1)),
    )  # fmt: skip


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, at most about eight; of few decades their double and fivefold, too."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if last - first <= 3 else (1,)
    every = max(1, (last - first) // 8 + 1) if last - first > 8 else 1
    ticks = [factor * 10.0**power for power in range(first, last + 1, every) for factor in factors]
    return [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
