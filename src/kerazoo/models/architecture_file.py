"""Read the architecture of a Keras model from a file: what `model.to_json()` gives (.json), or a .keras file.

Of a .keras file only `config.json` is read, not the weights. The file may come from anywhere, and names classes that
Keras would import. So every class is checked before anything is built: it must be a layer, an operation, an
initializer, a regularizer, a constraint or a dtype policy of Keras, or a layer of kerazoo. The variables of the network
have shapes but no values.
"""

import importlib
import json
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from kerazoo.errors import ModelError
from kerazoo.files import open_regular
from kerazoo.keras_private import without_variables

ENDINGS = (".json", ".keras")
MOST_BYTES = 32 << 20
CONFIG = "config.json"  # in a .keras file
# layers that run code of their own, or read files
REFUSED = {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "StringLookup", "IntegerLookup",
           "TextVectorization"}  # fmt: skip
STRUCTURES = {"__keras_tensor__", "__tuple__", "__slice__", "__ellipsis__", "__numpy__", "__tensor__"}
OWN = "kerazoo>"


def load_architecture(path: str | Path) -> keras.Model:
    """The model in a file, without values of weights. Raises ModelError if it is missing, damaged or not allowed."""
    path = Path(path)
    values = _read(path)
    values.pop("compile_config", None)
    values.pop("build_config", None)
    for name in ("layers", "whitening"):  # so that their layers are registered
        importlib.import_module(f"kerazoo.models.{name}")
    for described in _objects(values):
        _check(path, described)
    try:
        with without_variables():
            model = keras.saving.deserialize_keras_object(values, safe_mode=True)
    except Exception as error:  # Keras raises errors of many kinds for a bad config
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"{path} does not describe a model that Keras can build: {lines[0][:200]}") from error
    if not isinstance(model, keras.Model):
        raise ModelError(f"{path} describes {type(model).__name__}, not a model")
    return model


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                if archive.getinfo(CONFIG).file_size > MOST_BYTES:
                    raise ModelError(f"{path}: {CONFIG} is larger than {MOST_BYTES:,} bytes")
                text = archive.read(CONFIG)
        else:
            with open_regular(path) as file:
                text = file.read(MOST_BYTES + 1)
            if len(text) > MOST_BYTES:
                raise ModelError(f"{path} is larger than {MOST_BYTES:,} bytes")
        values = json.loads(text)
    except (OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelError(
            f"{path} must be a file that model.to_json() made (.json), or a .keras file: {error}"
        ) from error
    if not isinstance(values, dict) or "class_name" not in values:
        raise ModelError(f"{path} must be a file that model.to_json() made (.json), or a .keras file")
    return values


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every description of an object in `value`."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if "class_name" in one:
                yield one
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _check(path: Path, described: dict[str, Any]) -> None:
    """Raise ModelError unless the object is one that may be built."""
    name = described["class_name"]
    module = described.get("module")
    registered = described.get("registered_name")
    if isinstance(name, str) and name in STRUCTURES:
        return
    if isinstance(registered, str) and registered.startswith(OWN):
        # Keras would build a class without a module by its name alone
        known = keras.saving.get_registered_object(registered) is not None
        if known and isinstance(module, str) and registered == f"{OWN}{name}":
            return
    elif registered in (None, name) and isinstance(name, str) and name not in REFUSED and _is_of_keras(module, name):
        return
    raise ModelError(
        f"{path} has {f'{module}.{name}'!r:.100}, which is not a class of Keras that may be built from a file; build "
        "the model in Python, and give it to kerazoo.anatomy"
    )


def _is_of_keras(module: Any, name: str) -> bool:
    """Whether it is a class of a kind that describes a network, in a module of Keras."""
    if not isinstance(module, str) or module.partition(".")[0] != "keras":
        return False
    kinds = (
        keras.Layer, keras.Operation, keras.initializers.Initializer, keras.regularizers.Regularizer,
        keras.constraints.Constraint, keras.dtype_policies.DTypePolicy,
    )  # fmt: skip
    found = getattr(sys.modules.get(module), name, None)
    return isinstance(found, type) and issubclass(found, kinds)
