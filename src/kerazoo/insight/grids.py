"""Feature maps, filters or images side by side in one image."""

import math

import numpy as np

CHANNELS, MAP_ROW = 16, 4  # maps drawn of each layer, and of these in a row
FILTERS, FILTER_ROW = 64, 8  # filters drawn, and of these in a row
FILTER_SIZE = 16  # px: smaller filters are drawn with larger pixels


def draw(maps: np.ndarray) -> np.ndarray:
    """(H, W, C) -> a grey image, uint8, of the first 16 channels in rows of four with a gap of one pixel."""
    maps = np.nan_to_num(maps[..., :CHANNELS].astype(np.float64))
    low, high = maps.min(axis=(0, 1)), maps.max(axis=(0, 1))
    stretched = (maps - low) / np.where(high > low, high - low, 1.0) * 255
    return _tiled(stretched.round().transpose(2, 0, 1)[..., None].astype(np.uint8), MAP_ROW)


def draw_images(images: np.ndarray, columns: int = 8) -> np.ndarray:
    """(N, H, W, C) images -> one uint8 image in rows of `columns`, each image stretched to its own range.

    RGB if C is 3, else grey: the first channel.
    """
    shown = images if images.shape[-1] == 3 else images[..., :1]
    low = shown.min(axis=(1, 2, 3), keepdims=True)
    span = shown.max(axis=(1, 2, 3), keepdims=True) - low
    pixels = ((shown - low) / np.where(span > 0, span, 1.0) * 255).round().astype(np.uint8)
    return _tiled(pixels, min(columns, len(pixels)))


def draw_filters(kernel: np.ndarray) -> np.ndarray:
    """(H, W, C, filters) -> uint8 image of the first 64 filters in rows of eight, with a gap of one pixel.

    Middle grey is 0, and the largest magnitude of a filter is black or white. RGB where C is 3; else grey, the mean
    over the input channels. Filters under 16 pixels are drawn with larger pixels.
    """
    kernel = np.nan_to_num(kernel[..., :FILTERS].astype(np.float64))
    if kernel.shape[2] != 3:
        kernel = kernel.mean(axis=2, keepdims=True)
    size = np.abs(kernel).max(axis=(0, 1, 2))
    pixels = (127.5 + 127.5 * kernel / np.where(size > 0, size, 1.0)).round().astype(np.uint8)
    zoom = max(1, math.ceil(FILTER_SIZE / max(pixels.shape[:2])))
    pixels = pixels.repeat(zoom, axis=0).repeat(zoom, axis=1)
    return _tiled(np.moveaxis(pixels, -1, 0), min(pixels.shape[-1], FILTER_ROW))


def _tiled(tiles: np.ndarray, columns: int) -> np.ndarray:
    """(N, H, W, C) uint8 -> one image in rows of `columns`, with a black gap of one pixel; grey without its channel."""
    count, height, width, channels = tiles.shape
    rows = math.ceil(count / columns)
    grid = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), np.uint8)
    for index, tile in enumerate(tiles):
        top, left = (index // columns) * (height + 1), (index % columns) * (width + 1)
        grid[top : top + height, left : left + width] = tile
    return grid if channels == 3 else grid[..., 0]
