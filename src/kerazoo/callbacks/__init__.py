"""What watches a network learn. Observers only: training with them is bit-equal to training without.

Each logger takes a writer, or a list of writers, and a period (`every=`); what it writes is a fixed set of tags. Each
name is imported when it is first used, so that no tracker is imported that is not asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kerazoo.callbacks.diagnostics import Diagnostics
    from kerazoo.callbacks.epochs import EpochMetrics
    from kerazoo.callbacks.feature_maps import FeatureMapLogger
    from kerazoo.callbacks.gradients import GradientLogger
    from kerazoo.callbacks.metrics import MetricsWriter
    from kerazoo.callbacks.progress import Progress
    from kerazoo.callbacks.resume import Resume
    from kerazoo.callbacks.weights import WeightLogger
    from kerazoo.callbacks.writers.folder import FolderWriter
    from kerazoo.callbacks.writers.histograms import read_histograms
    from kerazoo.callbacks.writers.mlflow import MlflowWriter
    from kerazoo.callbacks.writers.tensorboard import TensorBoardWriter
    from kerazoo.callbacks.writers.trackio import TrackioWriter
    from kerazoo.callbacks.writers.wandb import WandbWriter
    from kerazoo.callbacks.writers.writer import Writer
    from kerazoo.insight.curves import curves_of, draw_curves

__all__ = [
    "Diagnostics", "EpochMetrics", "FeatureMapLogger", "FolderWriter", "GradientLogger", "MetricsWriter",
    "MlflowWriter", "Progress", "Resume", "TensorBoardWriter", "TrackioWriter", "WandbWriter", "WeightLogger", "Writer",
    "curves_of", "draw_curves", "read_histograms",
]  # fmt: skip

PLACES = {
    "Diagnostics": "kerazoo.callbacks.diagnostics",
    "EpochMetrics": "kerazoo.callbacks.epochs",
    "FeatureMapLogger": "kerazoo.callbacks.feature_maps",
    "FolderWriter": "kerazoo.callbacks.writers.folder",
    "GradientLogger": "kerazoo.callbacks.gradients",
    "MetricsWriter": "kerazoo.callbacks.metrics",
    "MlflowWriter": "kerazoo.callbacks.writers.mlflow",
    "Progress": "kerazoo.callbacks.progress",
    "Resume": "kerazoo.callbacks.resume",
    "TensorBoardWriter": "kerazoo.callbacks.writers.tensorboard",
    "TrackioWriter": "kerazoo.callbacks.writers.trackio",
    "WandbWriter": "kerazoo.callbacks.writers.wandb",
    "WeightLogger": "kerazoo.callbacks.weights",
    "Writer": "kerazoo.callbacks.writers.writer",
    "curves_of": "kerazoo.insight.curves",
    "draw_curves": "kerazoo.insight.curves",
    "read_histograms": "kerazoo.callbacks.writers.histograms",
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used (PEP 562)."""
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(importlib.import_module(PLACES[name]), name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
