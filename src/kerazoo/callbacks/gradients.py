"""Gradient norms under `fit`, tapped where the optimizer receives the gradients.

The tap sits on `optimizer._all_reduce_sum_gradients` (Keras's TensorFlow backend): there gradients are unscaled and
summed over replicas. It writes norms to variables inside the compiled step, so no step waits for Python; they
are read once an epoch. The method is private to Keras: `tests/test_watchers.py` fails where a newer Keras moves it.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kerazoo.callbacks.writers import Writer

TAP = "_all_reduce_sum_gradients"


class GradientNorms(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes, of the steps of each epoch, for each trainable variable and for all of them together (`global`):

    - `gradients/PATH/mean_norm`, the mean L2 norm;
    - `gradients/PATH/max_norm`, the largest.

    TensorFlow backend only; on another backend it writes nothing. Config, checkpoints and results of the optimizer
    and the model stay as they were.
    """

    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self.writer = writer
        self._sums: tf.Variable | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Put the tap in place and have `fit` trace its step anew."""
        if keras.config.backend() != "tensorflow":
            return
        self._paths = [variable.path for variable in self.model.trainable_variables]
        self._sums = tf.Variable(tf.zeros(len(self._paths) + 1), trainable=False)
        self._maxima = tf.Variable(tf.zeros(len(self._paths) + 1), trainable=False)
        self._steps = tf.Variable(0.0, trainable=False)
        # a loss-scaling optimizer hands its gradients to the one inside it
        self._tapped = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        receive: Callable[[Any], Any] = getattr(self._tapped, TAP)

        def tap(grads_and_vars: Any) -> Any:
            reduced = receive(grads_and_vars)
            self._record(reduced)
            return reduced

        object.__setattr__(self._tapped, TAP, tap)
        self.model.make_train_function(force=True)

    def _record(self, grads_and_vars: list[tuple[Any, Any]]) -> None:
        norms = {variable.ref(): _norm(gradient) for gradient, variable in grads_and_vars}
        missing = tf.constant(0.0)  # a variable that this loss does not reach
        found = [norms.get(variable.value.ref(), missing) for variable in self.model.trainable_variables]
        every = tf.stack([*found, tf.linalg.global_norm(found)])
        assert self._sums is not None
        self._sums.assign_add(every)
        self._maxima.assign(tf.maximum(self._maxima, every))
        self._steps.assign_add(1.0)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the epoch's norms and start anew."""
        if self._sums is None:
            return
        steps = max(float(self._steps), 1.0)
        for path, total, largest in zip(
            [*self._paths, "global"], self._sums.numpy(), self._maxima.numpy(), strict=True
        ):
            self.writer.scalar(f"gradients/{path}/mean_norm", total / steps, epoch + 1)
            self.writer.scalar(f"gradients/{path}/max_norm", largest, epoch + 1)
        for variable in (self._sums, self._maxima, self._steps):
            variable.assign(tf.zeros_like(variable))

    def state(self) -> dict[str, Any]:
        """The epoch so far, for a checkpoint."""
        kept = () if self._sums is None else (self._sums, self._maxima, self._steps)
        return {"epoch_so_far": [variable.numpy() for variable in kept]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`, after `on_train_begin`."""
        if self._sums is not None:
            for variable, value in zip((self._sums, self._maxima, self._steps), state["epoch_so_far"], strict=True):
                variable.assign(value)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Take the tap out."""
        if self._sums is not None:
            object.__delattr__(self._tapped, TAP)
            self.model.train_function = None
            self._sums = None


def _norm(gradient: Any) -> tf.Tensor:
    values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
    return tf.norm(tf.cast(values, tf.float32))
