"""Taps inside a training step: what the gradients of each variable are, before the optimizer clips them and after.

Keras has no callback that sees gradients. The taps replace methods of the model and of its optimizers
(`keras_private.py`) by ones that call the same methods and look on, and have `fit` trace its step anew. There gradients
are unscaled, means where they were accumulated, and those of all replicas once they are summed.
"""

import threading
from collections.abc import Iterator
from typing import Any, Protocol

import keras
import tensorflow as tf

from kerazoo.callbacks.hooks import Hooks
from kerazoo.keras_private import CLIP_GRADIENTS, SUM_GRADIENTS, optimized

Pairs = list[tuple[Any, Any]]  # (gradient, variable)


class Recorder(Protocol):
    """What taps call while a step is traced."""

    def begin(self) -> None:
        """Before the step."""

    def update(self, before: Pairs, after: Pairs) -> None:
        """Before an optimizer moves its variables; `before` is `after` where nothing clips, [] where it is unknown."""

    def end(self) -> None:
        """After the step."""


class Taps:
    """Taps on `model` and its optimizers, on the TensorFlow backend, from `insert` to `remove`."""

    def __init__(self, model: keras.Model, recorder: Recorder) -> None:
        self.model = model
        self.recorder = recorder
        self._hooks = Hooks(model)
        self._of_replica = threading.local()  # each replica of a mirrored strategy is traced in a thread of its own

    def insert(self) -> None:
        """Put the taps in place."""
        for optimizer in optimizers_of(self.model):
            self._tap(optimizer)
        train_step = self.model.train_step

        def step(*args: Any, **kwargs: Any) -> Any:
            self.recorder.begin()
            results = train_step(*args, **kwargs)
            self.recorder.end()
            return results

        self._hooks.replace(self.model, "train_step", step)
        self._hooks.trace()

    def remove(self) -> None:
        """Take the taps out."""
        self._hooks.remove()

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
            if clips(optimizer):
                before = []
                # other processes may not watch, and would not take part in the sum
                if not isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
                    before = reduce(zip(self._of_replica.unclipped, (variable for _, variable in pairs), strict=True))
            self.recorder.update(before, reduced)
            return reduced

        self._hooks.replace(optimizer, CLIP_GRADIENTS, clip_and_keep)
        self._hooks.replace(optimizer, SUM_GRADIENTS, reduce_and_record)

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

        self._hooks.replace(several, "build", build_and_tap)


def optimizers_of(model: keras.Model) -> Iterator[Any]:
    """The optimizers that are attributes of `model`: that of `compile`, and those of a `train_step` of its own."""
    for value in list(vars(model).values()):
        if isinstance(value, keras.optimizers.Optimizer):
            yield value


def single_optimizers(model: keras.Model) -> Iterator[Any]:
    """The optimizers that move variables of `model`: those inside loss scaling and inside MultiOptimizer."""

    def inside(optimizer: Any) -> Iterator[Any]:
        if hasattr(optimizer, "inner_optimizer"):
            yield from inside(optimizer.inner_optimizer)
        elif isinstance(optimizer, keras.optimizers.MultiOptimizer):
            for part in optimizer.optimizers:
                yield from inside(part)
        else:
            yield optimizer

    for optimizer in optimizers_of(model):
        yield from inside(optimizer)


def clips(optimizer: Any) -> bool:
    """Whether `optimizer` clips gradients."""
    return bool(optimizer.clipnorm or optimizer.global_clipnorm or optimizer.clipvalue)


def stale_freeze(model: keras.Model) -> bool:
    """Whether layers were frozen since the optimizer was built: the step that was traced then still trains them."""
    known = optimized(model.optimizer)
    return bool(known) and {id(v) for v in known} != {id(v) for v in model.trainable_variables}
