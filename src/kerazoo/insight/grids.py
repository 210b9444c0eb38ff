"""Feature maps as one image."""

import numpy as np

CHANNELS = 16  # maps drawn of each tap, in four rows


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
