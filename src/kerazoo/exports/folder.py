"""An export on disk: saved_models/NAME/VERSION."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerazoo.errors import RunError
from kerazoo.exports.gate import GateResult
from kerazoo.exports.layout import PASSPORT, SAVED_MODEL, is_version
from kerazoo.files import read_json
from kerazoo.startup import start_tensorflow

if TYPE_CHECKING:
    import numpy as np

    from kerazoo.exports.formats.format_gate import FormatResult
    from kerazoo.exports.saved_model import ExportedModel


@dataclass(frozen=True)
class Export:
    """A SavedModel that takes encoded images, and its passport.

    Example:
    ```python
    export = kerazoo.open_export("saved_models/first")
    export.folder, export.version, export.passport["class_names"], export.gate.images
    ```
    """

    folder: Path

    @property
    def version(self) -> int:
        """The version number, which is the folder's name. Raises RunError if the name is not a number."""
        if not is_version(self.folder.name):
            raise RunError(f"{self.folder} must have a version number as its name, such as saved_models/NAME/1")
        return int(self.folder.name)

    @property
    def passport(self) -> dict[str, Any]:
        """The description of the export: class names, preprocessing, metrics, hashes, versions. Raises RunError."""
        return read_json(self.folder / PASSPORT)

    @property
    def gate(self) -> GateResult:
        """The result of the comparison with the evaluated model, before the export was kept. Raises RunError."""
        try:
            return GateResult(**self.passport["gate"])
        except (KeyError, TypeError) as error:
            raise RunError(f"{self.folder / PASSPORT} has no result of the gate; export the run again") from error

    @property
    def formats(self) -> "tuple[FormatResult, ...]":
        """What the SavedModel and each other format answer and cost; empty if there are no others. Raises RunError."""
        from kerazoo.exports.formats.format_gate import FormatResult

        try:
            return tuple(FormatResult(**row) for row in self.passport.get("formats", ()))
        except TypeError as error:
            raise RunError(f"{self.folder / PASSPORT}: its formats were changed; export the run again") from error

    def probabilities(self, images: "str | Path | bytes | Sequence[str | Path | bytes] | np.ndarray") -> "np.ndarray":
        """The answers for images.

        Args:
            images: A file or an encoded image, or B of them in a list; or an array (B, H, W, C) of pixels in [0, 255].

        Returns:
            (B, K) float32 probabilities in the order of `passport["class_names"]`, or a regression's numbers.

        Raises:
            DataError: if an image cannot be read or decoded; the message names it.
            RunError: if the export is damaged.
        """
        import numpy as np

        if isinstance(images, np.ndarray):
            return self._model.image_probabilities(images)
        files = [images] if isinstance(images, str | Path | bytes) else images
        return self._model.file_probabilities([Path(file) if isinstance(file, str) else file for file in files])

    @cached_property
    def _model(self) -> "ExportedModel":
        start_tensorflow()
        from kerazoo.exports.saved_model import ExportedModel

        return ExportedModel(self.folder)


def find_export(model: str | Path) -> Path | None:
    """The folder of the export that `model` names, or of its newest version; None if it is not an export.

    Raises RunError for a SavedModel that kerazoo did not make.
    """
    folder = Path(model)
    if not (folder / SAVED_MODEL).is_file():
        versions = [p for p in folder.glob("*") if is_version(p.name) and (p / SAVED_MODEL).is_file()]
        if not versions:
            return None
        folder = max(versions, key=lambda p: int(p.name))
    if not (folder / PASSPORT).is_file():
        raise RunError(f"{folder} is a SavedModel without {PASSPORT}; use one that `kerazoo export` made")
    return folder


def open_export(path: str | Path) -> Export:
    """The export at `path`, or its newest version. Raises RunError if there is none."""
    folder = find_export(path)
    if folder is None:
        raise RunError(f"there is no export {os.fspath(path)}; give a folder that `kerazoo export` made")
    return Export(folder)
