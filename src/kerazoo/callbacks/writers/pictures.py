"""Images and histograms as writers hand them on."""

import io

import numpy as np
from PIL import Image


def check_pixels(pixels: np.ndarray) -> None:
    """Raise ValueError for what is not an image, uint8, (H, W) or (H, W, 3)."""
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise ValueError(f"an image must be uint8, (H, W) or (H, W, 3), got {pixels.dtype}, {pixels.shape}")


def png_of(pixels: np.ndarray) -> bytes:
    """The PNG of `pixels`, uint8, (H, W) or (H, W, 3). Raises ValueError for others."""
    check_pixels(pixels)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, format="PNG")
    return png.getvalue()


def finite_edges(edges: np.ndarray) -> np.ndarray:
    """`edges` (N + 1,) as float64, where an infinite first or last one becomes its neighbor: trackers draw no other."""
    edges = np.array(edges, np.float64)
    if len(edges) > 1 and np.isneginf(edges[0]):
        edges[0] = edges[1]
    if len(edges) > 1 and np.isposinf(edges[-1]):
        edges[-1] = edges[-2]
    return edges
