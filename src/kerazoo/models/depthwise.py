"""Grouped convolutions of one input channel a group, computed as the depthwise convolutions that they are.

Keras 3.15.1 compiles every grouped convolution by XLA on TensorFlow. ConvNeXt's 7x7 kernels then take a hundred times
as long on a CPU, ONNX has no such function, and a server without XLA cannot load the export. The layers keep their
names and the shapes of their weights.
"""

import functools
from typing import Any

import keras
from keras import ops

from kerazoo.keras_private import all_layers


def compute_depthwise(model: "keras.Model") -> None:
    """Let each Conv2D of `model`, in nested models too, whose groups have one input channel, skip XLA."""
    for layer in all_layers(model):
        plain = isinstance(layer, keras.layers.Conv2D) and layer.data_format == "channels_last"
        if plain and layer.groups > 1 and layer.kernel.shape[2] == 1:
            layer.convolution_op = functools.partial(_depthwise, layer)


def _depthwise(layer: "keras.layers.Conv2D", inputs: Any, kernel: Any) -> Any:
    """(B, H, W, C) and a kernel (h, w, 1, C * m) -> (B, H', W', C * m): `layer.convolution_op` without XLA."""
    height, width, _, filters = kernel.shape
    by_channel = ops.reshape(kernel, (height, width, layer.groups, filters // layer.groups))
    return ops.depthwise_conv(
        inputs, by_channel, strides=layer.strides, padding=layer.padding, data_format=layer.data_format,
        dilation_rate=layer.dilation_rate,
    )  # fmt: skip
