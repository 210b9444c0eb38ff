"""Gradients and updates under `fit`: how large they are in each layer, and how far they move its weights."""

import logging
from typing import Any

import keras
import numpy as np

from kerazoo.callbacks.gradient_sums import GraphSums, Row, Sums
from kerazoo.callbacks.histograms import EDGES
from kerazoo.callbacks.steps import PeriodicLogger
from kerazoo.callbacks.taps import Taps, clips, single_optimizers, stale_freeze
from kerazoo.callbacks.writers.writer import Writer
from kerazoo.errors import ModelError

log = logging.getLogger("kerazoo")


class GradientLogger(PeriodicLogger):
    """Logs gradients and updates of every trainable variable, and of all of them together (`global`).

    The gradients are those of the loss: unscaled where the loss is scaled, the mean of a batch, of the batches that are
    accumulated, and of all replicas. A record sums up all steps since the record before:

    - `gradients/PATH/norm` and `/max_norm`: mean and largest L2 norm of the updates' gradients, before clipping;
    - `gradients/PATH/mean_square`: the mean of ||g||^2 / (number of weights);
    - `gradients/PATH/clipped_norm` and `/clipped`, only where an optimizer clips: the mean norm after clipping, and the
      share of updates in which clipping changed it;
    - `updates/PATH/ratio`: the mean of ||w_after - w_before|| / ||w_before||, of what the optimizer did, not of the
      gradient; around 1e-3 is usual. It is left out while all weights are 0;
    - `gradients/PATH/log10`, with `histograms`: a histogram of log10 |g|, and `gradients/PATH/zero`, the share of
      gradients that are exactly 0;
    - `gradients/PATH/not_finite`: the first step whose gradient held NaN or infinity, once there is one.

    Ratios and histograms are of every 20th step, or of every step that `every` asks for if that is more.

    It observes only: weights, optimizer state and losses are equal, bit for bit, to those of a training without it.
    It works on any model, built or not, with one optimizer or several, under XLA, loss scaling, accumulation and
    mirrored replicas, and with `steps_per_execution` over 1, where a record is written after the execution in which it
    is due. Over several processes norms before clipping are not known, and NaN where the optimizer clips. On the JAX
    backend the model must be built.

    Args:
        writer: A `Writer`, or a list of them.
        every: "epoch", "N epochs", or a number of steps.
        histograms: Also log histograms.

    Raises:
        InputError: if `writer` or `every` is not one.
        ModelError: when training begins, if gradients of this model cannot be had.

    Example:
    ```python
    writer = kerazoo.callbacks.FolderWriter("log")
    model.fit(x, y, callbacks=[kerazoo.callbacks.GradientLogger(writer, every=50)])
    ```
    """

    def __init__(
        self, writer: "Writer | list[Writer]", *, every: int | str = "epoch", histograms: bool = False
    ) -> None:
        super().__init__(writer, every)
        self.histograms = histograms
        self._sums: Any = None
        self._taps: Any = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Put the taps in place and have `fit` trace its step anew."""
        super().on_train_begin(logs)
        self._sums = None
        if stale_freeze(self.model):  # `fit`, which traces its step anew for the taps, would then train other weights
            log.info("no gradients are logged: layers were frozen or unfrozen since `compile`; compile the model again")
            return
        backend = keras.config.backend()
        if backend == "tensorflow":
            period = self.period.steps
            self._sums = GraphSums(self.model, period=period, histograms=self.histograms, step=self.step)
            self._sums.prepare()  # here and not in a replica's step, where variables of a strategy cannot be made
            self._taps = Taps(self.model, self._sums)
        elif backend == "jax":
            from kerazoo.callbacks.jax_taps import HostSums

            self._sums = self._taps = HostSums(self.model, histograms=self.histograms, step=self.step)
        else:
            raise ModelError(
                f"gradients cannot be logged on the {backend} backend; set KERAS_BACKEND=tensorflow or jax"
            )
        self._taps.insert()

    def record(self, step: int) -> None:
        """Write what was summed up since the last record."""
        if self._sums is None:
            return
        sums = self._sums.take()
        clipping = any(clips(optimizer) for optimizer in single_optimizers(self.model))
        paths = list(self._sums.paths)
        for column, path in enumerate([*paths, "global"]):
            for tag, value in _scalars(sums, column, path, clipping):
                self.writer.scalar(tag, value, step)
        if self.histograms:
            for path, counts in zip(paths, sums.counts, strict=True):
                self.writer.histogram(f"gradients/{path}/log10", counts[:-1], EDGES, step)
                self.writer.scalar(f"gradients/{path}/zero", float(counts[-1] / max(counts.sum(), 1)), step)

    def state(self) -> dict[str, Any]:
        """The sums so far, for a checkpoint."""
        sums = {} if self._sums is None else self._sums.state()
        return {**super().state(), "sums": sums}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`, after `on_train_begin`."""
        super().restore(state)
        if self._sums is not None:
            self._sums.restore(state.get("sums", {}))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Take the taps out."""
        super().on_train_end(logs)
        if self._sums is not None:
            self._taps.remove()
            self._sums = None


def _scalars(sums: Sums, column: int, path: str, clipping: bool) -> list[tuple[str, float]]:
    """The tags and values of one variable's record; none where it got no gradient."""
    row = sums.table[:, column]
    updates = row[Row.UPDATES]
    values = []
    if updates:
        values += [
            (f"gradients/{path}/norm", row[Row.NORM] / updates),
            (f"gradients/{path}/max_norm", row[Row.LARGEST]),
            (f"gradients/{path}/mean_square", row[Row.SQUARE] / updates),
        ]
        if clipping:
            values += [
                (f"gradients/{path}/clipped_norm", row[Row.CLIPPED_NORM] / updates),
                (f"gradients/{path}/clipped", row[Row.CLIPS] / updates),
            ]
    if row[Row.SAMPLES]:
        values.append((f"updates/{path}/ratio", row[Row.RATIO] / row[Row.SAMPLES]))
    if sums.bad[column] >= 0:
        values.append((f"gradients/{path}/not_finite", np.float32(sums.bad[column])))
    return [(tag, float(value)) for tag, value in values]
