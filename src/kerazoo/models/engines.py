"""What runs a frozen network over images: Keras itself, or ONNX Runtime or OpenVINO where they are faster.

Another engine rounds otherwise: its answers to the first batch are compared with Keras's before any is kept.
"""

import importlib
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from kerazoo.errors import KerazooError, RecipeError

PACKAGES = {"keras": (), "onnx": ("onnx", "tf2onnx", "onnxruntime"), "openvino": ("openvino",)}
CLOSE = 1e-3  # of the largest feature: what another engine may differ by

Runner = Callable[[np.ndarray], np.ndarray]


def versions_of(engine: str) -> dict[str, str]:
    """The versions of what the engine needs beside Keras. Raises RecipeError where it is not installed."""
    check_engine(engine)
    return {package: str(importlib.import_module(package).__version__) for package in PACKAGES[engine]}


def check_engine(engine: str) -> None:
    """Raise RecipeError where something that the engine needs is not installed."""
    for package in PACKAGES[engine]:
        if importlib.util.find_spec(package) is None:
            raise RecipeError(
                f"transfer.engine={engine!r} needs {package}, which is not installed: pip install 'kerazoo[{engine}]', "
                "or take engine 'keras'"
            )


def make_runner(model: keras.Model, engine: str, batch: np.ndarray) -> Runner:
    """A function of (B, H, W, C) float32, the shape of `batch`, -> (B, F) float32: what `model` gives, by `engine`.

    Raises RecipeError where the engine is not installed, KerazooError where it does not answer `batch` as Keras does.
    """

    def by_keras(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(keras.ops.convert_to_numpy(model.predict_on_batch(pixels)), np.float32)

    if engine == "keras":
        return by_keras
    check_engine(engine)
    expected = by_keras(batch)  # first of all: Keras exports what has been called
    run = {"onnx": _onnx, "openvino": _openvino}[engine](model)
    difference, scale = np.abs(run(batch) - expected).max(), np.abs(expected).max()
    if not difference <= CLOSE * scale:  # NaN is not close
        raise KerazooError(
            f"engine {engine!r} answers {model.name} otherwise than Keras: features differ by {difference:.2g}, of "
            f"{scale:.2g} at most; take transfer.engine='keras'"
        )
    return run


def _onnx(model: keras.Model) -> Runner:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        model.export(str(path), format="onnx", verbose=False)
        session = onnxruntime.InferenceSession(path.read_bytes(), providers=onnxruntime.get_available_providers())
    (name,) = (given.name for given in session.get_inputs())
    return lambda pixels: np.asarray(session.run(None, {name: pixels})[0], np.float32)


def _openvino(model: keras.Model) -> Runner:
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        model.export(str(path), format="openvino", verbose=False)
        core = openvino.Core()
        # float32 throughout, where the processor would take fewer bits
        compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda pixels: np.asarray(compiled(pixels)[0], np.float32)
