"""Charts of answers: how often probabilities come true, and predicted numbers over true ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kerazoo.insight.curves import COLOURS, FAINT, FOOT, LEFT, MARK, RIGHT, Axis, axis
from kerazoo.insight.drawing import INK, Drawing

SIZE = (360, 300)  # px: as wide as a phone
TOP = 40  # px above the plot
TICKS = tuple((n / 5, f"{n / 5:.1f}") for n in range(6))
MOST_DOTS = 800  # more are drawn as these, taken evenly in order of the true number


@dataclass(frozen=True)
class Reliability:
    """Answers in a range of probabilities: how many, their mean probability, and the share that came true.

    `low` and `high` are the interval of that share.
    """

    count: int
    confidence: float
    right: float
    low: float
    high: float


def reliability_chart(bins: Sequence[Reliability], *, title: str, name: str = "") -> Drawing:
    """The share that came true over the probability, with intervals, beside the line where both are equal.

    Bars below show how many answers there are.
    """
    words = "; ".join(f"{each.count:,} answers at {each.confidence:.2f}: {each.right:.2f} right" for each in bins)
    drawing = Drawing(*SIZE, title, words, name=name)
    plot = _Plot(drawing, title, Axis(0, 1, False, TICKS), Axis(0, 1, False, TICKS))
    most = max((each.count for each in bins), default=1)
    for each in bins:
        x, foot = plot.at(each.confidence, 0)
        height = 0.22 * each.count / most * (foot - plot.top)
        drawing.box(x - 5, foot - height, 10, height, FAINT, f"{each.count:,} answers")
    drawing.line([plot.at(0, 0), plot.at(1, 1)], MARK, dash=(4, 4), name="as probable as it says")
    drawing.line([plot.at(each.confidence, each.right) for each in bins], COLOURS[0], width=2)
    for each in bins:
        drawing.line([plot.at(each.confidence, each.low), plot.at(each.confidence, each.high)], COLOURS[0])
        label = f"{each.count:,} answers, mean probability {each.confidence:.3f}, right {each.right:.3f}"
        drawing.dot(*plot.at(each.confidence, each.right), COLOURS[0], label, radius=4)
    plot.labels("probability of the answer", "share that is right")
    return drawing


def scatter_chart(
    x: np.ndarray, y: np.ndarray, *, title: str, x_label: str, y_label: str, equal: bool = False, name: str = "",
    description: str = "",
) -> Drawing:  # fmt: skip
    """A dot for each of (N,) x and y, at most 800 of them. With `equal`, both axes are the same, with a line y = x.

    Otherwise a line marks y = 0.
    """
    rows = np.arange(len(x))
    if len(x) > MOST_DOTS:
        rows = np.argsort(x, kind="stable")[np.linspace(0, len(x) - 1, MOST_DOTS).round().astype(int)]
    drawing = Drawing(*SIZE, title, description or f"{y_label} over {x_label}", name=name)
    values = np.concatenate([x, y]) if equal else x
    x_axis = axis(values.tolist(), margin=0.04)
    y_axis = x_axis if equal else axis([*y.tolist(), 0.0], margin=0.08)
    plot = _Plot(drawing, title, x_axis, y_axis)
    if equal:
        drawing.line([plot.at(x_axis.low, x_axis.low), plot.at(x_axis.high, x_axis.high)], MARK, dash=(4, 4))
    else:
        drawing.line([plot.at(x_axis.low, 0), plot.at(x_axis.high, 0)], MARK, dash=(4, 4))
    for row in rows:
        drawing.dot(*plot.at(float(x[row]), float(y[row])), COLOURS[0], radius=2.2)
    plot.labels(x_label, y_label)
    return drawing


class _Plot:
    """The axes of a chart, drawn, and where values are."""

    def __init__(self, drawing: Drawing, title: str, x_axis: Axis, y_axis: Axis) -> None:
        self.drawing, self._x, self._y = drawing, x_axis, y_axis
        width, height = SIZE
        self.left, self.right, self.top, self.bottom = LEFT, width - RIGHT, TOP + 16, height - FOOT
        drawing.text(8, 22, title, size=15, bold=True)
        for value, label in x_axis.ticks:
            x = self.at(value, y_axis.low)[0]
            drawing.line([(x, self.top), (x, self.bottom)], FAINT)
            drawing.text(x, self.bottom + 17, label, anchor="middle")
        for value, label in y_axis.ticks:
            y = self.at(x_axis.low, value)[1]
            drawing.line([(self.left, y), (self.right, y)], FAINT)
            drawing.text(self.left - 7, y + 4, label, anchor="end")
        drawing.line([(self.left, self.top), (self.left, self.bottom), (self.right, self.bottom)], INK)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The place of a value in px."""
        return (
            self.left + self._x.place(x) * (self.right - self.left),
            self.bottom - self._y.place(y) * (self.bottom - self.top),
        )

    def labels(self, x_label: str, y_label: str) -> None:
        """Name both axes."""
        self.drawing.text((self.left + self.right) / 2, SIZE[1] - 10, x_label, anchor="middle")
        self.drawing.text(8, TOP + 4, y_label)
