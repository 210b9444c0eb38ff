"""Write the model file of a format from a network, and beside it the preprocessing that a format cannot have inside."""

import io
import json
import logging
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerazoo.errors import GateError, KerazooError
from kerazoo.exports.formats import reference
from kerazoo.exports.formats.onnx_files import quantize_onnx, write_onnx
from kerazoo.exports.formats.portable import portable, settings_of
from kerazoo.exports.formats.table import REFERENCE, SETTINGS, Format, check_quantized
from kerazoo.exports.web.write import write_web
from kerazoo.files import write_json, write_whole
from kerazoo.preprocessing.image_files import read_image
from kerazoo.preprocessing.preprocessing import Preprocessing
from kerazoo.startup import quiet_start

if TYPE_CHECKING:
    import keras

    from kerazoo.models.description import ModelSpec
    from kerazoo.pipelines.data.examples import Examples

CALIBRATED = 200  # training images, spread evenly, that show an int8 format which numbers occur

ONE_AT_A_TIME = threading.Lock()
ROOM = 1_000_000  # bytes; a disk with less is full


def write_preprocessing(folder: Path, spec: "ModelSpec") -> None:
    """Write `preprocessing/`: its settings in numbers, the names of the answers, and the code that needs only numpy."""
    (folder / REFERENCE).parent.mkdir()
    write_whole(folder / REFERENCE, Path(reference.__file__).read_bytes())
    write_json(folder / SETTINGS, {**settings_of(spec.preprocessing), "class_names": list(spec.class_names)})


def write_format(folder: Path, one: Format, spec: "ModelSpec", model: "keras.Model", train: "Examples") -> None:
    """Write the files of a format into the export in `folder`. `train` are the images to calibrate integers with.

    Raises GateError if the converter cannot write the network, or if nothing was quantized that should be.
    """
    path = folder / one.file
    path.parent.mkdir()
    writers: dict[str, Callable[[], None]] = {
        "onnx": lambda: write_onnx(path, spec, model),
        "onnx-int8": lambda: quantize_onnx(path, spec, model, calibration_images(train, spec.preprocessing)),
        "openvino": lambda: _openvino(path, spec, model),
        "web": lambda: write_web(path, spec, model),
        "openvino-int8": lambda: _quantized_openvino(path, spec, model, train),
    }
    try:
        with _silent():
            writers.get(one.name, lambda: _litert(path, one.name, spec, model, train))()
    except (KerazooError, OSError, MemoryError):
        raise
    except Exception as error:  # each converter has errors of its own
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise GateError(
            f"format {one.name} cannot be written for this network: {reason}; leave the format out"
        ) from error
    write_whole(path.parent / "class_names.json", json.dumps(list(spec.class_names), ensure_ascii=False))


def calibration_images(train: "Examples", preprocessing: Preprocessing) -> np.ndarray:
    """(N, height, width, C) uint8: training images, spread evenly over all, resized."""
    some = train.take(range(0, len(train), max(1, len(train) // CALIBRATED)))
    if some.paths is None:
        assert some.pixels is not None
        return np.stack([preprocessing.resize_pixels(image).numpy() for image in some.pixels])
    return np.stack([preprocessing.read(read_image(path)[0]).numpy() for path in some.paths])


def _litert(path: Path, name: str, spec: "ModelSpec", model: "keras.Model", train: "Examples") -> None:
    import tensorflow as tf

    integers = name == "litert-int8"
    function, _ = portable(spec, model, "fitted", quantized=integers)
    module = tf.Module()
    module.variables_ = [variable.value for variable in model.variables]  # a Keras model would leave them out
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], module)
    if name != "litert":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if name == "litert-float16":
        converter.target_spec.supported_types = [tf.float16]
    if integers:
        images = calibration_images(train, spec.preprocessing).astype(np.float32)

        def some() -> Iterator[list[np.ndarray]]:
            yield from ([image[None]] for image in images)

        converter.representative_dataset = some
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it misses numbers that an older form of quantization needed
        content: bytes = converter.convert()
    if name in ("litert-int8", "litert-dynamic"):
        _check_litert(content, name)
    write_whole(path, content)


def _check_litert(content: bytes, name: str) -> None:
    from ai_edge_litert.interpreter import Interpreter

    details: list[dict[str, Any]] = Interpreter(model_content=content).get_tensor_details()
    check_quantized(name, sum(one["dtype"] == np.int8 for one in details))


def _openvino(path: Path, spec: "ModelSpec", model: "keras.Model") -> None:
    import openvino

    function, _ = portable(spec, model, "pixels")
    _save_openvino(path, openvino.convert_model(function))


def _quantized_openvino(path: Path, spec: "ModelSpec", model: "keras.Model", train: "Examples") -> None:
    import nncf
    import openvino

    function, _ = portable(spec, model, "fitted")
    converted = openvino.convert_model(function)
    images = calibration_images(train, spec.preprocessing)
    data = nncf.Dataset([image[None] for image in images])
    quantized = nncf.quantize(converted, data, subset_size=len(images))
    check_quantized("openvino-int8", sum(node.get_type_name() == "FakeQuantize" for node in quantized.get_ops()))
    _save_openvino(path, quantized)


def _save_openvino(path: Path, model: Any) -> None:
    """Write the two files of `model`, by way of a temporary folder: OpenVINO does not say that a disk is full."""
    import openvino

    with tempfile.TemporaryDirectory(prefix="kerazoo-") as folder:
        try:
            openvino.save_model(model, str(Path(folder) / path.name), compress_to_fp16=False)
        except RuntimeError as error:
            if shutil.disk_usage(folder).free > ROOM:
                raise
            raise KerazooError(f"there is no room in {folder} for the files of OpenVINO; make some") from error
        for file in sorted(Path(folder).iterdir()):
            write_whole(path.with_name(file.name), file.read_bytes())


@contextmanager
def _silent() -> Iterator[None]:
    """Keeps away what converters print and log: their progress, and advice that was followed. One thread at a time."""
    with ONE_AT_A_TIME:
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            with quiet_start(show=False), redirect_stdout(io.StringIO()):
                yield
        finally:
            logging.disable(before)
