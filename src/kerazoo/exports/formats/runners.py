"""Run the model file of a format by its own engine, without TensorFlow and keras."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kerazoo.errors import InputError, RunError
from kerazoo.exports.formats import reference
from kerazoo.exports.formats.table import BROWSER, Format, check_installed

Runner = Callable[[np.ndarray], np.ndarray]


LARGE = 4_000_000  # pixels of an image that is resized before a model that could do it, for less memory


def as_taken(pixels: np.ndarray, one: Format, settings: reference.Settings) -> np.ndarray:
    """Decoded (H, W, C) uint8 pixels -> those that the format is given: resized if it takes one size, or if large."""
    fits = one.takes == "fitted" or pixels.shape[0] * pixels.shape[1] > LARGE
    result: np.ndarray = reference.fit(pixels, settings) if fits else pixels
    return result


def load_runner(folder: Path, one: Format) -> Runner:
    """A function of (B, H, W, C) uint8 pixels, as `one.takes` says -> (B, K) float32 answers.

    Raises InputError if the engine is not installed or is a browser, RunError if the export has no such format or it
    is damaged.
    """
    path = folder / one.file
    if not path.is_file():
        raise RunError(f"{folder} has no format {one.name!r}; export the run with --format {one.name}")
    if one.engine == BROWSER:
        raise InputError(
            f"format {one.name!r} answers in a browser: run python -m http.server --directory {path.parent} and open "
            "http://localhost:8000, or answer by format 'onnx' here"
        )
    check_installed(one, [one.engine])
    load = {"onnxruntime": _onnx, "ai_edge_litert": _litert, "openvino": _openvino}[one.engine]
    try:
        return load(path)
    except Exception as error:  # each engine has errors of its own
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"{path} cannot be loaded ({reason}); it is damaged: export the run again") from error


def _onnx(path: Path) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # or threads that wait keep others off
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    return lambda pixels: np.asarray(session.run(None, {taken.name: pixels})[0], np.float32)


def _litert(path: Path) -> Runner:
    from ai_edge_litert.interpreter import Interpreter

    model = Interpreter(str(path), num_threads=os.cpu_count())
    (taken,), (given,) = model.get_input_details(), model.get_output_details()
    shape: Any = None

    def run(pixels: np.ndarray) -> np.ndarray:
        nonlocal shape
        if shape != pixels.shape:
            model.resize_tensor_input(taken["index"], pixels.shape)
            model.allocate_tensors()
            shape = pixels.shape
        model.set_tensor(taken["index"], pixels)
        model.invoke()
        return np.array(model.get_tensor(given["index"]), np.float32)

    return run


def _openvino(path: Path) -> Runner:
    import openvino

    core = openvino.Core()
    # always float32 where the file has it, even if the processor would use fewer bits
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda pixels: np.array(compiled(pixels)[0], np.float32)
