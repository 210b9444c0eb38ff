"""Feature maps, and filters, as one image."""

import math

import numpy as np

CHANNELS = 16  # maps drawn of each tap, in four rows
FILTERS, FILTER_ROW = 64, 8  # filters drawn, and of these in a row
FILTER_SIZE = 16  # px: smaller filters are drawn with larger pixels


def draw(maps: np.ndarray) -> np.ndarray:
    """(H, W, C) -> a grey image, uint8, of the first 16 channels in rows of four with a gap of one pixel."""
    maps = np.nan_to_num(maps[..., :CHANNELS].astype(np.float64))
    height, width, count = maps.shape
    rows = -(-count // 4)
    grid = np.zeros((rows * (height + 1) - 1, 4 * (width + 1) - 1), np.uint8)
    low, high = maps.min(axis=(0, 1)), maps.max(axis=(0, 1))
    stretched = (maps - low) / np.where(high > low, high - low, 1.0) * 255
    for channel in range(count):
        top, left = (channel // 4) * (height + 1), (channel % 4) * (width + 1)
        grid[top : top + height, left : left + width] = stretched[..., channel].round()
    return grid


def draw_images(images: np.ndarray, columns: int = 8) -> np.ndarray:
    """(N, H, W, C) images -> one uint8 image in rows of `columns`, each image stretched to its own range.

    RGB if C is 3, else grey: the first channel.
    """
    shown = images if images.shape[-1] == 3 else images[..., :1]
    low = shown.min(axis=(1, 2, 3), keepdims=True)
    span = shown.max(axis=(1, 2, 3), keepdims=True) - low
    pixels = ((shown - low) / np.where(span > 0, span, 1.0) * 255).round().astype(np.uint8)
    count, height, width, channels = pixels.shape
    columns = min(columns, count)
    grid = np.zeros((math.ceil(count / columns) * (height + 1) - 1, columns * (width + 1) - 1, channels), np.uint8)
    for index in range(count):
        top, left = (index // columns) * (height + 1), (index % columns) * (width + 1)
        grid[top : top + height, left : left + width] = pixels[index]
    return grid if channels == 3 else grid[..., 0]


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
    height, width, channels, count = pixels.shape
    columns = min(count, FILTER_ROW)
    rows = math.ceil(count / columns)
    grid = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), np.uint8)
    for index in range(count):
        top, left = (index // columns) * (height + 1), (index % columns) * (width + 1)
        grid[top : top + height, left : left + width] = pixels[..., index]
    return grid if channels == 3 else grid[..., 0]
