"""Sheets of feature maps: the maps of a layer side by side, with the layer's name, their range and a color scale."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kerazoo.insight.grad_cam import colors

MOST = 64  # maps drawn of a layer
COLUMNS = 8
TILE = 96  # px: maps are drawn with larger pixels up to this side
GAP, MARGIN, LINE, SCALE = 4, 12, 18, 14  # px: between maps, around the sheet, a line of text, height of the scale
INK, PAPER = "#222222", "#ffffff"


def draw_sheet(name: str, maps: np.ndarray) -> np.ndarray:
    """(H, W, C) maps of the layer `name` -> (height, width, 3) uint8: the first 64, each with its number.

    All maps have the same colors, from the lowest value to the highest; values that are not finite are drawn as the
    lowest.
    """
    height, width, count = maps.shape
    shown = maps[..., :MOST].astype(np.float64)
    finite = shown[np.isfinite(shown)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    shares = (np.nan_to_num(shown, nan=low, posinf=high, neginf=low) - low) / (high - low or 1.0)
    zoom = max(1, TILE // max(height, width))
    tiles = colors(shares).round().astype(np.uint8).repeat(zoom, axis=0).repeat(zoom, axis=1)
    columns = min(COLUMNS, shown.shape[-1])
    rows = math.ceil(shown.shape[-1] / columns)
    across, down = width * zoom + GAP, height * zoom + GAP + LINE
    sheet = Image.new("RGB", (max(columns * across, 420) + 2 * MARGIN, rows * down + 4 * LINE + 2 * MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    more = "" if count <= MOST else f", the first {MOST} of them"
    plain = "".join(letter if letter.isprintable() else "?" for letter in name)
    pen.text((MARGIN, MARGIN), f"{plain}: {count} maps of {height} x {width}{more}", fill=INK, font=font)
    _draw_scale(sheet, pen, font, low, high, MARGIN + LINE)
    for number in range(shown.shape[-1]):
        left = MARGIN + number % columns * across
        top = MARGIN + 4 * LINE + number // columns * down
        sheet.paste(Image.fromarray(tiles[:, :, number]), (left, top + LINE - GAP))
        pen.text((left, top - 2), str(number), fill=INK, font=font)
    return np.asarray(sheet)


def _draw_scale(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, low: float,
    high: float, top: int,
) -> None:  # fmt: skip
    """The colors from left to right, with the lowest and the highest value below."""
    width = 200
    bar = colors(np.linspace(0, 1, width))[np.newaxis].repeat(SCALE, axis=0)
    sheet.paste(Image.fromarray(bar.round().astype(np.uint8)), (MARGIN, top))
    pen.text((MARGIN, top + SCALE + 2), f"{low:.4g}", fill=INK, font=font)
    pen.text((MARGIN + width, top + SCALE + 2), f"{high:.4g}", fill=INK, font=font, anchor="ra")
