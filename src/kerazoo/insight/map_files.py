"""What the layers of a network make of an image, as sheets: feature maps, first filters, attention rollout."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import keras
import numpy as np

from kerazoo.errors import ModelError
from kerazoo.insight.grad_cam import overlay
from kerazoo.insight.grids import draw_filters
from kerazoo.insight.layer_outputs import find_layers, layers_by_path, look_at_outputs
from kerazoo.insight.maps_sheet import draw_sheet
from kerazoo.insight.rollout import attention_rollout


def sheets_of(
    model: keras.Model, image: Any, layers: Sequence[str] | None, pixels: np.ndarray
) -> dict[str, np.ndarray]:
    """(1, H, W, C) image as the model takes it, and its (H, W, C) uint8 pixels -> uint8 pictures by name.

    They are numbered in the order of the forward pass. Without `layers`, the last layer at each size of the feature map
    is drawn. "filters" has the filters of the first convolution, and "attention" the rollout of a vision transformer
    over the image. Raises ModelError.
    """
    chosen = layers_by_path(model) if layers is None else find_layers(model, layers)
    attention = tuple(
        f"{path}/" for path, layer in chosen.items() if isinstance(layer, keras.layers.MultiHeadAttention)
    )
    parts = {
        path: layer for path, layer in chosen.items()
        if layers or not (isinstance(layer, keras.Model) or path.startswith(attention))
    }  # fmt: skip
    maps: dict[Any, tuple[str, np.ndarray]] = {}

    def look(name: str, values: np.ndarray) -> None:
        if values.ndim == 4:
            maps[name if layers else values.shape[1:3]] = (name, values[0])

    look_at_outputs(model, image, parts, look, strict=layers is not None)
    if layers and len(maps) < len(layers):
        missing = next(name for name in layers if name not in maps)
        raise ModelError(f"layer {missing} of {model.name} does not give feature maps, (B, H, W, C)")
    sheets = {f"{number:02d}-{name}": draw_sheet(name, values) for number, (name, values) in enumerate(maps.values())}
    kernel = _first_kernel(model)
    if kernel is not None and not layers:
        filters = draw_filters(kernel)
        sheets["filters"] = filters if filters.ndim == 3 else filters[..., np.newaxis].repeat(3, axis=-1)
    if not layers:
        with suppress(ModelError):  # most networks are no vision transformers
            sheets["attention"] = overlay(pixels, attention_rollout(model, image)[0])
    if not sheets:
        raise ModelError(f"no layer of {model.name} gives feature maps, (B, H, W, C), or attention over patches")
    return sheets


def _first_kernel(model: keras.Model) -> np.ndarray | None:
    for layer in layers_by_path(model).values():
        if isinstance(layer, keras.layers.Conv2D):
            kernel: np.ndarray = np.asarray(keras.ops.convert_to_numpy(layer.kernel), np.float32)
            return kernel
    return None
