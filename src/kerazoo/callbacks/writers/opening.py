"""The writers of a run, by name."""

import difflib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kerazoo.callbacks.writers.folder import FolderWriter
from kerazoo.callbacks.writers.trackers import check_installed
from kerazoo.callbacks.writers.writer import GuardedWriter, Writer
from kerazoo.errors import InputError

log = logging.getLogger("kerazoo")

PROJECT = "kerazoo"  # or experiment


def open_writers(
    names: Sequence[str], folder: str | Path, run_name: str, config: Mapping[str, Any] | None = None
) -> GuardedWriter:
    """A `FolderWriter` into `folder`, and beside it one for each tracker in `names`.

    Trackers keep their files in `folder`, where their own settings in the environment do not say otherwise:
    `tensorboard/`, `wandb/`, `trackio/`, `mlflow.db`. Where nobody is logged in, W&B works offline.

    Args:
        names: Of TRACKERS.
        folder: Folder of the run.
        run_name: What trackers call the run.
        config: Settings of the training, for all writers.

    Raises InputError for a name that is unknown, a tracker that is not installed, and a folder that cannot be written.

    Example:
    ```python
    writer = open_writers(["tensorboard", "mlflow"], "log", "first", {"learning_rate": 0.1})
    ```
    """
    check_trackers(names)
    place = Path(folder)
    writers: list[Writer] = [FolderWriter(place)]
    writers += [TRACKERS[name](place, run_name) for name in dict.fromkeys(names)]
    writer = GuardedWriter(writers)
    if config is not None:
        writer.config(config)
    return writer


def check_trackers(names: Sequence[str]) -> None:
    """Raise InputError for a name that is not of TRACKERS, or a tracker that is not installed."""
    for name in names:
        if name not in TRACKERS:
            close = difflib.get_close_matches(str(name).lower(), TRACKERS, 1, cutoff=0.0)
            raise InputError(
                f"there is no tracker {name!r:.80}; the nearest is {close[0]}, and all are {', '.join(TRACKERS)}"
            )
        check_installed(name, extra=name)


def _tensorboard(folder: Path, run_name: str) -> Writer:
    from kerazoo.callbacks.writers.tensorboard import TensorBoardWriter

    return TensorBoardWriter(folder / "tensorboard")


def _wandb(folder: Path, run_name: str) -> Writer:
    from kerazoo.callbacks.writers.wandb import WandbWriter, is_logged_in

    writer = WandbWriter(os.environ.get("WANDB_PROJECT", PROJECT), name=run_name, folder=folder)
    if not os.environ.get("WANDB_MODE") and not is_logged_in():
        log.info(f"W&B: nobody is logged in; files go to {folder / 'wandb'}, and `wandb sync` uploads them")
        writer.init["mode"] = "offline"
    return writer


def _trackio(folder: Path, run_name: str) -> Writer:
    from kerazoo.callbacks.writers.trackio import TrackioWriter

    own = any(os.environ.get(name) for name in ("TRACKIO_DIR", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"))
    return TrackioWriter(PROJECT, name=run_name, folder=None if own else folder / "trackio")


def _mlflow(folder: Path, run_name: str) -> Writer:
    from kerazoo.callbacks.writers.mlflow import MlflowWriter

    return MlflowWriter(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT), name=run_name, folder=folder)


TRACKERS: dict[str, Callable[[Path, str], Writer]] = {
    "tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio, "mlflow": _mlflow,
}  # fmt: skip
