"""How each operation of `keras.ops` changes the receptive field, by the name of its class, which is not public."""

from dataclasses import replace
from typing import Any

from kerazoo.insight import receptive_field as fields
from kerazoo.insight.calls import Call
from kerazoo.insight.receptive_field import Field
from kerazoo.insight.shared_rules import (
    Rule,
    axes_of,
    concatenated,
    contracted,
    everywhere,
    normalized,
    product,
    same,
    softmax,
)


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
        # some of the positions of two axes that were merged into one, as tokens without the first
        return replace(seen[0].everywhere(), upper_bound=True)
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
    return fields.reduced(seen[0], axes_of(operation.axis, rank), rank, bool(getattr(operation, "keepdims", False)))


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
    return contracted(f"{letters[0]}xy,{letters[1]}yz->{batch}xz", own, call)


def _op_einsum(call: Call, seen: list[Field]) -> Field:
    own = [_field_of(call, argument, seen) for argument in call.args if hasattr(argument, "shape")]
    return contracted(call.operation.subscripts, own, call)


def _op_attention(call: Call, seen: list[Field]) -> Field:
    """(B, T, heads, D): each query sees all keys."""
    places = {axis.place for field in seen for axis in field.axes if axis.place is not None}
    return everywhere(call, seen) if places == {1} else fields.unknown("its positions are not along the second axis")


def _field_of(call: Call, argument: Any, seen: list[Field]) -> Field | None:
    """The field of one argument; None for weights."""
    for tensor, field in zip(call.tensors, seen, strict=True):
        if tensor is argument:
            return field
    return None


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
    **dict.fromkeys(ELEMENTWISE, same),
    **dict.fromkeys(("Multiply", "Divide", "TrueDivide"), product),
    **dict.fromkeys(("Conv", "DepthwiseConv", "SeparableConv", "MaxPool", "AveragePool"), _op_window),
    **dict.fromkeys(("Amax", "Amin", "Max", "Mean", "Min", "Prod", "Std", "Sum", "Var", "Logsumexp"), _op_reduce),
    **dict.fromkeys(("Softmax", "LogSoftmax"), softmax),
    "BatchNorm": lambda call, seen: seen[0],
    "LayerNorm": normalized,
    "RMSNorm": normalized,
    "Concatenate": concatenated,
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
