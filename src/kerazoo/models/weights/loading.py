"""Load pretrained weights into a network, from shipped weights, a kerazoo model folder, or a weights file."""

import hashlib
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kerazoo.errors import WeightsError
from kerazoo.files import DamagedError
from kerazoo.models.backbone import Backbone
from kerazoo.models.hub.loading import is_preset, load_preset
from kerazoo.models.keras_applications import BACKBONES
from kerazoo.models.saved import DESCRIPTION, WEIGHTS, load_network
from kerazoo.models.weights.channels import adapt_input_channels
from kerazoo.models.weights.scaling_layers import has_published_scaling, scaling_layers
from kerazoo.models.weights.sources import check_source
from kerazoo.models.weights.weights_file import SPARE, Shape, WeightsFile, copy_of, numbers_of

if TYPE_CHECKING:
    import keras

CLASSIFIER = 6  # largest number of arrays of a classifier: VGG has three dense layers
BY_NAME = {backbone.name: backbone for backbone in BACKBONES}


def load_features(model: "keras.Model", source: str | Path, *, scaling: str | None = None) -> None:
    """Load weights from `source` into all layers of `model` below its head; the head keeps its random weights.

    `source` is a folder with a kerazoo model of the same architecture (with any number of classes, and any input size
    for which the weights have the same shapes), or a Keras weights file (.h5, .weights.h5) of the network without its
    head. Weights for three channels can be used in a backbone with any number of channels (see `channels.py`).
    `scaling` says how the network of a backbone's file scaled pixels, "published" or "plain", if the file does not
    record it (see `scaling_layers.py`). Raises WeightsError if the source is missing or damaged, has another
    architecture or numbers that are not finite, or does not record its scaling.
    """
    from kerazoo.models.heads.classifier import feature_extractor

    features = feature_extractor(model)
    source = Path(source)
    if source.name == WEIGHTS and (source.parent / DESCRIPTION).is_file():
        source = source.parent  # the folder of a run describes the file
    if not is_preset(source):
        check_source(source)
    if is_preset(source):
        load_preset(features, source)
    elif source.is_dir():
        spec, network = load_network(source)
        if spec.members:
            raise WeightsError(f"{source} has the weights of {len(spec.members)} networks; use one of its folds")
        stored = feature_extractor(network)
        if stored.name != features.name or not _give(stored, features):
            raise WeightsError(
                f"the weights in {source} are for {_name(stored)}; they do not fit this {_name(features)}"
            )
    else:
        _load_file(features, source, scaling)
    for weight in features.weights:
        if not np.isfinite(np.asarray(weight)).all():
            raise WeightsError(
                f"the weights in {source} are not finite in {weight.path}, probably because training "
                "diverged; use others"
            )


def copy_weights(giver: "keras.Model", taker: "keras.Model") -> None:
    """Copy the weights of `giver` into `taker`, which has the same variables in the same order."""
    taker.set_weights(giver.get_weights())
    _finalize(taker)


def _finalize(model: "keras.Model") -> None:
    for layer in model.layers:
        if hasattr(layer, "finalize_state"):  # Normalization uses values that it derives from its weights
            layer.finalize_state()


def weights_digest(model: "keras.Model") -> str:
    """The sha256 of all weights of `model`, in order."""
    digest = hashlib.sha256()
    for array in model.get_weights():
        digest.update(array.tobytes())
    return digest.hexdigest()


def fold_scaling(features: "keras.Model", std: tuple[float, ...]) -> None:
    """Fold the factor 1 / sqrt(std), a layer that EfficientNet has only with published weights, into Normalization."""
    import keras

    norm = next(layer for layer in features.layers if isinstance(layer, keras.layers.Normalization))
    norm.adapt_variance.assign(norm.adapt_variance * keras.ops.reshape(list(std), norm.adapt_variance.shape))
    norm.finalize_state()


