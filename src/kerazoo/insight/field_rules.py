"""How each layer of Keras, and each operation of `keras.ops`, changes the receptive field.

A rule is for a class itself, not for those that inherit from it, whose `call` may be another. What has no rule has an
unknown field, unless all it sees is the same at all positions.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import keras
from keras import layers

from kerazoo.insight import receptive_field as fields
from kerazoo.insight.calls import Call
from kerazoo.insight.receptive_field import Field

Rule = Callable[[Call, list[Field]], Field]

LIBRARIES = ("keras", "tensorflow", "jax", "builtins")  # their activations look at one position


def field_of(call: Call, seen: list[Field]) -> Field:
    """The field of the outputs of `call`, from those of the tensors it takes that come from the image."""
    for field in seen:
        if field.unknown:
            return field
    images = {field.image for field in seen}
    if len(images) > 1:
        return fields.unknown("it joins inputs of the model that have different sizes")
    if all(field.is_same_everywhere for field in seen):
        return fields.joined(seen)
    rule = rule_of(call.operation)
    if rule is None:
        return fields.unknown(f"{call.kind} has no rule for its receptive field")
    return rule(call, seen)


def rule_of(operation: Any) -> Rule | None:
    """The rule of a layer or an operation; None if there is none."""
    if isinstance(operation, keras.Layer):
        rule = LAYERS.get(type(operation))
        function = getattr(operation, "activation", None)
        plain = function is None or type(operation) is layers.Activation or _of_a_library(function)
        return rule if plain else None
    return OPERATIONS.get(type(operation).__name__) if type(operation).__module__.startswith("keras.") else None


def _of_a_library(function: Any) -> bool:
    return str(getattr(function, "__module__", type(function).__module__)).partition(".")[0] in LIBRARIES


# -- layers -------------------------------------------------------------------------------------------------------


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


def _same(call: Call, seen: list[Field]) -> Field:
    return fields.joined(_placed(call, seen))


def _product(call: Call, seen: list[Field]) -> Field:
    return fields.joined(_placed(call, seen), gate=True)


def _placed(call: Call, seen: list[Field]) -> list[Field]:
    """The fields as they stand in the output, where shapes are broadcast."""
    shapes = [tensor.shape for tensor in call.tensors]
    return [fields.broadcast(f, shape, call.output) for f, shape in zip(seen, shapes, strict=False)]


def _concatenated(call: Call, seen: list[Field]) -> Field:
    axis = call.operation.axis % len(call.output)
    if any(one.place == axis for field in seen for one in field.axes):
        if len(seen) > 1 or len({one.place for one in seen[0].axes}) == len(seen[0].axes):
            return fields.unknown("it joins maps side by side")
        return seen[0]  # tokens of the image, and others that see nothing of it
    return fields.joined(seen)


def _normalized(call: Call, seen: list[Field]) -> Field:
    """Over channels nothing changes; statistics over positions are of the whole image."""
    axis = call.operation.axis
    axes = {each % len(call.output) for each in (axis if isinstance(axis, list | tuple) else [axis])}
    return _with_statistics(seen[0], any(one.place in axes for one in seen[0].axes))


def _grouped(call: Call, seen: list[Field]) -> Field:
    return _with_statistics(seen[0], any(one.place is not None for one in seen[0].axes))


def _with_statistics(field: Field, over_positions: bool) -> Field:
    return replace(field, global_context=field.global_context or over_positions)


def _dense(call: Call, seen: list[Field]) -> Field:
    return fields.reduced(seen[0], [len(call.input) - 1], len(call.input), keepdims=True)


def _einsum_dense(call: Call, seen: list[Field]) -> Field:
    return _contracted(call.operation.equation, [seen[0], None], call)


def _softmax(call: Call, seen: list[Field]) -> Field:
    axis = getattr(call.operation, "axis", -1)
    return fields.reduced(seen[0], _numbers(axis, len(call.input)), len(call.input), keepdims=True)


def _everywhere(call: Call, seen: list[Field]) -> Field:
    return fields.joined([field.everywhere() for field in seen])


def _attention(call: Call, seen: list[Field]) -> Field:
    """Each position sees those of all keys, unless the layer attends along some of the axes only."""
    axes = call.operation.get_config()["attention_axes"]
    if axes is not None and sorted(axes) != list(range(1, len(call.input) - 1)):
        return fields.unknown("attention along some of the axes has no rule")
    return _everywhere(call, seen)


def _activation(call: Call, seen: list[Field]) -> Field:
    if call.operation.activation is keras.activations.softmax:
        return fields.reduced(seen[0], [len(call.input) - 1], len(call.input), keepdims=True)
    return seen[0] if _of_a_library(call.operation.activation) else fields.unknown("its function is not of Keras")


def _numbers(axis: Any, rank: int) -> list[int]:
    if axis is None:
        return list(range(rank))
    return list(axis) if isinstance(axis, list | tuple) else [axis]


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
    **dict.fromkeys((layers.SimpleRNN, layers.GRU, layers.LSTM), _everywhere),
    **dict.fromkeys((layers.Add, layers.Subtract, layers.Average, layers.Maximum, layers.Minimum), _same),
    **dict.fromkeys((*POINTWISE, layers.BatchNormalization, layers.Normalization), _same),
    layers.Multiply: _product,
    layers.Concatenate: _concatenated,
    layers.LayerNormalization: _normalized,
    layers.UnitNormalization: _normalized,
    layers.GroupNormalization: _grouped,
    layers.Dense: _dense,
    layers.EinsumDense: _einsum_dense,
    layers.MultiHeadAttention: _attention,
    layers.Softmax: _softmax,
    layers.Activation: _activation,
}

# -- operations of keras.ops --------------------------------------------------------------------------------------


def _op_window(call: Call, seen: list[Field]) -> Field:
    operation = call.operation
    rank = len(call.input) - 2
    first = 2 if operation.data_format == "channels_first" else 1
    size = operation.pool_size if hasattr(operation, "pool_size") else tuple(call.args[1].shape)[:rank]
    dilation = _repeated(getattr(operation, "dilation_rate", 1), rank)
    strides = operation.strides if operation.strides is not None else size
    return fields.windowed(
        seen[0], call.output, _repeated(size, rank), _repeated(strides, rank), dilation, operation.padding, first
    )


def _repeated(value: Any, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


def _op_pad(call: Call, seen: list[Field]) -> Field:
    widths = call.operation.pad_width
    if call.operation.mode != "constant" or not isinstance(widths, list | tuple):
        return fields.unknown(f"padding by mode {call.operation.mode!r} has no rule")
    pairs = [pair if isinstance(pair, list | tuple) else (pair, pair) for pair in widths]
    return fields.shifted(seen[0], call.output, [before for before, _ in pairs], 0)


def _op_slice(call: Call, seen: list[Field]) -> Field:
    """Slices with a step of 1 or more, whole axes, and new axes; numbers only for axes that are none of the image."""
    keys = call.argument("key", 1)
    keys = list(keys) if isinstance(keys, tuple) else [keys]
    if Ellipsis in keys:
        at = keys.index(Ellipsis)
        missing = len(call.input) - sum(key is not None for key in keys) + 1
        keys[at : at + 1] = [slice(None)] * missing
    keys += [slice(None)] * (len(call.input) - sum(key is not None for key in keys))
    axes = {axis.place: axis for axis in seen[0].axes if axis.place is not None}
    if len(axes) < sum(axis.place is not None for axis in seen[0].axes):
        return fields.unknown("it takes some of the positions of two axes that were merged into one")
    after: dict[int, fields.Axis] = {}
    source = target = 0
    for key in keys:
        if key is None:
            target += 1
            continue
        axis = axes.get(source)
        if axis is not None:
            if not isinstance(key, slice):
                return fields.unknown("it takes single positions")
            start, _, step = key.indices(call.input[source])
            if step < 1:
                return fields.unknown("it reverses positions")
            after[source] = fields.Axis(
                target, axis.start + start * axis.jump, axis.jump * step, axis.size, call.output[target]
            )
        source += 1
        target += isinstance(key, slice)
    cut = (axis if axis.place is None else after[axis.place] for axis in seen[0].axes)
    return replace(seen[0], axes=tuple(cut))


def _split(call: Call, seen: list[Field]) -> Field:
    axis = call.operation.axis % len(call.input)
    return fields.unknown("it cuts maps in pieces") if any(one.place == axis for one in seen[0].axes) else seen[0]


def _op_reduce(call: Call, seen: list[Field]) -> Field:
    operation = call.operation
    rank = len(call.input)
    return fields.reduced(seen[0], _numbers(operation.axis, rank), rank, bool(getattr(operation, "keepdims", False)))


def _op_reshape(call: Call, seen: list[Field]) -> Field:
    return fields.reshaped(seen[0], call.input, call.output)


def _op_transpose(call: Call, seen: list[Field]) -> Field:
    order = call.operation.axes or range(len(call.input))[::-1]
    return fields.moved_axes(seen[0], list(order))


def _op_swap(call: Call, seen: list[Field]) -> Field:
    order = list(range(len(call.input)))
    one, other = call.operation.axis1, call.operation.axis2
    order[one], order[other] = order[other], order[one]
    return fields.moved_axes(seen[0], order)


def _op_matmul(call: Call, seen: list[Field]) -> Field:
    shapes = [tuple(each.shape) for each in call.args[:2]]
    if min(map(len, shapes)) < 2:
        return fields.unknown("a product with a vector has no rule")
    rank = max(map(len, shapes))
    batch = "abcdefghijkl"[: rank - 2]
    letters = [batch[len(batch) - len(shape) + 2 :] for shape in shapes]
    own = [_field_of(call, argument, seen) for argument in call.args[:2]]
    return _contracted(f"{letters[0]}xy,{letters[1]}yz->{batch}xz", own, call)


def _op_einsum(call: Call, seen: list[Field]) -> Field:
    own = [_field_of(call, argument, seen) for argument in call.args if hasattr(argument, "shape")]
    return _contracted(call.operation.subscripts, own, call)


def _op_attention(call: Call, seen: list[Field]) -> Field:
    """(B, T, heads, D): each query sees all keys."""
    places = {axis.place for field in seen for axis in field.axes if axis.place is not None}
    return _everywhere(call, seen) if places == {1} else fields.unknown("its positions are not along the second axis")


def _field_of(call: Call, argument: Any, seen: list[Field]) -> Field | None:
    """The field of one argument; None for weights."""
    for tensor, field in zip(call.tensors, seen, strict=True):
        if tensor is argument:
            return field
    return None


def _contracted(equation: str, own: Sequence[Field | None], call: Call) -> Field:
    """The field of an einsum: axes that are summed over are seen as a whole, the others keep their positions.

    Two different axes of positions in one output, as in the scores of attention, are each seen as a whole, too.
    """
    inputs, _, output = equation.replace(" ", "").partition("->")
    if "." in equation or not output:
        return fields.unknown(f"the product {equation} has no rule")
    kept = []
    for letters, field in zip(inputs.split(","), own, strict=True):
        if field is None:
            continue
        axes = []
        for axis in field.axes:
            letter = "" if axis.place is None else letters[axis.place]
            stays = letter and letter in output
            axes.append(replace(axis, place=output.index(letter)) if stays else axis.everywhere())
        kept.append(replace(field, axes=tuple(axes)))
    places = {tuple(axis.place for axis in field.axes) for field in kept}
    return fields.joined(kept if len(places) == 1 else [field.everywhere() for field in kept])


ELEMENTWISE = (
    "Absolute", "Abs", "Add", "Arctan", "Arctan2", "Cast", "Ceil", "Clip", "Convert", "ConvertToTensor", "Copy",
    "Cos", "Cosh", "Elu", "Equal", "Erf", "Exp", "Expm1", "Floor", "FloorDivide", "Gelu", "Greater", "GreaterEqual",
    "HardSigmoid", "HardSilu", "HardTanh", "LeakyRelu", "Less", "LessEqual", "Log", "Log10", "Log1p", "Log2",
    "LogSigmoid", "LogicalAnd", "LogicalNot", "LogicalOr", "Maximum", "Minimum", "Mod", "NanToNum", "Negative",
    "NotEqual", "OnesLike", "Power", "Reciprocal", "Relu", "Relu6", "Round", "Rsqrt", "SaturateCast", "Selu",
    "Sigmoid", "Sign", "Silu", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Square", "StopGradient", "Subtract",
    "Tan", "Tanh", "Threshold", "Where", "ZerosLike",
)  # fmt: skip
OPERATIONS: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _same),
    **dict.fromkeys(("Multiply", "Divide", "TrueDivide"), _product),
    **dict.fromkeys(("Conv", "DepthwiseConv", "SeparableConv", "MaxPool", "AveragePool"), _op_window),
    **dict.fromkeys(("Amax", "Amin", "Max", "Mean", "Min", "Prod", "Std", "Sum", "Var", "Logsumexp"), _op_reduce),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    "BatchNorm": lambda call, seen: seen[0],
    "LayerNorm": _normalized,
    "RMSNorm": _normalized,
    "Concatenate": _concatenated,
    "Split": _split,
    "Pad": _op_pad,
    "GetItem": _op_slice,
    "Reshape": _op_reshape,
    "Transpose": _op_transpose,
    "Swapaxes": _op_swap,
    "Matmul": _op_matmul,
    "Einsum": _op_einsum,
    "DotProductAttention": _op_attention,
}
