"""ONNX files: floats with resizing inside, which share one file of weights, and integers for ONNX Runtime."""

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerazoo.exports.formats.portable import portable
from kerazoo.exports.formats.table import check_quantized
from kerazoo.files import write_whole
from kerazoo.models.onnx_graph import as_onnx

if TYPE_CHECKING:
    import keras

    from kerazoo.models.description import ModelSpec

WEIGHTS = "weights.bin"
SMALL = 1024  # bytes; smaller numbers stay in the model's own file
PERCENTILE = 99.9  # of the numbers that occur, from the middle; integers stand for these, and others are cut off
MEMORY = 500_000_000  # bytes for the outputs of layers between two looks at them
FILES = {"pixels": "model.onnx", "images": "images.onnx", "prepared": "prepared.onnx"}  # {kind of input: file}


def write_onnx(path: Path, spec: "ModelSpec", model: "keras.Model") -> None:
    """Write `model.onnx` at `path`, which takes `pixels`, beside it `images.onnx` and `prepared.onnx`, and the weights.

    The inputs are those of `portable.inputs_of`.
    """
    models: dict[str, Any] = {}
    places: dict[str, int] = {}
    blocks: list[bytes] = []
    for kind, name in FILES.items():
        models[name] = to_onnx(spec, model, kind)
        _share(models[name], places, blocks)
    write_whole(path.parent / WEIGHTS, b"".join(blocks))
    for name, converted in models.items():
        write_whole(path.parent / name, converted.SerializeToString())


def to_onnx(spec: "ModelSpec", model: "keras.Model", kind: str) -> Any:
    """The network as an ONNX model with the input of this kind, see `portable.inputs_of`."""
    import onnx

    function, given = portable(spec, model, kind)
    converted = as_onnx(function, given)
    onnx.checker.check_model(converted)
    return converted


def _share(model: Any, places: dict[str, int], blocks: list[bytes]) -> None:
    """Move large numbers of `model` into `blocks`, each once: `places` are known by the hash of what is there."""
    import onnx

    for tensor in model.graph.initializer:
        content = onnx.numpy_helper.to_array(tensor).tobytes()
        if len(content) < SMALL:
            continue
        key = hashlib.sha256(content).hexdigest()
        if key not in places:
            places[key] = sum(map(len, blocks))
            blocks.append(content)
        tensor.raw_data = content
        onnx.external_data_helper.set_external_data(tensor, WEIGHTS, offset=places[key], length=len(content))
        tensor.ClearField("raw_data")


def _flat_layers(model: "keras.Model") -> Iterator["keras.Layer"]:
    """The layers of `model`, and in place of a network among them its own layers."""
    for layer in model.layers:
        yield from _flat_layers(layer) if hasattr(layer, "layers") else [layer]


def _size(layer: "keras.Layer") -> int:
    """The number of values that `layer` gives for an image."""
    return int(np.prod(layer.output.shape[1:])) if hasattr(layer.output, "shape") else 0


def quantize_onnx(path: Path, spec: "ModelSpec", model: "keras.Model", images: np.ndarray) -> None:
    """Write a model of integers at `path`, calibrated with (N, height, width, C) uint8 `images`.

    The first convolution and depthwise ones stay in floats: they have few of the multiplications, and lose most.
    Raises GateError if nothing could be quantized.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    converted = to_onnx(spec, model, "fitted")
    (taken,) = converted.graph.input
    views = 2 if any(one.flip for one in spec.networks) else 1
    each = 4 * views * sum(map(_size, _flat_layers(model)))
    at_once = min(max(1, MEMORY // each), len(images))
    count = len(images) // at_once * at_once  # ONNX Runtime wants a multiple
    some = images[np.linspace(0, len(images) - 1, count).round().astype(int)]

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[np.ndarray] = iter(())

        def __len__(self) -> int:
            return len(some)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.left = iter(some[start_index:end_index])

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.left, None)
            return None if image is None else {taken.name: image[None]}

    with tempfile.TemporaryDirectory(prefix="kerazoo-") as folder:
        given, folded, result = (str(Path(folder) / f"{name}.onnx") for name in ("given", "folded", "result"))
        onnx.save_model(converted, given)
        quant_pre_process(given, folded, skip_symbolic_shape=True)  # batch norm becomes a part of convolutions
        convolutions = [node for node in onnx.load(folded).graph.node if node.op_type == "Conv"]
        floats = {node.name for node in convolutions if any(a.name == "group" and a.i > 1 for a in node.attribute)}
        quantization.quantize_static(
            folded, result, Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            activation_type=quantization.QuantType.QUInt8, op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            nodes_to_exclude=sorted(floats | {node.name for node in convolutions[:1]}),
            calibrate_method=quantization.CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": PERCENTILE, "CalibStridedMinMax": at_once},  # despite its name, for all
        )  # fmt: skip
        content = Path(result).read_bytes()
    integers = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    weights = [t for t in onnx.load_from_string(content).graph.initializer if t.data_type in integers and t.dims]
    check_quantized("onnx-int8", len(weights))
    write_whole(path, content)
