"""Low-rank fine-tuning: the kernels stay as they are, and small updates of them are trained.

The update of a kernel of shape (d, k) is the product of a (d, r) and a (r, k) matrix, the second of zeros at first
(LoRA: Hu et al. 2021, arXiv:2106.09685). Keras's own `enable_lora` makes it.
"""

import re
from typing import Any

import keras
import numpy as np

from kerazoo.errors import ModelError
from kerazoo.keras_private import all_layers
from kerazoo.transfer.unfreezing import freeze_others

# query and value, as the paper has it; the networks of keras-hub call them so, and Swin's have one layer for all three
LAYERS = re.compile(r"(attention_)?(query|value|q|v|qkv)(_dense|_proj)?")


class LowRank:
    """Low-rank updates of the query and value kernels of `model`, which it adds; all else but the head is frozen."""

    def __init__(self, model: keras.Model, rank: int) -> None:
        layers = attention_layers(model)
        self._plain = list(model.weights)
        self._merged = {id(layer.kernel): layer for layer in layers}
        for layer in layers:
            layer.enable_lora(rank)
        updates = [variable for layer in layers for variable in (layer.lora_kernel_a, layer.lora_kernel_b)]
        freeze_others(model, updates)

    def weights(self) -> list[np.ndarray]:
        """The weights of the network without updates that gives the same answers, in its order."""
        return [self._value(variable) for variable in self._plain]

    def _value(self, variable: Any) -> np.ndarray:
        layer = self._merged.get(id(variable))
        return np.array(keras.ops.convert_to_numpy(variable if layer is None else layer.kernel))


def attention_layers(model: keras.Model) -> list[Any]:
    """The layers with query and value kernels. Raises ModelError if there are none that train."""
    kinds = (keras.layers.Dense, keras.layers.EinsumDense)
    layers = [
        layer
        for layer in all_layers(model)
        if isinstance(layer, kinds) and LAYERS.fullmatch(layer.name) and layer.trainable_variables
    ]
    if not layers:
        raise ModelError(f"transfer.method='lora': {model.name} has no attention layers to fine-tune; use 'all'")
    return layers
