"""Detect how the network of a weights file scaled pixels, and whether our network does the same.

keras.applications puts `Rescaling` and `Normalization` layers into some networks, depending on arguments that a file
does not record. EfficientNet B0 to B7 have one more `Rescaling`, by 1 / sqrt(std), if they are built with
weights="imagenet". EfficientNetV2, MobileNetV3 and ConvNeXt have none with include_preprocessing=False. All these
variants have the same arrays. The file's list of layers, the values of the `Normalization`, and the published hashes
usually identify the variant. If they do not, the user must set `transfer.scaling`.
"""

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kerazoo.errors import WeightsError
from kerazoo.models.weights.published import file_problem, published

if TYPE_CHECKING:
    import h5py
    import keras


IMAGENET_MEAN = (0.485, 0.456, 0.406)
NEAR = 1e-3  # allowed difference from the published numbers, for float32 and a conversion
KINDS = ("rescaling", "normalization")
LAYER = re.compile(r"(?:\w*_prestem_)?(rescaling|normalization)(?:_\d+)?")  # ConvNeXt has its own names

Layers = Counter[str]


def scaling_layers(file: "h5py.File") -> Layers | None:
    """The number of layers of each of KINDS in the saved network; None if the file does not list its layers."""
    root = file.get("model_weights", file)  # a whole model in the older format
    if "layer_names" in root.attrs:
        names = [name.decode() if isinstance(name, bytes) else str(name) for name in root.attrs["layer_names"]]
        return _count(names)
    layers = root.get("layers")
    if layers is None or "input_layer" not in layers:  # a network always has an input layer
        return None
    return _count(list(layers))


def has_published_scaling(
    source: Path, saved: Layers | None, features: "keras.Model", std: tuple[float, ...], scaling: str | None
) -> bool:
    """Whether the network in `source` scaled pixels by 1 / sqrt(`std`) after its Normalization, which ours does not.

    `features` has the weights of the file. `std` is empty for networks without such a layer. `scaling` is the user's
    setting: "published", "plain" (as keras.applications builds it with weights=None), or None. Raises WeightsError
    if the scaling cannot be determined, and if the network had other scaling layers.
    """
    if scaling is not None:
        return bool(std) and scaling == "published"
    built = _built(features)
    if not std:
        if saved is not None and saved != built and not _is_published(source, features):
            raise WeightsError(
                f"{source} was saved from a network with {_words(saved)}, but {_name(features)} has {_words(built)}, "
                "so its pixels may have been scaled differently; set transfer.scaling=published if it was trained on "
                "pixels scaled as for the published weights"
            )
        return False
    mean, variance = _normalization(features)
    imagenet = _near(mean, IMAGENET_MEAN) and _near(variance, std)
    if saved == built and not imagenet:
        return False
    if imagenet and saved == built + Layers(rescaling=1):
        return True
    if _is_published(source, features):
        return True
    if saved is None and _near(mean, np.zeros_like(mean)) and _near(variance, np.ones_like(variance)):
        return False  # weights="imagenet" never gives these values
    raise WeightsError(
        f"{source} is not the file that Keras publishes, and does not record how its pixels were scaled; set "
        "transfer.scaling=published if its network was built with weights='imagenet' (or it is a copy of the published "
        "file), or transfer.scaling=plain if it was built with weights=None or a path"
    )


def _count(names: list[str]) -> Layers:
    return Layers(match[1] for match in map(LAYER.fullmatch, names) if match)


def _built(features: "keras.Model") -> Layers:
    import keras

    kinds = {keras.layers.Rescaling: "rescaling", keras.layers.Normalization: "normalization"}
    return Layers(kinds[type(layer)] for layer in features.layers if type(layer) in kinds)


def _normalization(features: "keras.Model") -> tuple[np.ndarray, np.ndarray]:
    import keras

    norm = next(layer for layer in features.layers if isinstance(layer, keras.layers.Normalization))
    return np.asarray(norm.adapt_mean), np.asarray(norm.adapt_variance)


def _near(values: np.ndarray, wanted: tuple[float, ...] | np.ndarray) -> bool:
    return values.shape == np.shape(wanted) and bool(np.abs(values - np.asarray(wanted)).max() < NEAR)


def _is_published(source: Path, features: "keras.Model") -> bool:
    entry = published(_name(features))
    return entry.checked_by != "structure" and not file_problem(source, entry)


def _words(layers: Layers) -> str:
    return " and ".join(f"{layers[kind]} {kind.capitalize()}" for kind in KINDS) + " layers"


def _name(features: "keras.Model") -> str:
    return str(features.name).removesuffix("_features")
