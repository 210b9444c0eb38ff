"""All that was seen of a training, and the findings it comes to."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import keras
import numpy as np

from kerazoo.callbacks import probing
from kerazoo.callbacks.series import Series
from kerazoo.insight.findings import data as of_data
from kerazoo.insight.findings import learning as of_learning
from kerazoo.insight.findings import network as of_network
from kerazoo.insight.findings.finding import Finding
from kerazoo.keras_private import all_layers

PROBED = 512  # examples that dead units are looked for in: reference for "dead" is a set of at least that many
NORMED = 10  # batches that the statistics of batch norm are taken from
NOISE_PARTS = 16  # micro-batches of the noise scale
TIMED = 20  # steps, at least, before waiting is judged
FEWEST_STEPS, FEWEST_STEPS_OF_NOISE = 20, 50  # of a training, before its layers and its noise are judged
LARGEST_NOISE = 30_000_000  # weights: of larger networks 16 gradients cost too much
USUAL_BATCH = 64


@dataclass(frozen=True)
class Evidence:
    """What `Diagnostics` collected: see there. `records` are `StepRecords` or None, `data` as given.

    `last_loss` is the cross-entropy of the last steps. `margins` (N,) are means over `margin_epochs`. `moved` are the
    paths, of `frozen` variables, whose bits changed. `first` holds the pretrained weights by path. `keep_batch` writes
    the parts of a batch to a file and gives its path.
    """

    model: keras.Model
    records: Any
    series: Series
    data: Any
    expects: tuple[float, float] | None
    keeps_best: bool
    val_losses: Sequence[float]
    last_loss: float | None
    margins: np.ndarray | None
    margin_epochs: int
    frozen: int
    moved: Sequence[str]
    first: Mapping[str, np.ndarray]
    keep_batch: Callable[[Mapping[str, np.ndarray]], str]

    def findings(self) -> Iterator[Finding | None]:
        """What is found, None for each question that is answered well."""
        yield from self._of_steps()
        broken = self._non_finite()
        yield broken
        dead = {}
        if broken is None:
            dead = yield from self._of_layers()
        if self._steps() >= FEWEST_STEPS:
            yield from self._of_gradients(max(dead.values(), default=0.0))
        yield of_network.frozen_moves(self.moved, self.frozen)
        yield self._movement()
        if self.margins is not None:
            yield of_data.label_errors(self.margins, self.margin_epochs)

    def unseen(self) -> list[str]:
        """What could not be looked at, and why; one line each."""
        lines = []
        if self.records is None:
            lines.append(
                "losses, outputs and inputs of steps, the batch of a step that is not finite, waiting, label errors: "
                "they need the TensorFlow backend, one device, and a `compile` after the last change of `trainable`"
            )
        elif self.records.classes is None:
            lines.append("loss at the start, outputs, label errors: the loss is no cross-entropy over classes")
        elif self.margins is None:
            soft = self.records.value("soft")[0] > 0
            lines.append(f"label errors: {'labels are mixed' if soft else 'the order of the examples is not known'}")
        if self.data is None:
            lines.append("dead and saturated units, batch norm, noise scale: no data was given")
        elif self._steps() < FEWEST_STEPS:
            lines.append(f"updates, gradients, units, batch norm, noise: there were fewer than {FEWEST_STEPS} steps")
        return lines

    def _steps(self) -> float:
        """The steps that were taken; infinite if they are not known."""
        return float("inf") if self.records is None else float(self.records.value("step"))

    def _progress(self) -> float | None:
        """The cross-entropy of the last steps over the entropy of the labels."""
        entropy = self._label_entropy()
        return self.last_loss / entropy if entropy and self.last_loss is not None else None

    def _label_entropy(self) -> float:
        counts = None if self.records is None else self.records.label_counts
        if counts is None or not counts.sum():
            return 0.0
        shares = counts[counts > 0] / counts.sum()
        return float(-(shares * np.log(shares)).sum())

    def _of_steps(self) -> Iterator[Finding | None]:
        records = self.records
        if records is None:
            return
        lowest, highest, mean = map(float, records.value("input"))
        yield of_network.input_range(lowest, highest, mean, expects=self.expects, scaled=scales_inputs(self.model))
        if records.classes:
            yield of_learning.loss_at_start(float(records.value("start")[0]), records.classes)
            error, least = map(float, records.value("output"))
            yield of_network.output_activation(from_logits=records.from_logits, sum_error=error, lowest=least)
            if self.last_loss is not None and self._steps() >= FEWEST_STEPS:
                yield of_learning.nothing_learned(
                    self.last_loss, self._label_entropy(), steps=int(records.value("step"))
                )
        yield self._waiting()

    def _waiting(self) -> Finding | None:
        """From the time that steps waited; where no clock was allowed, from how fast the data come by themselves."""
        seconds, steps = self.records.seconds
        if steps < TIMED:
            return None
        if self.records.waited is not None:
            return of_data.data_bound(self.records.waited, seconds)
        if self.data is None or are_arrays(self.data):
            return None
        times = [time.perf_counter() for _ in islice(self.data, TIMED)][2:]
        return of_data.data_alone(float(np.mean(np.diff(times))) if len(times) > 1 else 0.0, seconds)

    def _of_layers(self) -> Generator[Finding | None, None, dict[str, float]]:
        """From what layers make of the data now; gives the shares of dead units."""
        if self.data is None or self._steps() < FEWEST_STEPS:
            yield of_data.overfitting(self.val_losses, None, kept_best=self.keeps_best)
            return {}
        probe = list(self._batches(PROBED))
        dead, saturated = probing.unit_shares(self.model, probe)
        images = sum(len(labels) for _, labels in probe)
        yield of_network.dead_units(dead, images=images, progress=self._progress())
        yield of_network.saturated_units(saturated)
        normed = list(islice(self._batches(None), NORMED))
        shifts, spreads, gap = probing.batch_norm_lag(self.model, normed)
        yield of_network.batch_norm_lag(shifts, spreads, gap=gap)
        if self._steps() >= FEWEST_STEPS_OF_NOISE:
            yield self._noise()
        train_loss = probing.inference_loss(self.model, probe)
        yield of_data.overfitting(self.val_losses, train_loss, kept_best=self.keeps_best)
        return dead

    def _of_gradients(self, dead: float) -> Iterator[Finding | None]:
        progress = self._progress()
        kernels = [variable.path for variable in self.model.trainable_variables if len(variable.shape) > 1]
        ratios = {path: self.series.of(f"updates/{path}/ratio") for path in kernels}
        ratios = {path: values for path, values in ratios.items() if values}
        yield of_learning.update_ratio(ratios, progress=progress, dead=dead)
        yield of_learning.unmoved(ratios)
        squares = {path: self.series.of(f"gradients/{path}/mean_square") for path in kernels}
        squares = {path: values for path, values in squares.items() if values}
        yield of_learning.gradients_by_depth(squares, progress=progress)
        yield of_learning.gradient_spikes(self.series.of("gradients/global/norm"), progress=progress)

    def _non_finite(self) -> Finding | None:
        """The first step whose loss was not finite, the layer, and its batch in a file."""
        step = -1 if self.records is None else int(self.records.value("bad_step"))
        if step < 0:
            firsts = [int(v[0]) for _, v in self.series.ending("gradients/", "/not_finite") if v]
            return of_learning.non_finite(min(firsts)) if firsts else None
        kept = self.records.bad_batch()
        if kept is None:
            return of_learning.non_finite(step)
        batch, weights = kept
        saved = self.keep_batch(batch)
        images = batch["x0"]
        rows = ~np.isfinite(images.reshape(len(images), -1).astype(np.float64)).all(axis=1)
        if rows.any():
            return of_learning.non_finite(step, cause="input", examples=np.flatnonzero(rows).tolist(), saved=saved)
        for variable, value in zip(self.model.variables, weights, strict=True):
            if not np.isfinite(value).all():
                return of_learning.non_finite(step, cause="weights", layer=variable.path, saved=saved)
        if sum(name.startswith("x") for name in batch) > 1:
            return of_learning.non_finite(step, saved=saved)
        layer = probing.first_bad_layer(self.model, images, weights)
        return of_learning.non_finite(step, cause="output" if layer else "loss", layer=layer, saved=saved)

    def _noise(self) -> Finding | None:
        """The noise scale of the end of the training."""
        if self.records is None or self.model.count_params() > LARGEST_NOISE or not self.model.trainable_variables:
            return None
        size = int(self.records.value("batch")[0])
        part = max(size // 8, 1)
        parts = [
            (x[start : start + part], y[start : start + part])
            for x, y in islice(self._batches(PROBED), NOISE_PARTS)
            for start in range(0, len(y) - part + 1, part)
        ][:NOISE_PARTS]
        norms, mean = probing.gradient_norms(self.model, parts)
        return of_learning.batch_against_noise(of_learning.noise_scale(norms, mean, part), size)

    def _movement(self) -> Finding | None:
        """How far pretrained weights moved, by the first part of their path; the last layer is the head."""
        moved: dict[str, list[float]] = {}
        now = {variable.path: variable for variable in self.model.trainable_variables}
        for path, first in self.first.items():
            norm = float(np.linalg.norm(first))
            if path in now and norm > 0:
                moved.setdefault(path.rpartition("/")[0], []).append(
                    float(np.linalg.norm(array_of(now[path]) - first)) / norm
                )
        if len(moved) < 2:
            return None
        *body, head = moved
        return of_network.feature_movement({block: max(moved[block]) for block in body}, max(moved[head]))

    def _batches(self, count: int | None) -> Iterator[tuple[Any, Any]]:
        """The batches of `data`, of `count` examples in all at most."""
        size = USUAL_BATCH if self.records is None else int(self.records.value("batch")[0]) or USUAL_BATCH
        seen = 0
        for batch in batches_of(self.data, size):
            if count is not None and seen >= count:
                return
            images, labels = batch[0], np.asarray(batch[1])
            seen += len(labels)
            yield images, labels


def are_arrays(data: Any) -> bool:
    """Whether it is (x, y) as two arrays."""
    return isinstance(data, tuple | list) and len(data) == 2 and all(hasattr(part, "shape") for part in data)


def batches_of(data: Any, size: int) -> Iterator[Any]:
    """The batches of (x, y), two arrays cut into such of `size`, or batches already."""
    if not are_arrays(data):
        yield from data
        return
    x, y = data
    for start in range(0, len(x), size):
        yield x[start : start + size], y[start : start + size]


def array_of(variable: Any) -> np.ndarray:
    """The values of a variable."""
    return np.array(keras.ops.convert_to_numpy(variable))


def scales_inputs(model: keras.Model) -> bool:
    """Whether one of the first layers scales or normalizes what comes in."""
    layers = [layer for layer in all_layers(model) if not isinstance(layer, keras.Model | keras.layers.InputLayer)]
    kinds = (
        keras.layers.Rescaling, keras.layers.Normalization, keras.layers.BatchNormalization,
        keras.layers.LayerNormalization,
    )  # fmt: skip
    return any(isinstance(layer, kinds) for layer in layers[:4])
