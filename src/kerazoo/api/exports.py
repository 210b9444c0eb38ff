"""Exports: make one, open one, compare one with its run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kerazoo.api.runs import open_run
from kerazoo.api.settings import PathLike, path_of
from kerazoo.exports.layout import check_images
from kerazoo.startup import start_tensorflow

if TYPE_CHECKING:
    from kerazoo.api.run import Run
    from kerazoo.exports.folder import Export
    from kerazoo.exports.formats.format_gate import FormatResult as FormatResult
    from kerazoo.exports.gate import GateResult


def export(
    run: "PathLike | Run",
    *,
    name: str | None = None,
    new_version: bool = False,
    images: int | None = None,
    formats: str | Sequence[str] = (),
    root: PathLike = "saved_models",
) -> "Export":
    """Export a run as a SavedModel that takes encoded images; it is kept only if it answers as the run did.

    Args:
        run: A run, its folder, or its name under runs/.
        name: The export's folder below `root`. The default is the run's name.
        new_version: Add a version where the name exists.
        images: How many validation images are compared, spread evenly over all. The default is all of them.
        formats: More formats beside the SavedModel, each with its own gate: "onnx", "onnx-int8", "litert",
            "litert-float16", "litert-dynamic", "litert-int8", "openvino", "openvino-int8", "web".
        root: The folder of the exports.

    Returns:
        The `Export`.

    Raises:
        InputError: if there is no such format, or a package or browser that it needs is not installed.
        RunError: if there is no such run, or the name is taken.
        DataError: if the run's data has changed.
        GateError: if the export does not answer as the evaluated model did; nothing is kept.

    Example:
    ```python
    export = kerazoo.export("first")
    export.folder, export.gate.largest_difference
    ```
    """
    return open_run(path_of(run)).export(name=name, new_version=new_version, images=images, formats=formats, root=root)


def verify(export: "PathLike | Export", run: "PathLike | Run", *, images: int | None = None) -> "GateResult":
    """Compare an export with the run that it was made from, as `export` does before it keeps one.

    Args:
        export: An export, or its path. It stays where it is, whatever comes of this.
        run: A run, its folder, or its name under runs/.
        images: As in `export`.

    Returns:
        `GateResult`: what was compared, and the largest difference.

    Raises:
        RunError: if there is no such export or run.
        GateError: if the export does not answer as the evaluated model did.

    Example:
    ```python
    kerazoo.verify("saved_models/first", "first").images
    ```
    """
    check_images(images)
    folder, opened = open_export(path_of(export)).folder, open_run(path_of(run))
    start_tensorflow()
    from kerazoo.exports.export import verify_export

    return verify_export(folder, opened, images=images)


def open_export(path: PathLike) -> "Export":
    """An export on disk.

    Args:
        path: saved_models/NAME, whose newest version it is, or saved_models/NAME/VERSION.

    Returns:
        `Export` with `folder`, `version`, `passport`, `gate`, and `probabilities(images)`.

    Raises:
        RunError: if there is no export of kerazoo.

    Example:
    ```python
    kerazoo.open_export("saved_models/first").probabilities(["photos/circle/00.png"])  # (1, K) float32
    ```
    """
    from kerazoo.exports.folder import open_export as open_folder

    return open_folder(path)