def _give(giver: "keras.Model", taker: "keras.Model") -> bool:
    """Copy the weights of `giver`, with the same channels or three, into `taker`; False if they do not fit."""
    if _shapes(giver) == _shapes(taker):
        copy_weights(giver, taker)
        return True
    entry = BY_NAME.get(_name(taker))
    if entry is None or not adapt_input_channels(giver, taker, entry.scaling_of(taker.input_shape[-1])):
        return False
    _finalize(taker)
    return True


def _load_file(features: "keras.Model", source: Path, scaling: str | None) -> None:
    try:
        with copy_of(source, numbers_of(features) + SPARE) as file:
            _take(features, source, file, scaling)
    except DamagedError as error:
        raise WeightsError(f"{source} is not a complete Keras weights file (HDF5): {error}; copy it again") from error


def _take(features: "keras.Model", source: Path, file: WeightsFile, scaling: str | None) -> None:
    """Load the clean copy of `source` into `features`. The shapes are compared before any array is read."""
    import h5py

    entry = BY_NAME.get(_name(features))
    taker = features
    shapes = file.weights()
    if entry is not None and features.input_shape[-1] != 3 and shapes != _shapes(features):
        features = _of_three(features, entry)
    more = _classifier(shapes, _shapes(features))
    if more:
        raise WeightsError(
            f"{source} contains {_name(features)} with its classifier ({more} more arrays); {_without(entry)}"
        )
    # Keras matches layers of the newer format by type and number, and does not report unused arrays
    if file.copy is None or (not file.legacy and shapes != _shapes(features)):
        raise WeightsError(
            f"the weights in {source} do not fit {_name(features)}: their {len(shapes)} arrays have other shapes than "
            f"its {len(features.weights)}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            features.load_weights(file.copy)
        with h5py.File(file.copy) as copy:
            saved = scaling_layers(copy)
    except Exception as error:  # Keras raises ValueError, KeyError, OSError and others for files that do not fit
        reason = " ".join(str(error).split())[:300]
        if "mismatch" in reason:
            reason = f"they are for another network ({reason})"
        raise WeightsError(f"the weights in {source} do not fit {_name(features)}: {reason}") from error
    if entry is not None and has_published_scaling(source, saved, features, entry.published_std, scaling):
        fold_scaling(features, entry.published_std)
    if taker is not features and not _give(features, taker):
        raise WeightsError(
            f"the weights in {source} do not fit {_name(taker)} with input {taker.input_shape[1:]}; use 3 channels"
        )


def _classifier(shapes: list[Shape], wanted: list[Shape]) -> int:
    """The number of arrays besides the wanted ones, if they look like those of a classifier; else 0."""
    missing = Counter(wanted) - Counter(shapes)
    more = Counter(shapes) - Counter(wanted)
    dense = all(len(shape) <= 2 or shape[:2] == (1, 1) for shape in more)  # MobileNet's is a 1x1 convolution
    return more.total() if dense and not missing and more.total() <= CLASSIFIER else 0


def _without(entry: Backbone | None) -> str:
    """The advice for a file with a classifier."""
    from kerazoo.models.weights.published import manifest

    if entry is not None and entry.name in manifest():
        return f"use the file without it, {manifest()[entry.name].file}: `kerazoo weights fetch {entry.name}`"
    return "use the folder of its run, or save `feature_extractor(model)` alone"


def _of_three(features: "keras.Model", entry: Backbone) -> "keras.Model":
    """The same network with the same image size, for three channels."""
    from kerazoo.models.heads.classifier import feature_extractor

    shape = (*features.input_shape[1:3], 3)
    return feature_extractor(entry.builder()(input_shape=shape, num_classes=1, **entry.arguments))


def _shapes(model: "keras.Model") -> list[Shape]:
    return sorted(tuple(weight.shape) for weight in model.weights)


def _name(model: "keras.Model") -> str:
    return str(model.name).removesuffix("_features")
