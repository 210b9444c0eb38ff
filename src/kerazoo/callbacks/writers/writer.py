"""What a callback needs of a writer."""

from typing import Protocol

import numpy as np


class Writer(Protocol):
    """What a watcher needs of a writer. `step` counts finished epochs, from 1."""

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Keep one number."""

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """Keep one grey image, (H, W) uint8."""
