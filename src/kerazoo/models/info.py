"""What the zoo knows of a model before it is built."""

from dataclasses import asdict, dataclass
from typing import Any

from kerazoo.models import registry


@dataclass(frozen=True)
class ModelInfo:
    """A model of the registry. `kind` is "network" or "backbone"; `input_shape` is (H, W, C) at the default size.

    `parameters` counts moving statistics, and of a backbone not the head.
    """

    name: str
    kind: str
    input_shape: tuple[int, int, int]
    parameters: int
    weights: tuple[str, ...]
    summary: str

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that `kerazoo.build` takes for it, with their defaults; this imports keras."""
        return registry.describe(self.name)

    def to_json(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)
