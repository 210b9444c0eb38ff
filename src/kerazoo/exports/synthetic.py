"""Images of different shapes and formats, for the gate. Square images could not distinguish a crop from a stretch."""

import io
from typing import Any

import numpy as np
from PIL import Image

# (format, mode, width, height, options); EXIF orientation 6 rotates an image by 90 degrees
KINDS: tuple[tuple[str, str, int, int, dict[str, Any]], ...] = (
    ("PNG", "RGB", 97, 40, {}),
    ("PNG", "L", 40, 97, {}),
    ("PNG", "RGBA", 33, 64, {}),
    ("PNG", "P", 64, 33, {}),
    ("JPEG", "RGB", 131, 301, {"quality": 90}),
    ("JPEG", "RGB", 131, 61, {"quality": 90, "orientation": 6}),
    ("BMP", "RGB", 20, 7, {}),
    ("GIF", "P", 50, 80, {}),
    ("WEBP", "RGB", 70, 45, {"lossless": True}),
)
SIDES = ((41, 90), (90, 41), (7, 7))  # (height, width) of the float images


def encoded_images() -> dict[str, bytes]:
    """Encoded images by description, such as "a PNG of 97x40 px (RGB)"; they are the same each time."""
    return {
        f"a {kind} of {w}x{h} px ({mode})": _encoded(kind, mode, w, h, options) for kind, mode, w, h, options in KINDS
    }


def float_images(channels: int) -> dict[str, np.ndarray]:
    """(H, W, channels) float32 pixels in [0, 255] by description; they are the same each time."""
    return {f"pixels of {h}x{w}x{channels}": _pixels(h, w, channels).astype(np.float32) for h, w in SIDES}


def _encoded(kind: str, mode: str, width: int, height: int, options: dict[str, Any]) -> bytes:
    pixels = _pixels(height, width, 4).round().astype(np.uint8)
    image = Image.fromarray(pixels if mode == "RGBA" else pixels[..., :3]).convert(mode)
    options = dict(options)
    orientation = options.pop("orientation", None)
    if orientation:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif.tobytes()
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def _pixels(height: int, width: int, channels: int) -> np.ndarray:
    """(H, W, C) in [0, 255]: a gradient in each direction, so that every part looks different, and noise."""
    rows, columns, layers = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j, 0 : 1 : channels * 1j]
    noise = np.random.default_rng(height * width).uniform(0, 40, (height, width, channels))
    values: np.ndarray = 150 * rows * (1 - layers) + 120 * columns * layers + 60 * (rows > 0.5) + noise
    clipped: np.ndarray = np.clip(values, 0, 255)
    return clipped
