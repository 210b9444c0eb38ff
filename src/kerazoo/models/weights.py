"""Loading pretrained features into a network: shipped weights, a kerazoo model folder, or a weights file."""

from pathlib import Path
from typing import TYPE_CHECKING

from kerazoo.errors import KerazooError, WeightsError
from kerazoo.models.stored import DESCRIPTION, load_model

if TYPE_CHECKING:
    import keras

SHIPPED = Path(__file__).parent / "pretrained"  # <network>_<weights>/ holds a model on disk


def shipped(name: str, weights: str) -> Path:
    """The folder of the weights called `weights` that ship for network `name`. Raises WeightsError."""
    folder = SHIPPED / f"{name}_{weights}"
    if not (folder / DESCRIPTION).is_file():
        names = sorted(p.name.removeprefix(f"{name}_") for p in SHIPPED.glob(f"{name}_*"))
        has = f"it has {', '.join(names)}" if names else "it has none"
        raise WeightsError(f"{name} ships no weights called {weights!r} ({has}); name a file or run folder, or none")
    return folder


def load_features(model: "keras.Model", source: Path) -> None:
    """Fill every layer of `model` below its head from `source`; the head keeps its random weights.

    `source` is a folder with a kerazoo model of the same architecture (any number of classes, any input size that
    leaves the weights' shapes as they are), or a Keras weights file (.h5, .weights.h5) of the network without its
    head. Raises WeightsError where the file is missing, damaged, or of another architecture.
    """
    from kerazoo.models.heads import feature_extractor

    features = feature_extractor(model)
    if source.is_dir():
        _, stored = load_model(source)
        _copy(feature_extractor(stored), features, source)
    elif source.is_file():
        _load_file(features, source)
    else:
        raise WeightsError(f"there is no weights file or model folder {source}")


def _copy(stored: "keras.Model", features: "keras.Model", source: Path) -> None:
    old, new = ([(layer.name, layer) for layer in m.layers if layer.weights] for m in (stored, features))
    shapes = [[tuple(w.shape) for _, layer in side for w in layer.weights] for side in (old, new)]
    if stored.name != features.name or shapes[0] != shapes[1]:
        raise WeightsError(
            f"the weights in {source} are of {_name(stored)}, which does not fit {_name(features)} as it is built here"
        )
    for (_, giver), (_, taker) in zip(old, new, strict=True):
        taker.set_weights(giver.get_weights())


def _load_file(features: "keras.Model", source: Path) -> None:
    import h5py

    if not h5py.is_hdf5(source):
        raise WeightsError(f"{source} is not a Keras weights file (HDF5): it may be cut short or something else")
    path = source
    try:
        features.load_weights(path)
    except KerazooError:
        raise
    except Exception as error:  # Keras raises ValueError, KeyError, OSError and others for files that do not fit
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(f"the weights in {source} do not fit {_name(features)}: {reason}") from error


def _name(model: "keras.Model") -> str:
    return str(model.name).removesuffix("_features")
