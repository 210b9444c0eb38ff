"""The step that a training is at, and when a logger records: the base of all loggers with a period."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import keras

from kerazoo.callbacks.writers.writer import GuardedWriter, Writer
from kerazoo.period import Period


class PeriodicLogger(keras.callbacks.Callback, ABC):  # type: ignore[misc]
    """Calls `record(step)` after every so many steps or epochs; `every` is as `Period.of` takes it.

    - `step` counts the batches trained so far, from 1; `epoch` counts finished epochs. A new logger goes on from the
      optimizer's count.
    - After a step means: before the next batch, or at the end of the epoch. A hook at the end of a batch would make
      Keras wait for each step. With `steps_per_execution` > 1 a record comes at the first chance after it is due, and
      has the number of the last step taken.
    - `state()` and `restore(state)` are for `Resume`: each record comes once, also where a training was killed between
      two checkpoints. A logger with state of its own adds it to these.
    """

    def __init__(
        self, writer: "Writer | Sequence[Writer] | GuardedWriter", every: "int | str | Period" = "epoch"
    ) -> None:
        super().__init__()
        self.writer = GuardedWriter(writer)
        self.period = Period.of(every)
        self.step = 0
        self.epoch = 0
        self._epoch_start = 0  # steps before this epoch
        self._batches = 0  # of this epoch
        self._execution = 1  # steps in one
        self._seen = 0  # the last step that was looked at: in a resumed epoch, steps up to it come once more

    @abstractmethod
    def record(self, step: int) -> None:
        """Write what there is to write after `step` steps.

        On the JAX backend `fit` keeps the weights elsewhere within an epoch; `self.model` brings them back, which costs
        time: it must be asked for only where a record is due.
        """

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find the first step."""
        model = self.model
        self._execution = int(getattr(model, "steps_per_execution", 1))
        self.step = max(self.step, _steps_of(getattr(model, "optimizer", None)))
        self._epoch_start = self._seen = self.step

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note where the epoch begins."""
        self.epoch = epoch
        self._epoch_start = self.step
        self._batches = 0

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Record, where it is due after `batch` batches of the epoch; else leave `self.model` alone."""
        self._batches = batch + self._execution
        self._look(self._epoch_start + batch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Record, where it is due after the epoch or its last step."""
        steps = (self.params or {}).get("steps")
        self.epoch = epoch + 1
        self._look(self._epoch_start + (min(self._batches, steps) if steps else self._batches))
        self._epoch_start = self.step
        self._batches = 0
        if self.period.epoch_due(self.epoch):
            self.record(self.step)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Have on disk what was written."""
        self.writer.flush()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: step, epoch, and the steps before the epoch."""
        self.writer.flush()
        return {"step": self.step, "epoch": self.epoch, "epoch_start": self._epoch_start}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`; what the writer has of later steps and epochs comes again."""
        self.step = self._epoch_start = int(state["epoch_start"])
        self._seen = int(state["step"])
        self.epoch = int(state["epoch"])
        self.writer.rewind(self._seen, self.epoch)

    def _look(self, step: int) -> None:
        before, self._seen = self._seen, max(self._seen, step)
        self.step = step
        if self.period.steps_due(before, step):
            self.record(self.step)


def _steps_of(optimizer: Any) -> int:
    """The batches that `optimizer` has seen; 0 where there is none, or one that does not count."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of one that scales the loss
    iterations = getattr(optimizer, "iterations", None)
    if iterations is None:
        return 0
    return int(keras.ops.convert_to_numpy(iterations)) * (getattr(optimizer, "gradient_accumulation_steps", None) or 1)
