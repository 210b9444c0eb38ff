"""One plain line an epoch, or every so many epochs."""

import time
from collections.abc import Callable
from typing import Any

import keras


class Progress(keras.callbacks.Callback):  # type: ignore[misc]
    """Says, after each `every` epochs and the last: number, losses, metrics, and its seconds and pictures/s."""

    def __init__(self, say: Callable[[str], None], pictures: int, *, title: str = "epoch", every: int = 1) -> None:
        super().__init__()
        self.say = say
        self.pictures = pictures
        self.title = title
        self.every = every

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Say the line."""
        number, epochs = epoch + 1, self.params["epochs"]
        if number % self.every and number != epochs:
            return
        seconds = time.perf_counter() - self._start
        values = "  ".join(f"{name} {value:.4f}" for name, value in (logs or {}).items())
        rate = f"{self.pictures / seconds:,.0f} pictures/s"
        self.say(f"{self.title} {number}/{epochs}  {values}  {seconds:.1f} s  {rate}")
