"""The logging callbacks of a run: what they log, and where they write; see `callbacks`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerazoo.callbacks.diagnostics import Diagnostics
from kerazoo.callbacks.epochs import EpochMetrics
from kerazoo.callbacks.feature_maps import FeatureMapLogger
from kerazoo.callbacks.gradients import GradientLogger
from kerazoo.callbacks.weights import WeightLogger
from kerazoo.callbacks.writers.opening import open_writers
from kerazoo.callbacks.writers.writer import GuardedWriter, Writer
from kerazoo.insight.findings.finding import Finding
from kerazoo.insight.grids import draw_images
from kerazoo.models.registry import Entry, Network
from kerazoo.pipelines.input.batches import TrainingBatches, evaluation_batches
from kerazoo.runs.run import Run
from kerazoo.training.plan import Plan

SHOWN = 40  # images of a finding


@contextmanager
def logging_callbacks(
    run: Run, plan: Plan, batches: TrainingBatches, validation: tf.data.Dataset
) -> Iterator[Callable[[keras.Model], list[keras.callbacks.Callback]]]:
    """Give a function model -> the logging callbacks of a run, which write into its folder until the context ends.

    Their entries from before the checkpoint of a resumed run are kept.
    """
    recipe = plan.recipe
    if not recipe.log:
        yield lambda model: []
        return
    probe = next(validation.as_numpy_iterator())[0][:1] if "feature_maps" in recipe.log else None

    def watch(model: keras.Model) -> list[keras.callbacks.Callback]:
        diagnostics = []
        if recipe.findings:
            own = "gradients" not in recipe.log  # they are not taken twice
            show = partial(show_examples, plan=plan, writer=writer)
            diagnostics.append(make_diagnostics(plan, batches, folder=run.folder, own_gradients=own, show=show))
        listeners: list[Writer] = [*writer.writers, *diagnostics]  # diagnostics take what the loggers write
        options = {"every": recipe.log_every, "histograms": bool(recipe.log_histograms)}
        loggers: list[keras.callbacks.Callback] = []
        if probe is not None:
            loggers.append(FeatureMapLogger(listeners, probe, _taps(model, plan.entry), **options))
        if "weights" in recipe.log:
            loggers.append(WeightLogger(listeners, filters=bool(recipe.log_histograms), **options))
        if "gradients" in recipe.log:
            loggers.append(GradientLogger(listeners, **options))
        return [*loggers, *diagnostics, EpochMetrics(writer)]

    with closing_writer(open_writers(recipe.log_to, run.folder, run.name)) as writer:
        writer.config(recipe.model_dump(mode="json"))
        yield watch


def log_kept(
    model: keras.Model, levels: Mapping[str, Mapping[str, float]], run: Run, plan: Plan, *, epochs: int
) -> None:
    """Draw the feature maps of the final `model` after all `epochs`, as one more step.

    `levels`, name -> loss and metric, become lines across the epochs, in TensorBoard each as a run of its own. Trackers
    other than TensorBoard do not get them.
    """
    recipe = plan.recipe
    if not recipe.log:
        return
    trackers = [name for name in recipe.log_to if name == "tensorboard"]
    with closing_writer(open_writers(trackers, run.folder, run.name)) as writer:
        writer.rewind(epochs * plan.steps, epochs)
        for level, values in levels.items():
            prefix = f"epoch/{level.partition(':')[0]}/"
            writer.remove(prefix)
            for step in sorted({0, epochs}):
                for name, value in values.items():
                    writer.scalar(f"{prefix}{name}", value, step)
        if "feature_maps" not in recipe.log:
            return
        maps = FeatureMapLogger(writer, _probe(plan), _taps(model, plan.entry))
        maps.set_model(model)
        maps.record(plan.steps * epochs + 1)


def make_diagnostics(
    plan: Plan, batches: TrainingBatches, *, folder: Path | None = None, writer: "Writer | list[Writer] | None" = None,
    own_gradients: bool = True, show: Callable[[Finding], None] | None = None,
) -> Diagnostics:  # fmt: skip
    """The diagnostics of a training by `plan` on `batches`; see `Diagnostics`."""
    return Diagnostics(
        writer, folder=folder, data=ProbeBatches(batches), order=None if plan.soft else batches.order,
        from_logits=True, pretrained=plan.source is not None, own_gradients=own_gradients, show=show,
        keeps_best=plan.recipe.training.early_stopping is not None,
    )  # fmt: skip


def show_examples(finding: Finding, *, plan: Plan, writer: GuardedWriter) -> None:
    """Write the training images that `finding` names: one image of the first of them, and their keys and labels."""
    train = plan.examples.split("train").take(list(finding.examples))
    steps = plan.steps * int(plan.recipe.training.epochs)
    batch = evaluation_batches(train.take(range(min(len(train), SHOWN))), plan.preprocessing, batch_size=SHOWN)
    writer.image(finding.name, draw_images(next(iter(batch.as_numpy_iterator()))[0]), steps)
    names = train.class_names
    rows = [f"{key}: {names[int(label)]}" for key, label in zip(train.keys, train.labels, strict=True)]
    writer.text(finding.name, "\n".join(rows), steps)


class ProbeBatches:
    """The training batches of the first epoch, as arrays, anew each time they are gone through."""

    def __init__(self, batches: TrainingBatches) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for batch in self.batches.at(0, 0).as_numpy_iterator():
            yield batch[0], batch[1]


@contextmanager
def closing_writer(writer: GuardedWriter) -> Iterator[GuardedWriter]:
    """Finishes `writer` when the context ends."""
    try:
        yield writer
    finally:
        writer.finish()


def _probe(plan: Plan) -> np.ndarray:
    """The first validation image, preprocessed, (1, H, W, C)."""
    batch = evaluation_batches(plan.examples.split("val").take([0]), plan.preprocessing)
    pixels: np.ndarray = next(iter(batch.as_numpy_iterator()))[0]
    return pixels


def _taps(model: keras.Model, entry: Entry) -> Sequence[str] | None:
    """The layers whose feature maps are drawn: the stages of a backbone; None chooses those of a network by size."""
    if isinstance(entry, Network):
        return None
    known = {layer.name for layer in model.layers}
    return [stage for stage in entry.stages if stage in known]
