"""From an image file to what the network takes, with numpy and Pillow only.

This file is a part of each export that is not a SavedModel: copy it, with `preprocessing.json`, to where the model is
used. `load(PATH)` gives the settings; `decode` and `fit` give what a model takes as `pixels`:

    settings = load("preprocessing.json")
    pixels = fit(decode("rose.jpg", settings), settings)  # (height, width, channels) uint8
    prepared = scale(pixels, settings)  # the same in float32, for a model that takes `prepared`
"""

import io
import json
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
# pixels: at most, for each byte of the file, and for a file of any size; a small file can announce gigabytes
MOST, PER_BYTE, ALWAYS = 120_000_000, 20, 35_000_000
SCANS = 12  # of a JPEG with the largest number of pixels; smaller ones may have more, up to 100
BAND = 256  # rows that are blended at once
Settings = dict[str, Any]


def load(path: str | Path) -> Settings:
    """The settings of the preprocessing."""
    settings: Settings = json.loads(Path(path).read_text(encoding="utf-8"))
    return settings


def decode(image: str | Path | bytes, settings: Settings) -> np.ndarray:
    """A file or its bytes -> (H, W, channels) uint8, upright; alpha is blended with white. Raises OSError."""
    from PIL import Image

    contents = image if isinstance(image, bytes) else Path(image).read_bytes()
    try:
        return _decoded(contents, settings)
    except (ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        raise OSError(str(error)) from error


def _decoded(contents: bytes, settings: Settings) -> np.ndarray:
    from PIL import Image, ImageOps

    is_jpeg = contents.startswith(b"\xff\xd8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # there is a limit below
        opened = Image.open(io.BytesIO(contents), formats=FORMATS)
    with opened:
        most = min(max(PER_BYTE * len(contents), ALWAYS), MOST)
        if opened.format == "WEBP":
            most //= 2  # its decoder has several copies
        if opened.mode == "CMYK":
            most = most * 3 // 4
        if opened.width * opened.height > most:
            raise OSError(f"its header announces {opened.width} x {opened.height} pixels; it may have {most:,}")
        if opened.format in ("GIF", "WEBP") and getattr(opened, "n_frames", 1) > 1:
            raise OSError("it is an animation")
        deep = opened.mode.startswith("I")  # 16 bits, of which the upper 8 are used
        has_alpha = opened.mode in ("RGBA", "LA", "PA") or ("transparency" in opened.info and opened.mode == "P")
        if is_jpeg and contents.count(b"\xff\xda\x00") > _most_scans(opened, most):
            raise OSError(f"it has more than {_most_scans(opened, most)} scans, which is the limit for its size")
        if is_jpeg:  # others are taken as they are
            ImageOps.exif_transpose(opened, in_place=True)
        if deep:
            gray = (np.asarray(opened) >> 8).astype(np.uint8)
            pixels = np.repeat(gray[..., None], 3, axis=-1)
        else:
            mode = "RGBA" if has_alpha else "RGB"
            pixels = np.asarray(opened if opened.mode == mode else opened.convert(mode))
    if has_alpha:
        pixels = np.concatenate([_over_white(pixels[start : start + BAND]) for start in range(0, len(pixels), BAND)])
    if settings["channels"] == 1:  # ITU-R 601-2 luma, as Pillow has it
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    return pixels


def _most_scans(opened: Any, most: int) -> int:
    return min(100, SCANS * most // max(1, int(opened.width * opened.height)))


def _over_white(pixels: np.ndarray) -> np.ndarray:
    color, alpha = pixels[..., :3].astype(np.uint16), pixels[..., 3:].astype(np.uint16)
    blended: np.ndarray = ((color * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return blended


def fit(pixels: np.ndarray, settings: Settings) -> np.ndarray:
    """(H, W, C) uint8 -> (height, width, C) uint8: cut, resized with antialiasing, or padded, as `resize` says."""
    height, width = settings["height"], settings["width"]
    rows, columns = pixels.shape[:2]
    if (rows, columns) == (height, width):
        return pixels
    if settings["resize"] == "crop":
        part_rows = min(max(columns * height // width, 1), rows)
        part_columns = min(max(rows * width // height, 1), columns)
        top, left = (rows - part_rows) // 2, (columns - part_columns) // 2
        pixels = pixels[top : top + part_rows, left : left + part_columns]
    rows, columns = pixels.shape[:2]
    inner = [height, width]
    before = [0, 0]
    if settings["resize"] == "pad":
        new = np.array([height, width], np.float32)
        old = np.array([rows, columns], np.float32)
        inside = old / np.max(old / new)
        inner = [int(side) for side in np.maximum(np.floor(inside), 1)]
        before = [int(side) for side in np.maximum(np.floor((new - inside) / 2), 0)]
    by_row = resizing_matrix(rows, inner[0], settings["interpolation"])
    by_column = resizing_matrix(columns, inner[1], settings["interpolation"])
    layers = [by_row @ layer.astype(np.float32) @ by_column.T for layer in np.moveaxis(pixels, -1, 0)]
    whole = np.clip(np.round(np.stack(layers, axis=-1)), 0, 255).astype(np.uint8)
    result = np.zeros((height, width, pixels.shape[-1]), np.uint8)
    result[before[0] : before[0] + inner[0], before[1] : before[1] + inner[1]] = whole
    return result


def scale(pixels: np.ndarray, settings: Settings) -> np.ndarray:
    """(..., C) pixels -> the same shape, float32: `factor` * pixel - `offset`, for "caffe" in the order B, G, R."""
    values = pixels[..., ::-1] if settings["reversed"] else pixels
    factor, offset = (np.asarray(settings[name], np.float32) for name in ("factor", "offset"))
    result: np.ndarray = values.astype(np.float32) * factor - offset
    return result


def resizing_matrix(length: int, rows: int, interpolation: str) -> np.ndarray:
    """(rows, length) float32: what each old pixel gives to each new one; each row sums to 1."""
    step = np.float32(length) / np.float32(rows)
    starts = np.arange(rows, dtype=np.float32)[:, None]
    pixels = np.arange(length, dtype=np.float32)[None]
    weights = shares(starts, pixels, step, interpolation, np)
    matrix: np.ndarray = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return matrix


def shares(new: Any, old: Any, step: Any, interpolation: str, m: Any) -> Any:
    """What the old pixel `old` gives to the pixel `new`, each of which is `step` old ones wide, not yet normalized.

    `m` is numpy, or another module with its abs, floor, maximum, minimum, sin and where, to compute with.
    """
    if interpolation == "area":  # how much of the old pixel lies in the new one
        return m.maximum(m.minimum(old + 1.0, (new + 1.0) * step) - m.maximum(old, new * step), 0.0)
    if interpolation == "nearest":
        return m.where(m.abs(old - m.floor((new + 0.5) * step)) < 0.5, 1.0 + 0.0 * (old + new), 0.0 * (old + new))
    distance = m.abs((old + 0.5) - (new + 0.5) * step) / m.maximum(step, 1.0)  # wider where there are fewer pixels
    if interpolation == "bilinear":
        return m.maximum(1.0 - distance, 0.0)
    if interpolation == "bicubic":  # Keys 1981, with a = -0.5
        near = (1.5 * distance - 2.5) * distance * distance + 1.0
        far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
        return m.where(distance < 1.0, near, m.where(distance < 2.0, far, 0.0 * distance))
    radius = float(interpolation.removeprefix("lanczos"))
    angle = m.maximum(distance, 1e-3) * 3.14159265
    waves = radius * m.sin(angle) * m.sin(angle / radius) / (angle * angle)
    value = m.where(distance < 1e-3, 1.0 + 0.0 * distance, waves)
    return m.where(distance < radius, value, 0.0 * distance)
