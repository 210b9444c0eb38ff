"""Where weights come from: names, files, runs, and what ships with the package."""

from pathlib import Path

from kerazoo.errors import WeightsError
from kerazoo.models.backbone import Backbone
from kerazoo.models.registry import Network, weight_names
from kerazoo.models.saved import DESCRIPTION, WEIGHTS
from kerazoo.models.weights.download import published_path

SHIPPED = Path(__file__).parent / "pretrained"  # <network>_<weights>/ holds a model on disk


def shipped(name: str, weights: str) -> Path:
    """The folder of the weights called `weights` that ship for network `name`. Raises WeightsError."""
    folder = SHIPPED / f"{name}_{weights}"
    if not (folder / DESCRIPTION).is_file():
        names = sorted(p.name.removeprefix(f"{name}_") for p in SHIPPED.glob(f"{name}_*"))
        has = f"it has {', '.join(names)}" if names else "it has none"
        raise WeightsError(f"{name} ships no weights called {weights!r} ({has}); name a file or run folder, or none")
    return folder


def check_weights(entry: Network | Backbone, weights: str) -> None:
    """Raise WeightsError if `weights` is neither a name that `entry` has nor the path of a weights file or model."""
    if weights in weight_names(entry):
        return
    path = Path(weights).expanduser()
    if not path.exists():
        names = ", ".join(weight_names(entry))
        raise WeightsError(
            f"there are no weights {weights!r} for {entry.name}; take {names}, or the path of a file or run"
        )
    check_source(path)


def weights_of(entry: Network | Backbone, weights: str | Path) -> Path | None:
    """The file or folder that `weights` names, None for "none"; published ones are fetched. Raises WeightsError."""
    check_weights(entry, str(weights))
    if weights == "none":
        return None
    if weights not in entry.weights:
        path = Path(weights).expanduser()
        return path.parent if path.name == WEIGHTS and (path.parent / DESCRIPTION).is_file() else path
    return published_path(entry.name) if isinstance(entry, Backbone) else shipped(entry.name, str(weights))


def check_source(source: Path) -> None:
    """Raise WeightsError if `source` is neither a file nor a folder with a model; it says what to name instead."""
    if source.suffix == ".keras" and source.is_file():
        raise WeightsError(
            f"{source} is a whole model, not a weights file; load it in Keras, save the weights without the classifier "
            "by model.save_weights('NAME.weights.h5'), and name that file"
        )
    if source.is_file() or (source / DESCRIPTION).is_file():
        return
    if not source.exists():
        raise WeightsError(f"there is no weights file or model folder {source}")
    if not source.is_dir():
        raise WeightsError(f"{source} is no regular file; name a weights file (.h5) or the folder of a run")
    if (source / "run.json").is_file():
        raise WeightsError(f"run {source} has no {DESCRIPTION}: it did not finish; finish it, or name another")
    if (source / "saved_model.pb").is_file():
        raise WeightsError(f"{source} is an export, which cannot be trained on; name the run that it was made from")
    runs = sorted(path.parent.name for path in source.glob(f"*/{DESCRIPTION}"))
    files = sorted(path.name for path in source.glob("*.h5"))
    inside = [*runs, *files]
    hint = f"; it holds {', '.join(inside[:3])}{' and others' if len(inside) > 3 else ''}: name one" if inside else ""
    raise WeightsError(
        f"{source} is not the folder of a run: it has no {DESCRIPTION}{hint or '; name a weights file (.h5) or a run'}"
    )
