"""How each layer of Keras changes the receptive field."""

import math
from typing import Any

import keras
from keras import layers

from kerazoo.insight import receptive_field as fields
from kerazoo.insight.calls import Call
from kerazoo.insight.receptive_field import Field
from kerazoo.insight.shared_rules import (
    Rule,
    concatenated,
    contracted,
    everywhere,
    normalized,
    product,
    same,
    softmax,
    with_statistics,
)

LIBRARIES = ("keras", "tensorflow", "jax", "builtins")  # their activations look at one position


def is_of_a_library(function: Any) -> bool:
    """Whether an activation is one of Keras or of a backend."""
    return str(getattr(function, "__module__", type(function).__module__)).partition(".")[0] in LIBRARIES


def _first_place(layer: Any) -> int:
    return 2 if layer.data_format == "channels_first" else 1


def _convolution(call: Call, seen: list[Field]) -> Field:
    layer = call.operation
    return fields.windowed(
        seen[0], call.output, layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding, _first_place(layer)
    )


def _pooling(call: Call, seen: list[Field]) -> Field:
    layer = call.operation
    ones = (1,) * len(layer.pool_size)
    return fields.windowed(
        seen[0], call.output, layer.pool_size, layer.strides, ones, layer.padding, _first_place(layer)
    )


def _transposed(call: Call, seen: list[Field]) -> Field:
    """Output o = i*s + t - before has input i for each t of the kernel; "same" takes max(k - s, 0) away."""
    layer = call.operation
    if getattr(layer, "output_padding", None) is not None:
        return fields.unknown("output_padding has no rule")
    sizes = [d * (k - 1) + 1 for k, d in zip(layer.kernel_size, layer.dilation_rate, strict=True)]

    def seen_by(index: int, phase: int) -> tuple[int, int]:
        size, stride, dilation = sizes[index], layer.strides[index], layer.dilation_rate[index]
        before = max(size - stride, 0) // 2 if layer.padding == "same" else 0
        inputs = [
            (phase + before - tap) // stride for tap in range(0, size, dilation) if (phase + before - tap) % stride == 0
        ]  # fmt: skip
        return (min(inputs), max(inputs)) if inputs else (1, 0)

    return fields.upsampled(seen[0], call.output, layer.strides, _first_place(layer), seen_by)


def _upsampling(call: Call, seen: list[Field]) -> Field:
    layer = call.operation
    factors = layer.size if isinstance(layer.size, tuple) else (layer.size,)
    kind = getattr(layer, "interpolation", "nearest")
    if kind not in ("nearest", "bilinear"):
        return fields.unknown(f"{kind} interpolation has no rule")

    def seen_by(index: int, phase: int) -> tuple[int, int]:
        if kind == "nearest":
            return 0, 0
        place = (phase + 0.5) / factors[index] - 0.5  # half-pixel centers
        return math.floor(place), math.ceil(place)

    first = _first_place(layer) if hasattr(layer, "data_format") else 1
    return fields.upsampled(seen[0], call.output, factors, first, seen_by)


def _padding(call: Call, seen: list[Field]) -> Field:
    pairs = _pairs(call.operation.padding)
    first = _first_place(call.operation) if hasattr(call.operation, "data_format") else 1
    return fields.shifted(seen[0], call.output, [before for before, _ in pairs], first)


def _cropping(call: Call, seen: list[Field]) -> Field:
    pairs = _pairs(call.operation.cropping)
    first = _first_place(call.operation) if hasattr(call.operation, "data_format") else 1
    return fields.shifted(seen[0], call.output, [-before for before, _ in pairs], first)


def _pairs(value: Any) -> list[tuple[int, int]]:
    """(before, after) of each axis; a layer of one axis has only one of them."""
    return [value] if isinstance(value[0], int) else list(value)


def _grouped(call: Call, seen: list[Field]) -> Field:
    return with_statistics(seen[0], any(one.place is not None for one in seen[0].axes))


def _dense(call: Call, seen: list[Field]) -> Field:
    return fields.reduced(seen[0], [len(call.input) - 1], len(call.input), keepdims=True)


def _einsum_dense(call: Call, seen: list[Field]) -> Field:
    return contracted(call.operation.equation, [seen[0], None], call)


def _attention(call: Call, seen: list[Field]) -> Field:
    """Each position sees those of all keys, unless the layer attends along some of the axes only."""
    axes = call.operation.get_config()["attention_axes"]
    if axes is not None and sorted(axes) != list(range(1, len(call.input) - 1)):
        return fields.unknown("attention along some of the axes has no rule")
    return everywhere(call, seen)


def _activation(call: Call, seen: list[Field]) -> Field:
    if call.operation.activation is keras.activations.softmax:
        return fields.reduced(seen[0], [len(call.input) - 1], len(call.input), keepdims=True)
    return seen[0] if is_of_a_library(call.operation.activation) else fields.unknown("its function is not of Keras")


POINTWISE: tuple[type, ...] = (
    layers.AlphaDropout, layers.Dropout, layers.ELU, layers.GaussianDropout, layers.GaussianNoise, layers.Identity,
    layers.LeakyReLU, layers.PReLU, layers.RandomBrightness, layers.RandomContrast, layers.RandomFlip,
    layers.RandomRotation, layers.RandomTranslation, layers.RandomZoom, layers.ReLU, layers.Rescaling,
    layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D, layers.ActivityRegularization,
)  # fmt: skip
# random layers change nothing in inference mode; Normalization has numbers of its own, by channel in general
LAYERS: dict[type, Rule] = {
    **dict.fromkeys((layers.Conv1D, layers.Conv2D, layers.Conv3D), _convolution),
    **dict.fromkeys((layers.DepthwiseConv1D, layers.DepthwiseConv2D), _convolution),
    **dict.fromkeys((layers.SeparableConv1D, layers.SeparableConv2D), _convolution),
    **dict.fromkeys((layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D), _pooling),
    **dict.fromkeys((layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D), _pooling),
    **dict.fromkeys((layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose), _transposed),
    **dict.fromkeys((layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D), _upsampling),
    **dict.fromkeys((layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D), _padding),
    **dict.fromkeys((layers.Cropping1D, layers.Cropping2D, layers.Cropping3D), _cropping),
    **dict.fromkeys((layers.SimpleRNN, layers.GRU, layers.LSTM), everywhere),
    **dict.fromkeys((layers.Add, layers.Subtract, layers.Average, layers.Maximum, layers.Minimum), same),
    **dict.fromkeys((*POINTWISE, layers.BatchNormalization, layers.Normalization), same),
    layers.Multiply: product,
    layers.Concatenate: concatenated,
    layers.LayerNormalization: normalized,
    layers.UnitNormalization: normalized,
    layers.GroupNormalization: _grouped,
    layers.Dense: _dense,
    layers.EinsumDense: _einsum_dense,
    layers.MultiHeadAttention: _attention,
    layers.Softmax: softmax,
    layers.Activation: _activation,
}
