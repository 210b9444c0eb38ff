"""Exports: make one, open one, compare one with its run, write the files that run one in production."""

from collections.abc import Sequence
from pathlib import Path
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


def deploy(
    export: "PathLike | Export",
    *,
    to: str,
    folder: PathLike | None = None,
    name: str | None = None,
    memory: str | None = None,
    cpus: int | None = None,
    claim: str | None = None,
    storage_uri: str | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write the files that run an export in production, on TensorFlow Serving. It needs no TensorFlow.

    Args:
        export: saved_models/NAME, or NAME alone: its newest version is served, and each new one. With
            saved_models/NAME/VERSION or an `Export`, only that version is served.
        to: "docker" for Docker Compose, "kubernetes", or "kserve".
        folder: Where the files are written. The default is deploy/NAME/TO.
        name: The name in Docker Compose or Kubernetes. The default is the export's name in lower case, with hyphens
            for spaces, dots and underscores.
        memory: The memory limit, such as "1536Mi" or "2Gi". The default is 1 GiB and four times the weights, rounded
            up to 256 MiB.
        cpus: The CPU limit. The default is none.
        claim: For "kubernetes", the PersistentVolumeClaim that contains NAME/VERSION. The default is "models".
        storage_uri: For "kserve", where the export is, such as "s3://models/NAME" or "pvc://CLAIM/NAME".
        overwrite: Replace the files of an earlier call.

    Returns:
        The paths of the files; the last is a README.md with the commands to start, ask and stop.

    Raises:
        RunError: if there is no such export, or it has no passport.
        InputError: if a value is not allowed or does not apply to the target, or files are in the way.

    Example:
    ```python
    files = kerazoo.deploy("saved_models/first", to="docker")
    [path.name for path in files]  # compose.yaml, models.config, batching.config, monitoring.config, README.md
    ```
    """
    from kerazoo.serving.deploy.choices import Choices
    from kerazoo.serving.deploy.deploy import deploy_export

    choices = Choices(name=name, memory=memory, cpus=cpus, claim=claim, storage_uri=storage_uri)
    return deploy_export(path_of(export), to, choices, folder=folder, overwrite=overwrite)
