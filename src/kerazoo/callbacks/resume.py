"""Exact resume under `fit`: a training that was killed and resumed ends with the bits of one that never was.

What is kept: all variables of the model (weights, moving statistics, seeds of dropout), of the optimizer (slots,
averages, rate, count of steps) and of the metrics, on each replica; epoch and step; the history; and the state of the
callbacks beside it. The data needs none: its order and its augmentation are functions of (seed, epoch, position).
"""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import keras
import numpy as np

from kerazoo.callbacks.checkpoints import newest_checkpoint, newest_place, write_checkpoint
from kerazoo.callbacks.training_state import blank_of, components_of, parts_of, restore, scope_of, state_of
from kerazoo.errors import Interrupted, RunError
from kerazoo.keras_private import build_metrics, set_first_epoch

log = logging.getLogger("kerazoo")


class Resume(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes the state of a training into `folder`, and goes on from the newest state that it finds there.

        resume = Resume(folder, position=batches.start.assign)
        with resume.signals():
            model.fit(..., callbacks=resume.after(callbacks))

    It is the last of the callbacks. Of the others Keras's own are known (`ModelCheckpoint` by epochs only); any other
    one that has `state()` (JSON values and arrays) and `restore(state)` is kept by these. `fit` begins with the epoch
    that it left, whatever its `initial_epoch`, and still counts the steps before it left, which do nothing. Their
    batches are drawn and dropped, so the data must come in the same order again (`shuffle=False`, or an order that
    depends on the epoch alone); or else `position` is told the step at which the data of that epoch is to begin.

    A state is written when `seconds` (over 0) have passed since the last, or after every `steps` batches, and at the
    end. `epochs_only` is for several worker processes: metrics within an epoch differ from worker to worker. `write`
    False only reads: for all workers but the first. What cannot be written is said, and training goes on. `made_by`
    (JSON values; the digest of a recipe, for one) is kept with each state; one that was made by others is refused.

    The method, and what of `fit` it leans on: docs/decisions/0007-resume.md.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        position: Callable[[int], Any] | None = None,
        seconds: float = 60.0,
        steps: int | None = None,
        keep: int = 2,
        write: bool = True,
        epochs_only: bool = False,
        made_by: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.position = position
        self.seconds, self.steps, self.keep, self.writes, self.epochs_only = seconds, steps, keep, write, epochs_only
        self.made_by = dict(made_by or {})
        self.beside: tuple[keras.callbacks.Callback, ...] = ()
        self.rows: list[dict[str, float]] = []
        self._found = newest_checkpoint(folder, aside=write)
        self._signal: int | None = None
        self._metrics: list[list[np.ndarray]] | None = None
        self._undo: Callable[[], None] | None = None
        self._epoch = -1  # in no epoch

    @property
    def found(self) -> tuple[int, int] | None:
        """The (epoch, step) that training goes on from, both counted from 0; None where it starts anew."""
        return None if self._found is None else (self._found["epoch"], self._found["step"])

    def after(self, callbacks: Sequence[keras.callbacks.Callback]) -> list[keras.callbacks.Callback]:
        """`callbacks`, whose state it keeps from now on, and itself after them."""
        self.beside = tuple(callbacks)
        return [*callbacks, self]

    def initial_epoch(self, epochs: int) -> int:
        """The epoch for `fit` to begin with; `epochs`, where nothing is left to do."""
        if self._found is None:
            return 0
        return epochs if self._found["stopped"] else min(self._found["epoch"], epochs)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Restore all but the metrics, which `fit` resets once more."""
        self._last = time.monotonic()
        if self._found is None:
            return
        if not self.model.built:
            raise RunError(
                f"{self.folder} holds the state of a training, and {self.model.name} has no weights yet to put it "
                "into; build the model, or call it on a batch, before `fit`"
            )
        made_by = self._found.get("made_by") or {}  # states of older versions know nothing
        if other := [name for name, value in self.made_by.items() if made_by.get(name, value) != value]:
            raise RunError(
                f"the state in {self.folder} was made by another {other[0]}; resume with what it was begun with, or "
                "begin another run"
            )
        self._build_optimizer()
        self._set(self._variables(), self._found["variables"])
        set_first_epoch(self.model, self.initial_epoch(self.params["epochs"]))
        self.rows = list(self._found["rows"])
        kept = list(zip(self._found["names"], self._found["callbacks"], strict=True))
        for callback in self.beside:  # where another process writes, it has more of them
            name = type(callback).__name__
            index = next((i for i, (known, _) in enumerate(kept) if known == name), None)
            if index is None:
                raise RunError(f"{self.folder} was written without a callback {name}; take those it was begun with")
            restore(callback, kept.pop(index)[1])
        if kept and self.writes:
            log.info(
                f"the training in {self.folder} was stopped with callbacks that are missing now: "
                f"{', '.join(name for name, _ in kept)}; to go on with them, stop and pass them again (callbacks=[...])"
            )

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """In the first epoch after a restart: restore the metrics, and let the steps already taken do nothing."""
        self._epoch = epoch
        start = 0
        set_first_epoch(self.model, None)
        if self._found is not None:
            if epoch != self._found["epoch"]:
                raise RunError(
                    f"the training in {self.folder} goes on from epoch {self._found['epoch']}, counted from 0, and "
                    f"`fit` begins with {epoch}; give it initial_epoch={self._found['epoch']}"
                )
            start = self._found["step"]
            self._fill_history()
            if start:
                self._skip(start, self._found["metrics"])
            self._found = None
        if self.position is not None:
            self.position(start)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the state after `batch` steps of the epoch, where it is time."""
        if self._undo is not None:
            if batch < self._skipped:
                return
            self._undo()
        if self._signal is not None:
            self._leave(self._epoch, batch)
        if batch and not self.epochs_only and self._due(batch):
            self._write(self._epoch, batch)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Keep the metrics of the training steps: validation uses the same variables."""
        if self._epoch >= 0 and not self.epochs_only:
            self._metrics = [parts_of(variable) for variable in self._metric_variables()]

    def on_test_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Leave within a validation, as after the last step of its epoch."""
        if self._signal is not None and self._metrics is not None:
            self._leave(self._epoch, self.params["steps"])

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the state between two epochs, where it is time or the last."""
        if self._undo is not None:
            self._undo()
        self._metrics = None
        self.rows.append({"epoch": epoch, **{name: float(value) for name, value in (logs or {}).items()}})
        last = epoch + 1 >= self.params["epochs"] or self.model.stop_training
        if self._signal is not None and not last:
            self._leave(epoch + 1, 0)
        if last or self.epochs_only or self.steps is not None or 0 < self.seconds <= time.monotonic() - self._last:
            self._write(epoch + 1, 0)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Complete the history of a training that had ended before."""
        set_first_epoch(self.model, None)
        if self._found is not None:
            self._fill_history()
            self._found = None

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Within, SIGTERM and Ctrl-C end the training at its next step, after its state was written.

        It ends by `Interrupted`. A second one ends it at once.
        """

        def note(number: int, frame: FrameType | None) -> None:
            if self._signal is not None:
                raise KeyboardInterrupt
            self._signal = number
            log.info("stopping: the state is written first (once more: stop at once)")

        if threading.current_thread() is not threading.main_thread():
            yield  # signals go to the main thread
            return
        kept = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
            if self._signal is not None:  # in the last epoch, after its last step
                name = signal.Signals(self._signal).name
                raise Interrupted(
                    f"stopped by {name} after training; the same command or call goes on from there", self._signal
                )
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)

    def _due(self, batch: int) -> bool:
        if self.steps is not None:
            return bool((self._epoch * self.params["steps"] + batch) % self.steps == 0)
        return 0 < self.seconds <= time.monotonic() - self._last

    def _leave(self, epoch: int, step: int) -> None:
        assert self._signal is not None
        written = (step == 0 or not self.epochs_only) and self._write(epoch, step)
        saved = f"saved at epoch {epoch + 1}, step {step}; the same command or call goes on from there"
        name = signal.Signals(self._signal).name
        raise Interrupted(f"stopped by {name}: {saved if written else self._last_one()}", self._signal)

    def _last_one(self) -> str:
        """What the same command would go on from, where no more can be written."""
        place = newest_place(self.folder)
        if place is None:
            return "there is no checkpoint yet: the same command or call begins from the start"
        last = f"the last one, of epoch {place[0] + 1}, step {place[1]}, is kept"
        return f"{last}: the same command or call goes on from there"

    def _write(self, epoch: int, step: int) -> bool:
        """Whether it was written."""
        if not self.writes:
            return False
        self._build_optimizer()  # a signal may come before the first step, in which `fit` would build it
        if keras.config.backend() == "jax":
            self.model.jax_state_sync()
        state = {
            "epoch": epoch, "step": step, "stopped": bool(self.model.stop_training), "rows": self.rows,
            "made_by": self.made_by,
            "variables": [parts_of(variable) for variable in self._variables()],
            "metrics": self._metrics or [parts_of(variable) for variable in self._metric_variables()],
            "names": [type(callback).__name__ for callback in self.beside],
            "callbacks": [state_of(callback) for callback in self.beside],
        }  # fmt: skip
        try:
            write_checkpoint(self.folder, epoch, step, state, keep=self.keep)
        except OSError as error:
            log.info(f"no checkpoint could be written to {self.folder}: {error.strerror}; {self._last_one()}")
            return False
        finally:
            self._last = time.monotonic()
        return True

    def _build_optimizer(self) -> None:
        if not self.model.optimizer.built:
            with scope_of(self.model):
                self.model.optimizer.build(self.model.trainable_variables)

    def _variables(self) -> list[Any]:
        """All that training changes but the metrics, each once, in the order of the network."""
        metrics = {id(variable) for variable in self._metric_variables()}
        every = {id(variable): variable for variable in (*self.model.variables, *self.model.optimizer.variables)}
        return [variable for key, variable in every.items() if key not in metrics]

    def _metric_variables(self) -> list[Any]:
        return list(self.model.metrics_variables)

    def _set(self, variables: list[Any], values: list[list[np.ndarray]]) -> None:
        here, there = ([tuple(v.shape) for v in variables], [tuple(parts[0].shape) for parts in values])
        if here != there:
            raise RunError(
                f"the state in {self.folder} is of another network or optimizer: {len(there)} variables, here are "
                f"{len(here)}, or of other shapes; resume with what it was begun with"
            )
        for variable, parts in zip(variables, values, strict=True):
            components = components_of(variable)
            if len(parts) not in (1, len(components)):
                raise RunError(
                    f"the state in {self.folder} was written on {len(parts)} devices, here are {len(components)}; "
                    "resume with the same --devices"
                )
            for index, component in enumerate(components):
                component.assign(parts[index] if len(parts) > 1 else parts[0])

    def _fill_history(self) -> None:
        """Give Keras's own record the epochs that it has not seen."""
        record = self.model.history
        record.epoch = [int(row["epoch"]) for row in self.rows]
        names = [name for name in (self.rows[0] if self.rows else {}) if name != "epoch"]
        record.history = {name: [row[name] for row in self.rows if name in row] for name in names}

    def _skip(self, steps: int, metrics: list[list[np.ndarray]]) -> None:
        """Let the train function do nothing until step `steps`, but restore the metrics as they were there."""
        model, real, self._skipped = self.model, self.model.train_function, steps
        logs: dict[str, float] = {}

        def restore() -> None:
            self._set(self._metric_variables(), metrics)
            logs.update((name, float(value)) for name, value in model.get_metrics_result().items())

        def nothing(iterator: Any) -> dict[str, float]:
            if self.position is None:
                for _ in range(model.steps_per_execution):
                    next(iterator)
            if not logs:
                # Keras makes the metrics' variables as it traces the first step, where there is one TensorFlow device
                build_metrics(model, blank_of(iterator.element_spec))
                restore()
            return logs

        if len(self._metric_variables()) == len(metrics):
            restore()
        if keras.config.backend() == "jax":
            model.train_function = lambda state, iterator: (nothing(iterator), state)
        else:
            model.train_function = nothing

        def undo() -> None:
            model.train_function, self._undo = real, None

        self._undo = undo
