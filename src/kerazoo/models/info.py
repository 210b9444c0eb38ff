"""The facts about a model that are known before it is built."""

from dataclasses import asdict, dataclass
from typing import Any

from kerazoo.models import registry
from kerazoo.models.argument_checks import check_input_shape
from kerazoo.preprocessing.preprocessing import Preprocessing
from kerazoo.startup import import_keras


@dataclass(frozen=True)
class ModelInfo:
    """A model of the registry. `kind` is "network", "backbone", "hub": a preset of keras-hub, or "installed": a network
    of another package.

    `input_shape` is (H, W, C) at the default size. `parameters` includes moving statistics, but not the head of a
    backbone. Both are None for an installed network, because its package is not imported for this. A preset of
    keras-hub is not fetched for this: its `input_shape` is None, and its `parameters` are as keras-hub states them.

    `macs` are multiply-accumulate operations for one image of the default size, without the head of a backbone; None
    if they are not known. `top1` and `top5` are the published accuracies on ImageNet, in percent, and `license` is that
    of the published weights; None and "" if no source states them.
    """

    name: str
    kind: str
    input_shape: tuple[int, int, int] | None
    parameters: int | None
    weights: tuple[str, ...]
    summary: str
    macs: int | None = None
    top1: float | None = None
    top5: float | None = None
    license: str = ""

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `kerazoo.build` for this model, with their defaults. This imports keras, or the package."""
        import_keras()
        return registry.describe(self.name)

    def preprocessing(
        self, input_shape: tuple[int, int, int] | None = None, *, resize: str | None = None
    ) -> Preprocessing:
        """The preprocessing from images to this model's input, with its size and the scaling that its weights expect.

        It is the same for all weights that `kerazoo.build` loads, and for random ones. `input_shape` is (H, W, C), as
        in `build`; the default is the model's own. `resize` is "crop", "pad" or "stretch"; the default is "crop", or
        what a preset of keras-hub states. Raises ModelError.
        """
        entry = registry.find(self.name)
        shape = check_input_shape(input_shape or entry.input_shape, smallest=entry.smallest, model=self.name)
        height, width, channels = shape
        return entry.preprocessing(height, width, resize or entry.resize, channels)

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)
