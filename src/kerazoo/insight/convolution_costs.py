"""What chains of convolutions cost, side by side: how many weights and MACs a bottleneck saves.

He et al. 2015, arXiv:1512.03385, Figure 5: 1x1 convolutions reduce 256 channels to 64 before a 3x3 and restore them
after it. 1x1 + 3x3 + 1x1 has 69,632 weights, and two 3x3 convolutions at 256 channels have 1,179,648.
"""

import re
from dataclasses import asdict, dataclass
from typing import Any

from kerazoo.errors import InputError

STEP = re.compile(r"(\d{1,3})x(\d{1,3})(?::(\d{1,6}))?")
REDUCTION = 4  # channels around a bottleneck / channels inside it
LARGEST = 99  # of a window, and of the convolutions of a chain
MOST = 65_536  # channels, and pixels of a side


@dataclass(frozen=True)
class Convolution:
    """One convolution of a chain: its window, and the channels that go in and come out."""

    height: int
    width: int
    channels: int
    filters: int

    @property
    def weights(self) -> int:
        """kh kw Ci Co; biases, which batch norm replaces, are not counted."""
        return self.height * self.width * self.channels * self.filters


@dataclass(frozen=True)
class Chain:
    """Convolutions one after another, with stride 1 and padding "same", on maps of `size` x `size`."""

    text: str
    convolutions: tuple[Convolution, ...]
    size: int

    @property
    def weights(self) -> int:
        """The weights of all of them."""
        return sum(one.weights for one in self.convolutions)

    @property
    def macs(self) -> int:
        """The multiply-accumulate operations for one image."""
        return self.size**2 * self.weights

    @property
    def receptive_field(self) -> tuple[int, int]:
        """(height, width) of what one position sees of the input: 1 + the sum of each window less 1."""
        heights = 1 + sum(one.height - 1 for one in self.convolutions)
        return heights, 1 + sum(one.width - 1 for one in self.convolutions)

    def to_json(self) -> dict[str, Any]:
        """The numbers by name."""
        return {
            "chain": self.text,
            "convolutions": [asdict(one) for one in self.convolutions],
            "weights": self.weights,
            "macs": self.macs,
            "receptive_field": list(self.receptive_field),
        }


def compare_chains(text: str, *, channels: int = 256, size: int = 56) -> list[Chain]:
    """The chains in a text such as "3x3+3x3,1x1+3x3+1x1", each from `channels` channels to as many.

    A chain that begins and ends with 1x1, with something between, is a bottleneck: the first 1x1 reduces the channels
    to a quarter, and the last restores them. "1x1:32" gives the channels that come out, where they are others. Raises
    InputError.
    """
    for name, value in (("channels", channels), ("size", size)):
        if not isinstance(value, int) or not 1 <= value <= MOST:
            raise InputError(f"{name} must be a whole number from 1 to {MOST:,}, got {value!r:.40}")
    return [_chain(part.strip(), channels, size) for part in text.split(",")]


def _chain(text: str, channels: int, size: int) -> Chain:
    steps = [STEP.fullmatch(part.strip()) for part in text.split("+")]
    windows = [(int(step[1]), int(step[2])) for step in steps if step]
    if len(windows) < len(steps) or not all(1 <= side <= LARGEST for window in windows for side in window):
        raise InputError(f"{text!r:.60} must be windows with + between them, such as 1x1+3x3+1x1 or 1x1:64+3x3")
    if len(steps) > LARGEST:
        raise InputError(f"a chain must have at most {LARGEST} convolutions, got {len(steps)}")
    is_bottleneck = len(windows) > 2 and windows[0] == windows[-1] == (1, 1)
    inner = max(channels // REDUCTION, 1) if is_bottleneck else channels
    convolutions = []
    entering = channels
    for number, (window, step) in enumerate(zip(windows, steps, strict=True), 1):
        stated = step[3] if step else None
        filters = int(stated) if stated else channels if number == len(steps) else inner
        if not 1 <= filters <= MOST:
            raise InputError(f"{text!r:.60}: channels must be from 1 to {MOST:,}, got {filters}")
        convolutions.append(Convolution(*window, entering, filters))
        entering = filters
    return Chain(text, tuple(convolutions), size)
