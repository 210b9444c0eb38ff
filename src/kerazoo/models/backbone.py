"""A pretrained backbone from `keras.applications`, built flat so that inner layers can be tapped.

A row of the table has the builder, its exact preprocessing, the allowed sizes, its stages (the last named layer
before each halving of the feature map, stem first) and the number of features. `parameters` does not count the head.
"""

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kerazoo.errors import ModelError
from kerazoo.models.argument_checks import check_input_shape
from kerazoo.preprocessing.preprocessing import Preprocessing

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Backbone:
    """A row of the table. `module` and `function` are names in `keras.applications`; sizes are sides in px."""

    name: str
    module: str
    function: str
    scaling: str
    size: int
    smallest: int
    features: int
    parameters: int
    stages: tuple[str, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    published_std: tuple[float, ...] = ()  # see `loading.fold_scaling`
    scaling_inside: str = ""  # scaling that keras.applications builds into the network, only for three channels

    weights = ("imagenet",)
    loss = "cross_entropy"
    resize = "crop"

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, 3) at the default size."""
        return (self.size, self.size, 3)

    @property
    def summary(self) -> str:
        """One line for the list of models."""
        return f"keras.applications.{self.function}, {self.features} features"

    def scaling_of(self, channels: int) -> str:
        """The scaling that images with this number of channels need before the network."""
        return self.scaling_inside if self.scaling_inside and channels != 3 else self.scaling

    def preprocessing(
        self, height: int | None = None, width: int | None = None, resize: str = "crop", channels: int = 3
    ) -> Preprocessing:
        """The preprocessing that the pretrained weights expect, for the given size or the default size."""
        scaling = self.scaling_of(channels)
        return Preprocessing(
            height or self.size, width or height or self.size, channels, resize=resize, scaling=scaling
        )

    def builder(self) -> Callable[..., "keras.Model"]:
        """`build_backbone` for this row."""
        return functools.partial(build_backbone, self)


def build_backbone(
    backbone: Backbone,
    /,
    *,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    num_classes: int = 1000,
    dropout: float = 0.0,
    taps: Sequence[str] = (),
    **fixed: Any,
) -> "keras.Model":
    """(B, H, W, C) from `backbone.preprocessing()` -> (B, num_classes) logits, over mean-pooled `features`.

    `taps` are stages whose mean-pooled maps are added to `features`, before those of the last stage, as in Head2Toe
    (Evci et al. 2022, arXiv:2201.03529). Raises ModelError.
    """
    import keras

    from kerazoo.models.depthwise import compute_depthwise
    from kerazoo.models.heads import classifier as heads

    shape = check_input_shape(input_shape, smallest=backbone.smallest, model=backbone.name)
    if isinstance(taps, str) or len(set(taps)) < len(taps):
        raise ModelError(f"{backbone.name}: taps={taps!r} must be a list of different stages")
    for tap in taps:
        if tap not in backbone.stages[:-1]:
            raise ModelError(
                f"{backbone.name}: taps={list(taps)}: {tap!r} must be one of {', '.join(backbone.stages[:-1])}; the "
                "last stage is always used"
            )
    inputs = keras.Input(shape, name="inputs")
    make = getattr(keras.applications, backbone.function)
    arguments = {"include_top": False, "input_shape": shape, "pooling": "avg", **fixed}
    if shape[2] != 3 and backbone.scaling_inside:
        arguments["include_preprocessing"] = False
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This model usually expects 1 or 3 input channels")
        # do not use weights="imagenet": EfficientNet then builds another network, which a run could not rebuild
        base = make(weights=None, input_tensor=inputs, **arguments)
    compute_depthwise(base)
    pooled = base.output
    if taps:
        maps = [base.get_layer(tap).output for tap in taps]
        means = [keras.layers.GlobalAveragePooling2D(name=f"{tap}_mean")(x) for tap, x in zip(taps, maps, strict=True)]
        pooled = keras.layers.Concatenate(name="taps")([*means, pooled])
    logits = heads.attach(pooled, num_classes, dropout=dropout, model=backbone.name)
    return keras.Model(inputs, logits, name=backbone.name)
