"""The facts about a model that are known before it is built."""

from dataclasses import asdict, dataclass
from typing import Any

from kerazoo.models import registry
from kerazoo.models.argument_checks import check_input_shape
from kerazoo.preprocessing.preprocessing import Preprocessing
from kerazoo.startup import import_keras


@dataclass(frozen=True)
class ModelInfo:
    """A model of the registry. `kind` is "network" or "backbone"; `input_shape` is (H, W, C) at the default size.

    `parameters` includes moving statistics, but not the head of a backbone.
    """

    name: str
    kind: str
    input_shape: tuple[int, int, int]
    parameters: int
    weights: tuple[str, ...]
    summary: str

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `kerazoo.build` for this model, with their defaults. This imports keras."""
        import_keras()
        return registry.describe(self.name)

    def preprocessing(self, input_shape: tuple[int, int, int] | None = None, *, resize: str = "crop") -> Preprocessing:
        """The preprocessing from images to this model's input, with its size and the scaling that its weights expect.

        It is the same for all weights that `kerazoo.build` loads, and for random ones. `input_shape` is (H, W, C), as
        in `build`; the default is the model's own. `resize` is "crop", "pad" or "stretch". Raises ModelError.
        """
        entry = registry.find(self.name)
        shape = check_input_shape(input_shape or self.input_shape, smallest=entry.smallest, model=self.name)
        height, width, channels = shape
        return entry.preprocessing(height, width, resize, channels)

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)
