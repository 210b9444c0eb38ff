"""Run a frozen network over images with Keras, or with ONNX Runtime or OpenVINO, which can be faster.

Other engines round differently. Their outputs for the first batch are compared with Keras's before any is used.

On TensorFlow, Keras's own graph has its weights as constants. So TensorFlow multiplies the scales of batch norms into
the kernels, and convolution, bias and activation become one operation: two thirds of the time.
"""

import importlib
import importlib.util
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from kerazoo.errors import KerazooError, RecipeError
from kerazoo.models.onnx_graph import as_onnx

PACKAGES = {"keras": (), "onnx": ("onnx", "tf2onnx", "onnxruntime"), "openvino": ("openvino",)}
CLOSE = 1e-3  # allowed difference of another engine, as a share of the largest feature
CONSTANT = 100_000_000  # weights that may be constants; TensorFlow copies them, and a graph has at most 2 GB

Runner = Callable[[np.ndarray], np.ndarray]


def versions_of(engine: str) -> dict[str, str]:
    """The versions of the packages that the engine needs besides Keras. Raises RecipeError if one is not installed."""
    check_engine(engine)
    return {package: str(importlib.import_module(package).__version__) for package in PACKAGES[engine]}


def check_engine(engine: str) -> None:
    """Raise RecipeError if a package that the engine needs is not installed."""
    for package in PACKAGES[engine]:
        if importlib.util.find_spec(package) is None:
            raise RecipeError(
                f"transfer.engine={engine!r} needs {package}, which is not installed; run pip install "
                f"'kerazoo[{engine}]', or use transfer.engine='keras'"
            )


def make_runner(model: keras.Model, engine: str, batch: np.ndarray) -> Runner:
    """A function (B, H, W, C) float32 with the shape of `batch` -> (B, F) float32: the output of `model` by `engine`.

    Raises RecipeError if the engine is not installed, KerazooError if its output for `batch` differs from Keras's.
    """

    def by_keras(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(keras.ops.convert_to_numpy(model.predict_on_batch(pixels)), np.float32)

    if engine == "keras":
        return (_with_constants(model, batch) if keras.config.backend() == "tensorflow" else None) or by_keras
    check_engine(engine)
    expected = by_keras(batch)  # call the model first, or Keras cannot export it
    run = {"onnx": _onnx, "openvino": _openvino}[engine](model)
    difference = np.abs(run(batch) - expected).max()
    scale = np.abs(expected).max()
    if not difference <= CLOSE * scale:  # NaN is not close
        raise KerazooError(
            f"engine {engine!r} gives other {model.name} than Keras: they differ by up to {difference:.2g}, and the "
            f"largest is {scale:.2g}; use transfer.engine='keras'"
        )
    return run


def _with_constants(model: keras.Model, batch: np.ndarray) -> Runner | None:
    """None if the weights are too large, or not finite: the joint operation may turn NaN into 0."""
    import tensorflow as tf

    parts = model.trainable_variables, model.non_trainable_variables
    learned, others = ([keras.ops.convert_to_numpy(variable) for variable in part] for part in parts)
    if model.count_params() > CONSTANT or not all(np.isfinite(value).all() for value in (*learned, *others)):
        return None

    def run(pixels: tf.Tensor) -> tf.Tensor:
        constants = ([tf.constant(value) for value in part] for part in (learned, others))
        return model.stateless_call(*constants, pixels, training=False)[0]

    given = tf.TensorSpec(batch.shape, tf.float32)
    graph = tf.function(run, autograph=False).get_concrete_function(given)
    return lambda pixels: np.asarray(graph(tf.constant(pixels)), np.float32)


def _onnx(model: keras.Model) -> Runner:
    import onnxruntime

    content = _onnx_on_tensorflow(model) if keras.config.backend() == "tensorflow" else _onnx_by_keras(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; it warns about every constant that it does not need
    session = onnxruntime.InferenceSession(content, options, providers=onnxruntime.get_available_providers())
    (name,) = (tensor.name for tensor in session.get_inputs())
    return lambda pixels: np.asarray(session.run(None, {name: pixels})[0], np.float32)


def _onnx_on_tensorflow(model: keras.Model) -> bytes:
    import tensorflow as tf

    function = tf.function(lambda pixels: model(pixels, training=False), autograph=False)
    given = tf.TensorSpec(model.input_shape, tf.float32, "pixels")
    return bytes(as_onnx(function, given).SerializeToString())


def _onnx_by_keras(model: keras.Model) -> bytes:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras looks for a name that numpy 2 does not have
        path = Path(folder) / "model.onnx"
        model.export(str(path), format="onnx", verbose=False)
        return path.read_bytes()


def _openvino(model: keras.Model) -> Runner:
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        model.export(str(path), format="openvino", verbose=False)
        core = openvino.Core()
        # always float32, even if the processor would use fewer bits
        compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda pixels: np.asarray(compiled(pixels)[0], np.float32)
