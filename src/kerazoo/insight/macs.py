"""Multiply-accumulate operations (MACs) of layers, for one image. One MAC is two floating-point operations (FLOPs).

Products of convolutions, dense layers and attention count; sums, pooling, activations, and the scaling of batch norm,
which can be folded into a convolution, count 0. This is how papers on networks count, He et al. 2015 among them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers

from kerazoo.insight.calls import Call
from kerazoo.insight.layer_rules import LAYERS

Rule = Callable[[Call], int | None]


def macs_of(call: Call) -> int | None:
    """The MACs of a call of a layer or an operation; None if they are not known."""
    operation = call.operation
    if isinstance(operation, keras.Layer):
        if type(operation) in COUNTED:
            return COUNTED[type(operation)](call)
        return 0 if type(operation) in LAYERS else None
    name = type(operation).__name__
    if not type(operation).__module__.startswith("keras.") or name in UNCOUNTED:
        return None
    return COUNTED_OPERATIONS[name](call) if name in COUNTED_OPERATIONS else 0


def _positions(shape: Sequence[int], layer: Any) -> int:
    """The number of positions, without the batch and the channels."""
    return math.prod(shape[2:] if layer.data_format == "channels_first" else shape[1:-1])


def _channels(shape: Sequence[int], layer: Any) -> int:
    return shape[1] if layer.data_format == "channels_first" else shape[-1]


def _convolution(call: Call) -> int:
    """Ho Wo kh kw (Ci/groups) Co: the kernel is (kh, kw, Ci/groups, Co)."""
    return _positions(call.output, call.operation) * int(math.prod(call.operation.kernel.shape))


def _depthwise(call: Call) -> int:
    layer = call.operation
    window = int(math.prod(layer.kernel_size))
    return _positions(call.output, layer) * window * _channels(call.input, layer) * int(layer.depth_multiplier)


def _separable(call: Call) -> int:
    """The depthwise part, then Ci m Co at each position."""
    layer = call.operation
    middle = _channels(call.input, layer) * int(layer.depth_multiplier)
    window = int(math.prod(layer.kernel_size))
    return _positions(call.output, layer) * (window * middle + middle * int(layer.filters))


def _transposed(call: Call) -> int:
    """Hi Wi kh kw Ci Co: each input is multiplied by the whole kernel."""
    return _positions(call.input, call.operation) * int(math.prod(call.operation.kernel.shape))


def _dense(call: Call) -> int:
    return math.prod(call.input[1:]) * int(call.operation.units)


def _recurrent(gates: int) -> Rule:
    """At each of T steps, for each gate: I U for the input and U U for the state."""

    def count(call: Call) -> int:
        _, steps, inputs = call.input
        units = int(call.operation.units)
        return gates * steps * units * (inputs + units)

    return count


def _einsum_dense(call: Call) -> int:
    return _einsum(call.operation.equation, [call.input, tuple(call.operation.kernel.shape)])


def _einsum(equation: str, shapes: Sequence[Sequence[int]]) -> int:
    """The product of the lengths of all axes."""
    inputs = equation.replace(" ", "").partition("->")[0].split(",")
    lengths: dict[str, int] = {}
    for letters, shape in zip(inputs, shapes, strict=True):
        for letter, length in zip(letters, shape, strict=True):
            lengths[letter] = max(length, lengths.get(letter, 1))
    return math.prod(lengths.values())


def _attention(call: Call) -> int | None:
    """N D h d_k for N queries, M D h (d_k + d_v) for M keys and values, h N M (d_k + d_v), N h d_v D for the output."""
    config = call.operation.get_config()
    axes = config["attention_axes"]
    if axes is not None and sorted(axes) != list(range(1, len(call.input) - 1)):
        return None
    query = call.input
    value = tuple(call.argument("value", 1).shape)
    key = tuple(getattr(call.argument("key", 2), "shape", None) or value)
    queries, keys = math.prod(query[1:-1]), math.prod(key[1:-1])
    heads, per_key = int(config["num_heads"]), int(config["key_dim"])
    per_value = int(config["value_dim"] or per_key)
    projected = heads * (per_key * (queries * query[-1] + keys * key[-1]) + per_value * keys * value[-1])
    mixed = heads * queries * keys * (per_key + per_value)
    return int(projected + mixed + queries * heads * per_value * call.output[-1])


def _op_einsum(call: Call) -> int | None:
    shapes = [tuple(each.shape) for each in call.args if hasattr(each, "shape")]
    equation = str(call.operation.subscripts)
    return None if "." in equation or len(shapes) != 2 else _einsum(equation, shapes)


def _op_matmul(call: Call) -> int:
    return math.prod(call.output) * int(call.args[0].shape[-1])


def _op_convolution(call: Call) -> int:
    return _positions(call.output, call.operation) * int(math.prod(call.args[1].shape))


def _op_transposed(call: Call) -> int:
    return _positions(call.input, call.operation) * int(math.prod(call.args[1].shape))


def _op_attention(call: Call) -> int:
    """Scores and their sums, h N M (d_k + d_v): queries (B, N, h, d_k), keys (B, M, h, d_k), values (B, M, h, d_v)."""
    query, key, value = (tuple(each.shape) for each in call.args[:3])
    return int(query[1] * key[1] * query[2] * (query[3] + value[3]))


COUNTED: dict[type, Rule] = {
    **dict.fromkeys((layers.Conv1D, layers.Conv2D, layers.Conv3D), _convolution),
    **dict.fromkeys((layers.DepthwiseConv1D, layers.DepthwiseConv2D), _depthwise),
    **dict.fromkeys((layers.SeparableConv1D, layers.SeparableConv2D), _separable),
    **dict.fromkeys((layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose), _transposed),
    layers.Dense: _dense,
    layers.EinsumDense: _einsum_dense,
    layers.MultiHeadAttention: _attention,
    layers.SimpleRNN: _recurrent(1),
    layers.LSTM: _recurrent(4),
    layers.GRU: _recurrent(3),
    layers.Embedding: lambda call: 0,
}
COUNTED_OPERATIONS: dict[str, Rule] = {
    "Conv": _op_convolution,
    "DepthwiseConv": _op_convolution,  # its kernel is (kh, kw, Ci, m)
    "ConvTranspose": _op_transposed,
    "Matmul": _op_matmul,
    "Einsum": _op_einsum,
    "DotProductAttention": _op_attention,
}
# operations that multiply, and whose products are not counted here; what is in none of these only moves or adds
UNCOUNTED = (
    "SeparableConv", "Tensordot", "Dot", "Vdot", "Inner", "Outer", "Kron", "Cross", "Correlate", "Corrcoef", "FFT",
    "FFT2", "IFFT2", "RFFT", "IRFFT", "STFT", "ISTFT", "Cholesky", "CholeskyInverse", "Det", "Eig", "Eigh", "Inv",
    "LuFactor", "Norm", "Qr", "Solve", "SolveTriangular", "SVD", "Lstsq", "MatrixRank", "Pinv", "Slogdet", "Logdet",
    "JVP", "Map", "Scan", "AssociativeScan", "WhileLoop", "ForiLoop", "Cond", "Switch", "VectorizedMap", "CDist",
    "Unfold", "Fold", "Resize", "AffineTransform", "MapCoordinates", "PerspectiveTransform", "GaussianBlur",
    "ElasticTransform", "ScaleAndTranslate", "SobelEdges", "ExtractPatches",
)  # fmt: skip
