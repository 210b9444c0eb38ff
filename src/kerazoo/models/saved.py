"""A model on disk: `model.json` (builder's name and arguments, preprocessing, class names) and `model.weights.h5`.

Loading runs only builders of the registry, never code from the file; the weights are checked by sha256 first.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerazoo.errors import ModelError, RunError, WeightsError
from kerazoo.files import read_json, sha256, write_json, write_whole
from kerazoo.keras_private import weights_file
from kerazoo.models.description import (
    Member,
    ModelSpec,
    check_arguments,
    check_description,
    check_names,
    check_size,
    short,
)
from kerazoo.models.weights.weights_file import load_whole
from kerazoo.preprocessing.preprocessing import Preprocessing

if TYPE_CHECKING:
    import keras


DESCRIPTION, WEIGHTS = "model.json", "model.weights.h5"
_WRITTEN: set[str] = set()  # sha256 of weights that this process wrote; they need no check in another process


def save_model(folder: str | Path, spec: ModelSpec, model: "keras.Model") -> str:
    """Write both files into `folder`, weights first, and return the sha256 of the weights.

    Each file is written under a temporary name, then renamed. Raises OSError, for example if the disk is full.
    """
    content = weights_file(model)
    digest = hashlib.sha256(content).hexdigest()
    write_whole(Path(folder) / WEIGHTS, content)
    _WRITTEN.add(digest)
    write_json(Path(folder) / DESCRIPTION, {**spec.to_json(), "weights_sha256": digest})
    return digest


def save_spec(folder: str | Path, spec: ModelSpec) -> None:
    """Replace the description in `folder` by that of `spec`; the weights and their digest stay. Raises OSError."""
    path = Path(folder) / DESCRIPTION
    write_json(path, {**spec.to_json(), "weights_sha256": read_json(path)["weights_sha256"]})


def load_spec(folder: str | Path) -> ModelSpec:
    """The spec stored in `folder`, checked by `description.py`. Raises RunError if it is missing or bad."""
    path = Path(folder) / DESCRIPTION
    values = read_json(path)
    try:
        missing = {"name", "arguments", "preprocessing", "class_names", "task"} - set(values)
        if missing:
            raise ModelError(f"it has no {min(missing)}")
        check_arguments(values["name"], values["arguments"])
        check_names(values["class_names"])
        # JSON has no tuples, so lists become tuples
        arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in values["arguments"].items()}
        spec = ModelSpec(
            values["name"], arguments, Preprocessing.from_json(values["preprocessing"]),
            tuple(values["class_names"]), values["task"], values.get("temperature", 1.0),
            values.get("flip", False), _members(values.get("members", [])), values.get("thresholds", ()),
        )  # fmt: skip
        check_description(spec)
        spec = replace(spec, thresholds=tuple(spec.thresholds))
    except ModelError as error:
        raise RunError(f"{path} is not a model description of kerazoo: {error}") from error
    return spec


def _members(values: Any) -> tuple[Member, ...]:
    if not isinstance(values, list):
        raise ModelError(f"members must be a list, got {short(values)}")
    return tuple(map(Member.from_json, values))


def load_model(folder: str | Path) -> tuple[ModelSpec, "keras.Model"]:
    """The spec and the network that answers (`answering.py`), as `load_network` loads it."""
    from kerazoo.models.answering import answering_network  # it imports keras

    spec, network = load_network(folder)
    return spec, answering_network(spec, network)


def load_network(folder: str | Path) -> tuple[ModelSpec, "keras.Model"]:
    """The spec and the trained network stored in `folder`. Raises RunError, or WeightsError if the sha256 differs."""
    folder = Path(folder)
    spec = load_spec(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise RunError(f"{folder} has no {WEIGHTS}: the run did not finish; train it again")
    recorded = read_json(folder / DESCRIPTION).get("weights_sha256")
    digest = sha256(weights)
    if recorded != digest:
        raise WeightsError(
            f"{weights} was changed: its sha256 is {digest[:16]}, but {str(recorded)[:16]} is recorded; restore it, or "
            "train again"
        )
    try:
        check_size(spec, weights)
        model = spec.build()
    except ModelError as error:
        raise RunError(f"{folder / DESCRIPTION} describes a model that cannot be loaded: {error}") from error
    if digest in _WRITTEN:
        model.load_weights(weights)
    else:
        load_whole(model, weights)
    return spec, model
