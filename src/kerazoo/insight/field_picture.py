"""The receptive field of one position of a layer, drawn on an image."""

import math
from dataclasses import dataclass

import numpy as np

from kerazoo.errors import ModelError
from kerazoo.insight.receptive_field import Field

EDGE, CENTER = (213, 94, 0), (86, 180, 233)  # Okabe and Ito's vermilion and sky blue
BEYOND = 128  # gray outside of the image, where there is only padding
DIMMED = 0.35  # the share of the brightness that pixels outside of the field keep
SMALLEST = 448  # px: the shorter side of a picture; smaller images are drawn with larger pixels


@dataclass(frozen=True)
class Box:
    """What one position sees, in pixels of the network's input: rows top ... bottom - 1, columns left ... right - 1.

    It may begin before 0 and end behind the image, where there is padding.
    """

    top: int
    left: int
    bottom: int
    right: int

    def inside(self, height: int, width: int) -> "Box":
        """The part that is in the image."""
        rows = np.clip([self.top, self.bottom], 0, height)
        columns = np.clip([self.left, self.right], 0, width)
        return Box(int(rows[0]), int(columns[0]), int(rows[1]), int(columns[1]))


def box_of(field: Field, unit: tuple[int, int], layer: str) -> Box:
    """The pixels that the position `unit`, (row, column), of a layer sees. Raises ModelError."""
    if field.unknown:
        raise ModelError(f"the receptive field of {layer} is not known: {field.unknown}")
    if len(field.axes) != 2:
        raise ModelError(f"the input of the model has {len(field.axes)} axes beside the channels; an image has 2")
    ranges = []
    for axis, position, name in zip(field.axes, unit, ("row", "column"), strict=True):
        if not 0 <= position < axis.count:
            raise ModelError(f"the {name} of the unit must be from 0 to {axis.count - 1} in {layer}, got {position}")
        first, end = axis.of(position)
        ranges.append((math.floor(first), math.ceil(end)))
    return Box(ranges[0][0], ranges[1][0], ranges[0][1], ranges[1][1])


def draw_field(pixels: np.ndarray, box: Box) -> np.ndarray:
    """(H, W, 1 or 3) uint8 -> (H', W', 3) uint8: the image, darker outside of `box`, and the edge of the box.

    Where the box goes beyond the image, there is a gray margin, of at most the image's own size on each side. A dot is
    at the center of the box.
    """
    height, width = pixels.shape[:2]
    zoom = max(1, round(SMALLEST / min(height, width)))
    margins = [
        min(max(-box.top, 0), height), min(max(box.bottom - height, 0), height), min(max(-box.left, 0), width),
        min(max(box.right - width, 0), width),
    ]  # fmt: skip
    top, _, left, _ = margins
    picture = np.full((height + sum(margins[:2]), width + sum(margins[2:]), 3), BEYOND, np.uint8)
    inner = box.inside(height, width)
    shown = np.broadcast_to(pixels, (height, width, 3)) * DIMMED
    field = (slice(inner.top, inner.bottom), slice(inner.left, inner.right))
    shown[field] = np.broadcast_to(pixels, (height, width, 3))[field]
    picture[top : top + height, left : left + width] = shown.round()
    picture = picture.repeat(zoom, axis=0).repeat(zoom, axis=1)
    line = max(2, min(picture.shape[:2]) // 150)
    rows = np.clip([(box.top + top) * zoom, (box.bottom + top) * zoom], 0, picture.shape[0])
    columns = np.clip([(box.left + left) * zoom, (box.right + left) * zoom], 0, picture.shape[1])
    picture[rows[0] : rows[0] + line, columns[0] : columns[1]] = EDGE
    picture[max(rows[1] - line, 0) : rows[1], columns[0] : columns[1]] = EDGE
    picture[rows[0] : rows[1], columns[0] : columns[0] + line] = EDGE
    picture[rows[0] : rows[1], max(columns[1] - line, 0) : columns[1]] = EDGE
    middle = (box.top + box.bottom) / 2 + top, (box.left + box.right) / 2 + left
    y, x = (int(each * zoom) for each in middle)
    picture[max(y - line, 0) : y + line, max(x - line, 0) : x + line] = CENTER
    return picture
