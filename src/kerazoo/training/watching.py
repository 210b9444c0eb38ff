"""The logging callbacks of a run: what they log, and where they write; see `callbacks`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import keras
import numpy as np

from kerazoo.callbacks.epochs import EpochMetrics
from kerazoo.callbacks.feature_maps import FeatureMapLogger
from kerazoo.callbacks.gradients import GradientLogger
from kerazoo.callbacks.weights import WeightLogger
from kerazoo.callbacks.writers.folder import RunWriter
from kerazoo.models.backbone import Backbone
from kerazoo.models.registry import Network
from kerazoo.pipelines.input.batches import evaluation_batches
from kerazoo.runs.run import Run
from kerazoo.training.plan import Plan


@contextmanager
def logging_callbacks(
    run: Run, plan: Plan, *, epochs: int = 0
) -> Iterator[Callable[[keras.Model], list[keras.callbacks.Callback]]]:
    """Give a function model -> the logging callbacks of a run, which write into its folder until the context ends.

    Their entries of the first `epochs` are kept.
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

    with RunWriter(run.folder, epochs=epochs) as writer:
        yield watch


def log_kept(
    model: keras.Model, levels: Mapping[str, Mapping[str, float]], run: Run, plan: Plan, *, epochs: int
) -> None:
    """Draw the feature maps of the `model` that was kept after all `epochs`, as of one step more.

    `levels`, name -> loss and metric, become lines across the epochs in TensorBoard, each as a run of its own.
    """
    if not plan.recipe.log:
        return
    with RunWriter(run.folder, epochs=epochs) as writer:
        for name, values in levels.items():
            writer.level(name.partition(":")[0], values, epochs)
        if "feature_maps" not in plan.recipe.log:
            return
        maps = FeatureMapLogger(writer, _probe(plan), _taps(model, plan.entry))
        maps.set_model(model)
        maps.record(plan.steps * epochs + 1)


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
