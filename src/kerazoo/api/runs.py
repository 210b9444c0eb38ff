"""Asking a run: open it, evaluate it, predict by it or by an export."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kerazoo.api.settings import PathLike, path_of
from kerazoo.exports.formats.table import SAVED_MODEL_FORMAT, find_formats
from kerazoo.startup import start_tensorflow

if TYPE_CHECKING:
    from kerazoo.api.run import Run
    from kerazoo.evaluation.answers import Evaluation
    from kerazoo.exports.folder import Export
    from kerazoo.serving.predict import Prediction


def open_run(path: PathLike) -> "Run":
    """A finished run on disk.

    Args:
        path: Its folder, or its name under runs/.

    Returns:
        `Run` with `folder`, `name`, `status`, `recipe`, `results`, `history`, `spec`; `model()`, `evaluate()`,
        `predict()` and `export()`.

    Raises:
        RunError: if there is no such run, or it did not finish.

    Example:
    ```python
    model = kerazoo.open_run("first").model()
    ```
    """
    from kerazoo.api.run import Run
    from kerazoo.runs.run import open_run as open_folder

    return Run(open_folder(path).folder)


def evaluate(run: "PathLike | Run", data: PathLike | None = None) -> "dict[str, Evaluation]":
    """Evaluate a run on its own validation and test images, or on other data.

    Args:
        run: A run, its folder, or its name under runs/.
        data: Other data than the run's own, as in `load_examples`.

    Returns:
        The `Evaluation` of each split, by its name: "val", "test".

    Raises:
        RunError: if there is no such run, or a file of it was changed.
        DataError: if the data has changed since, or has other classes.
        GateError: if the answers are not those that the run recorded.

    Example:
    ```python
    kerazoo.evaluate("first")["val"].accuracy
    ```
    """
    return open_run(path_of(run)).evaluate(data)


def predict(
    model: "PathLike | Run | Export",
    images: PathLike | Sequence[PathLike],
    *,
    top: int = 5,
    format: str = SAVED_MODEL_FORMAT,
) -> "Iterator[Prediction]":
    """Name the classes of images.

    Args:
        model: A run, an export, or the path of one.
        images: Files, or folders that are read through.
        top: How many classes to name.
        format: Which of an export's formats answers, such as "onnx"; see `export`. It needs no TensorFlow.

    Returns:
        A `Prediction` for each file, in order. One that cannot be decoded has an `error` in place of an answer.

    Raises:
        RunError: if there is no such run or export, or it has no such format.
        InputError: if there is no such format, or its engine is not installed.
        DataError: if a file or a folder is missing, or a folder has no images.

    Example:
    ```python
    for prediction in kerazoo.predict("first", "photos/circle", top=1):
        print(prediction.line())
    ```
    """
    from kerazoo.exports.folder import find_export
    from kerazoo.serving.predict import find_files

    files = find_files([images] if isinstance(images, str | Path) else images)
    place = path_of(model)
    export = find_export(place)
    if export is None:
        open_run(place)
    if not find_formats(format, needed=False):
        _start_tensorflow(keras=export is None)
    from kerazoo.serving.predict import predict as answer

    return answer(export or place, files, top=top, format=format)


def _start_tensorflow(*, keras: bool) -> None:
    """Start TensorFlow, without the time that keras takes where it is not needed now; it can be imported later."""
    start_tensorflow(keras=keras)
    if sys.modules.get("keras", keras) is None:
        del sys.modules["keras"]
