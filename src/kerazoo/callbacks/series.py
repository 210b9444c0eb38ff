"""A writer that remembers: the series of numbers that the loggers write, for whoever judges them at the end."""

from collections.abc import Iterator, Mapping
from typing import Any

from kerazoo.callbacks.writers.tags import is_kept
from kerazoo.callbacks.writers.writer import QuietWriter

LONGEST = 2000  # numbers of a series; a longer one is thinned


class Series(QuietWriter):
    """Keeps the scalars whose tags begin with one of `prefixes`."""

    def __init__(self, *prefixes: str) -> None:
        self.prefixes = prefixes
        self._points: dict[str, list[tuple[int, float]]] = {}

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Keep one number."""
        if not tag.startswith(self.prefixes):
            return
        points = self._points.setdefault(tag, [])
        points.append((int(step), float(value)))
        if len(points) > LONGEST:
            del points[1::2]

    def rewind(self, step: int, epoch: int) -> None:
        """Forget what came after `step`."""
        self._points = {
            tag: [(at, value) for at, value in points if is_kept(tag, at, step, epoch)]
            for tag, points in self._points.items()
        }

    def of(self, tag: str) -> list[float]:
        """The numbers of one tag, in order."""
        return [value for _, value in self._points.get(tag, [])]

    def ending(self, prefix: str, suffix: str) -> Iterator[tuple[str, list[float]]]:
        """(what stands between `prefix` and `suffix` in a tag, its numbers), in the order of the first ones."""
        for tag in list(self._points):
            if tag.startswith(prefix) and tag.endswith(suffix) and len(tag) > len(prefix) + len(suffix):
                yield tag[len(prefix) : -len(suffix)], self.of(tag)

    def state(self) -> dict[str, Any]:
        """All of it, as JSON has it but for numbers that are not finite."""
        return {tag: [list(point) for point in points] for tag, points in self._points.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._points = {tag: [(int(at), float(value)) for at, value in points] for tag, points in state.items()}
