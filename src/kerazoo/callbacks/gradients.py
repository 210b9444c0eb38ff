"""Gradient norms under `fit`, tapped inside the optimizer: before it clips the gradients, and after.

The taps sit on two methods of the optimizer (`keras_private.py`; TensorFlow backend). There gradients are
unscaled, means where they were accumulated, and those of all replicas once they are summed. The taps write norms to
variables inside the compiled step, so no step waits for Python; they are read once an epoch.
"""

import threading
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerazoo.callbacks.writers.writer import Writer
from kerazoo.keras_private import CLIP_GRADIENTS, SUM_GRADIENTS

MOMENTS = ("before_clipping", "after_clipping")


class GradientLogger(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes norms of the gradients, for each trainable variable and for all of them together (`global`).

    - `gradients/PATH/before_clipping/mean_norm`: the mean L2 norm over the epoch's updates, as the loss gives them;
    - `gradients/PATH/before_clipping/max_norm`: the largest;
    - `gradients/PATH/after_clipping/...`: the same as the optimizer uses them. Without clipping both are equal.

    Works on any model, built or not, with one optimizer or several (`MultiOptimizer`, or a `train_step` with its own),
    loss scaling, accumulation (counted are updates) and mirrored replicas. Over several processes, what stands before
    clipping is not known, and is NaN where the optimizer clips. TensorFlow backend only; on another backend it writes
    nothing. Config, checkpoints and results of the optimizer and the model stay as they were.
    """

    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self.writer = writer
        self._paths: list[str] = []
        self._newest: tf.Variable | None = None
        self._restored: list[Any] = []
        self._hooked: list[tuple[Any, str]] = []
        self._of_replica = threading.local()  # each replica of a mirrored strategy is traced in a thread of its own

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Put the taps in place and have `fit` trace its step anew."""
        if keras.config.backend() != "tensorflow":
            return
        self._newest = None
        self._make_variables()
        for value in list(vars(self.model).values()):
            if isinstance(value, keras.optimizers.Optimizer):
                self._tap(value)
        train_step = self.model.train_step

        def counted(*args: Any, **kwargs: Any) -> Any:
            results = train_step(*args, **kwargs)
            self._count()
            return results

        self._hook(self.model, "train_step", counted)
        self.model.make_train_function(force=True)

    def _hook(self, thing: Any, name: str, replacement: Any) -> None:
        object.__setattr__(thing, name, replacement)  # past Keras, which would track it
        self._hooked.append((thing, name))

    def _tap(self, optimizer: Any) -> None:
        """Tap `optimizer`, or those inside it."""
        if hasattr(optimizer, "inner_optimizer"):  # scales the loss
            self._tap(optimizer.inner_optimizer)
            return
        if isinstance(optimizer, keras.optimizers.MultiOptimizer):
            self._tap_each(optimizer)
            return
        clip, reduce = getattr(optimizer, CLIP_GRADIENTS), getattr(optimizer, SUM_GRADIENTS)

        def clip_and_keep(gradients: Any) -> Any:
            self._of_replica.unclipped = list(gradients)
            return clip(gradients)

        def reduce_and_record(grads_and_vars: Any) -> Any:
            pairs = list(grads_and_vars)
            reduced = reduce(pairs)
            before = reduced
            if optimizer.clipnorm or optimizer.global_clipnorm or optimizer.clipvalue:
                before = []
                # other processes may not watch, and would not take part in the sum
                if not isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
                    before = reduce(zip(self._of_replica.unclipped, (variable for _, variable in pairs), strict=True))
            self._record(before, reduced)
            return reduced

        self._hook(optimizer, CLIP_GRADIENTS, clip_and_keep)
        self._hook(optimizer, SUM_GRADIENTS, reduce_and_record)

    def _tap_each(self, several: Any) -> None:
        """Tap the parts of a MultiOptimizer, some of which it may only know once it is built."""
        known = list(several.optimizers)
        for part in known:
            self._tap(part)
        if several.built:
            return
        build = several.build

        def build_and_tap(variables: Any) -> None:
            build(variables)
            for part in several.optimizers:
                if part not in known:
                    self._tap(part)

        self._hook(several, "build", build_and_tap)

    def _make_variables(self) -> tf.Variable:
        """Variables for the norms of the trainable variables; anew where these have changed, as the model is built."""
        paths = [variable.path for variable in self.model.trainable_variables]
        if self._newest is None or paths != self._paths:
            self._paths = paths
            with tf.init_scope():  # out of the step that is being traced
                # rows: before clipping, after clipping, 1 where there is a gradient since the last count
                self._newest = _zeros(3, len(paths))
                # the last column is of all together
                self._sums, self._maxima = _zeros(2, len(paths) + 1), _zeros(2, len(paths) + 1)
                self._updates = _zeros(len(paths) + 1)
            self.restore({"epoch_so_far": self._restored})
        return self._newest

    def _record(self, before: Any, after: Any) -> None:
        """Keep the norms of one optimizer's gradients."""
        newest = self._make_variables()
        norms_after = _norms(after)
        norms_before = norms_after if before is after else _norms(before)
        if not norms_before:
            norms_before = dict.fromkeys(norms_after, tf.constant(float("nan")))
        references = [variable.value.ref() for variable in self.model.trainable_variables]
        missing = tf.constant(0.0)  # a variable that this loss does not reach, or another optimizer moves
        rows = [[norms.get(reference, missing) for reference in references] for norms in (norms_before, norms_after)]
        fresh = tf.constant([float(reference in norms_before) for reference in references])
        newest.assign(tf.where(fresh > 0, tf.stack([*map(tf.stack, rows), fresh]), newest))

    def _count(self) -> None:
        """After a step: add the norms of the gradients that have come to the epoch's."""
        newest = self._make_variables()
        if not self._paths:
            return
        norms, fresh = newest[:2], newest[2]
        together = tf.norm(norms, axis=1, keepdims=True)
        every = tf.concat([norms, together], axis=1)
        self._sums.assign_add(every)
        self._maxima.assign(tf.maximum(self._maxima, every))
        self._updates.assign_add(tf.concat([fresh, tf.reduce_max(fresh, keepdims=True)], axis=0))
        newest.assign(tf.zeros_like(newest))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the epoch's norms and start anew."""
        if self._newest is None:
            return
        updates = self._updates.numpy().clip(min=1)
        for moment, sums, maxima in zip(MOMENTS, self._sums.numpy(), self._maxima.numpy(), strict=True):
            means = sums / updates
            for path, mean, largest in zip([*self._paths, "global"], means, maxima, strict=True):
                self.writer.scalar(f"gradients/{path}/{moment}/mean_norm", float(mean), epoch + 1)
                self.writer.scalar(f"gradients/{path}/{moment}/max_norm", float(largest), epoch + 1)
        for variable in self._kept():
            variable.assign(tf.zeros_like(variable))

    def _kept(self) -> list[tf.Variable]:
        return [] if self._newest is None else [self._sums, self._maxima, self._updates]

    def state(self) -> dict[str, Any]:
        """The epoch so far, for a checkpoint."""
        return {"epoch_so_far": [variable.numpy() for variable in self._kept()]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`, after `on_train_begin`; one of an older version, or another model, counts as nothing."""
        self._restored = list(state["epoch_so_far"])
        kept = self._kept()
        if [tuple(variable.shape) for variable in kept] == [np.shape(value) for value in self._restored]:
            for variable, value in zip(kept, self._restored, strict=True):
                variable.assign(value)
            self._restored = []

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Take the taps out."""
        for thing, name in self._hooked:
            vars(thing).pop(name, None)
        if self._hooked:
            self.model.train_function = None
        self._hooked = []
        self._newest = None


def _zeros(*shape: int) -> tf.Variable:
    # on several replicas each of them counts, all the same
    return tf.Variable(tf.zeros(shape), trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)


def _norms(grads_and_vars: Any) -> dict[Any, tf.Tensor]:
    """The L2 norm of each gradient in float32, by its variable's reference."""
    return {variable.ref(): _norm(gradient, variable) for gradient, variable in grads_and_vars if gradient is not None}


def _norm(gradient: Any, variable: Any) -> tf.Tensor:
    if isinstance(gradient, tf.IndexedSlices):  # the same row may come more than once
        gradient = tf.math.unsorted_segment_sum(gradient.values, gradient.indices, variable.shape[0])
    return tf.norm(tf.cast(gradient, tf.float32))
