"""A model on disk: `model.json` (builder's name and arguments, preprocessing, class names) and `model.weights.h5`.

Loading runs only builders of the registry, never code from the file; the weights are checked by sha256 first.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerazoo.errors import RunError, WeightsError
from kerazoo.models.preprocessing import Preprocessing
from kerazoo.models.registry import build

if TYPE_CHECKING:
    import keras

DESCRIPTION, WEIGHTS = "model.json", "model.weights.h5"


@dataclass(frozen=True)
class ModelSpec:
    """All that rebuilds a network but its weights: `build(name, **arguments)`, its input, its answers.

    `temperature` divides the logits of classes and labels (Guo et al. 2017, arXiv:1706.04599); 1 leaves them alone.
    """

    name: str
    arguments: Mapping[str, Any]
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    head: str = "multiclass"
    temperature: float = 1.0

    def build(self) -> "keras.Model":
        """The network, with random weights."""
        return build(self.name, **self.arguments)

    def answers(self, logits: Any) -> Any:
        """(B, K) logits of the network -> (B, K) answers of its head, calibrated probabilities or plain numbers."""
        from kerazoo.models.heads import find_head

        return find_head(self.head).answers(logits / self.temperature)

    def to_json(self) -> dict[str, Any]:
        """As it is stored."""
        return {
            "name": self.name,
            "arguments": dict(self.arguments),
            "head": self.head,
            "preprocessing": self.preprocessing.to_json(),
            "class_names": list(self.class_names),
            "temperature": self.temperature,
        }


def save_model(folder: Path, spec: ModelSpec, model: "keras.Model") -> str:
    """Write both files into `folder`, weights first, each under a temporary name; the sha256 of the weights."""
    weights = folder / WEIGHTS
    temporary = folder / f"model.{os.getpid()}.tmp.weights.h5"  # Keras insists on the ending
    try:
        model.save_weights(temporary)
        digest = sha256(temporary)
        temporary.replace(weights)
    finally:
        temporary.unlink(missing_ok=True)
    write_json(folder / DESCRIPTION, {**spec.to_json(), "weights_sha256": digest})
    return digest


def load_spec(folder: Path) -> ModelSpec:
    """The spec stored in `folder`. Raises RunError where there is none or it cannot be read."""
    values = read_json(folder / DESCRIPTION)
    try:
        # JSON has no tuples; builders take lists where they take sequences
        arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in values["arguments"].items()}
        return ModelSpec(
            values["name"], arguments, Preprocessing.from_json(values["preprocessing"]),
            tuple(values["class_names"]), values["head"], float(values.get("temperature", 1.0)),
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{folder / DESCRIPTION} is not a kerazoo model description: {error!r}") from error


def load_model(folder: Path) -> tuple[ModelSpec, "keras.Model"]:
    """The spec and the network stored in `folder`. Raises RunError, or WeightsError where the sha256 differs."""
    spec = load_spec(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise RunError(f"{folder} has no {WEIGHTS}: the run did not finish; train it again")
    recorded, found = read_json(folder / DESCRIPTION).get("weights_sha256"), sha256(weights)
    if recorded != found:
        raise WeightsError(f"{weights} has sha256 {found[:16]}, not {str(recorded)[:16]} as recorded: it was changed")
    model = spec.build()
    model.load_weights(weights)
    return spec, model


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, values: Any) -> None:
    """Write `values` to `path` whole or not at all."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` whole or not at all: a temporary name first, then a rename."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        # names that are no UTF-8 are written as \udcXX
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises RunError where the file is missing or broken."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"there is no {path}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise RunError(f"{path} does not hold a JSON object")
    return values
