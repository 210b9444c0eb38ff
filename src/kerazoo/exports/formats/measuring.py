"""The fresh process that uses a format as its users would: the engine, numpy and Pillow, without TensorFlow and keras.

It answers the gate's images from their bytes by `reference.py`, which the export has beside the model, and measures
time and memory. The SavedModel is measured in the same way, with TensorFlow.
"""

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kerazoo.exports.formats import reference
from kerazoo.exports.formats.runners import as_taken, load_runner
from kerazoo.exports.formats.table import FORMATS, SAVED_MODEL_FORMAT, SETTINGS
from kerazoo.startup import start_tensorflow

BATCHES = (1, 8)  # images in the batches that are timed
ROUNDS = 15
FEW = 8  # images that are also asked for twice, and alone


def measure(export: str, name: str, questions: str, result: str) -> None:
    """Write the answers of a format for files, {"files": [...]} in `questions`, and its measures, into `result`.npz.

    The fresh process runs this.
    """
    folder = Path(export)
    files = json.loads(Path(questions).read_text(encoding="utf-8"))["files"]
    settings = reference.load(folder / SETTINGS)
    if name == SAVED_MODEL_FORMAT:
        run, one, files = _saved_model(folder), None, files[:FEW]
    else:
        for package in ("tensorflow", "keras"):
            sys.modules.setdefault(package, None)  # type: ignore[arg-type]
        one = FORMATS[name]
        run = load_runner(folder, one)
    answers = []
    fitted: list[np.ndarray] = []
    for file in files:
        pixels = _pixels(file, settings)
        if len(fitted) < FEW:
            fitted.append(reference.fit(pixels, settings))
        answers.append(run((pixels if one is None else as_taken(pixels, one, settings))[None])[0])
    some = np.stack((fitted * FEW)[:FEW])
    whole = run(some)
    twice = not np.array_equal(whole, run(some))
    alone = float(np.abs(np.concatenate([run(image[None]) for image in some]) - whole).max())
    seconds = [_seconds(run, some[:size]) / size for size in BATCHES]
    np.savez(
        result, answers=np.stack(answers), twice=twice, alone=alone, seconds=np.array(seconds), memory=_largest_memory()
    )


def _largest_memory() -> int:
    """The largest number of bytes that this process had. On Linux, `getrusage` would count its parent's, too."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _pixels(file: str, settings: dict[str, Any]) -> np.ndarray:
    if file.endswith(".npy"):
        pixels: np.ndarray = np.load(file)
        return pixels.round().clip(0, 255).astype(np.uint8)
    try:
        return np.asarray(reference.decode(file, settings))
    except OSError as error:
        raise OSError(f"{Path(file).name}: {error}") from error


def _saved_model(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    start_tensorflow(keras=False)
    from kerazoo.exports.saved_model import ExportedModel

    model = ExportedModel(folder)
    return lambda pixels: model.pixel_answers(pixels)


def _seconds(run: Callable[[np.ndarray], np.ndarray], batch: np.ndarray) -> float:
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        run(batch)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)
