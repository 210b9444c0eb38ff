"""The logging callbacks of a run: what they log, and where they write; see `callbacks`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import keras
import numpy as np

from kerazoo.callbacks.epochs import EpochMetrics
from kerazoo.callbacks.feature_maps import FeatureMapLogger
from kerazoo.callbacks.gradients import GradientLogger
from kerazoo.callbacks.weights import WeightLogger
from kerazoo.callbacks.writers.folder import FolderWriter
from kerazoo.callbacks.writers.tensorboard import TensorBoardWriter
from kerazoo.callbacks.writers.writer import GuardedWriter
from kerazoo.models.backbone import Backbone
from kerazoo.models.registry import Network
from kerazoo.pipelines.input.batches import evaluation_batches
from kerazoo.runs.run import Run
from kerazoo.training.plan import Plan


@contextmanager
def logging_callbacks(run: Run, plan: Plan) -> Iterator[Callable[[keras.Model], list[keras.callbacks.Callback]]]:
    """Gives a function model -> the watchers of a run, which write into its folder until the context ends.

    What they wrote before the checkpoint of a resumed run is kept: each has its place in the checkpoint.
    """
    if not plan.recipe.log:
        yield lambda model: []
        return
    probe = _probe(plan)

    def watch(model: keras.Model) -> list[keras.callbacks.Callback]:
        watchers = {
            "gradients": GradientLogger(writer),
            "weights": WeightLogger(writer),
            "feature_maps": FeatureMapLogger(writer, probe, _taps(model, plan.entry)),
        }
        return [*(watcher for name, watcher in watchers.items() if name in plan.recipe.log), EpochMetrics(writer)]

    with _writer(run) as writer:
        yield watch


def log_kept(
    model: keras.Model, levels: Mapping[str, Mapping[str, float]], run: Run, plan: Plan, *, epochs: int
) -> None:
    """Draw the feature maps of the `model` that was kept after all `epochs`, as of one step more.

    `levels`, name -> loss and metric, become lines across the epochs in TensorBoard, each as a run of its own.
    """
    if not plan.recipe.log:
        return
    with _writer(run) as writer:
        writer.rewind(epochs * plan.steps, epochs)
        for level, values in levels.items():
            prefix = f"epoch/{level.partition(':')[0]}/"
            writer.remove(prefix)
            for step in sorted({0, epochs}):
                for name, value in values.items():
                    writer.scalar(f"{prefix}{name}", value, step)
        if "feature_maps" not in plan.recipe.log:
            return
        maps = FeatureMapLogger(writer, _probe(plan), _taps(model, plan.entry))
        maps.set_model(model)
        maps.record(plan.steps * epochs + 1)


@contextmanager
def _writer(run: Run) -> Iterator[GuardedWriter]:
    """Writes into the folder of `run` until the context ends."""
    writer = GuardedWriter([FolderWriter(run.folder), TensorBoardWriter(run.folder / "tensorboard")])
    try:
        yield writer
    finally:
        writer.finish()


def _probe(plan: Plan) -> np.ndarray:
    """The first validation image, preprocessed, (1, H, W, C)."""
    batch = evaluation_batches(plan.examples.split("val").take([0]), plan.preprocessing)
    pixels: np.ndarray = next(iter(batch.as_numpy_iterator()))[0]
    return pixels


def _taps(model: keras.Model, entry: Network | Backbone) -> Sequence[str] | None:
    """The layers whose maps are drawn: a backbone's stages; None for those of a network, by size."""
    if isinstance(entry, Network):
        return None
    known = {layer.name for layer in model.layers}
    return [stage for stage in entry.stages if stage in known]
