"""What is summed over training steps for each trainable variable: norms of gradients, update ratios, histograms.

`GraphSums` sums inside the compiled step of the TensorFlow backend, in variables, so that no step waits for Python.
`jax_taps.HostSums` does the same for JAX.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerazoo.callbacks.histograms import BINS, magnitude_counts
from kerazoo.callbacks.taps import Pairs
from kerazoo.callbacks.training_state import scope_of

SAMPLED = 20  # steps between two samples of update ratios and histograms, unless records are wanted sooner
CLIPPED = 1e-6  # relative change of a norm from which on a gradient counts as clipped; rounding is 1e-7


class Row(IntEnum):
    """The rows of the table of sums. Its columns are the trainable variables, and all of them together."""

    UPDATES = 0
    NORM = 1  # before clipping, as are the next one and LARGEST
    SQUARE = 2  # ||g||^2 / (number of weights)
    CLIPPED_NORM = 3
    CLIPS = 4  # updates in which clipping changed the norm
    LARGEST = 5
    RATIO = 6
    SAMPLES = 7  # updates that RATIO is the sum of


@dataclass(frozen=True)
class Sums:
    """The `table` (rows, V + 1) of sums since the last record, `counts` (V, BINS + 1) of magnitudes, and, of each
    variable, the step whose gradient was the first not to be finite (`bad` (V + 1,), -1: none)."""

    table: np.ndarray
    counts: np.ndarray
    bad: np.ndarray

    @classmethod
    def zeros(cls, variables: int) -> "Sums":
        """Nothing yet."""
        bad = np.full(variables + 1, -1, np.int32)
        return cls(np.zeros((len(Row), variables + 1), np.float32), np.zeros((variables, BINS + 1), np.float32), bad)


class GraphSums:
    """A recorder for `Taps`: sums in TensorFlow variables.

    The last of every `period` steps is a sample, with more than 20 (or None, for records of epochs) that of every 20.
    Epochs may be short: there the first step is one. `step` is the number of steps before the first one.
    """

    def __init__(self, model: keras.Model, *, period: int | None, histograms: bool, step: int = 0) -> None:
        self.model = model
        self.step = step
        self.interval = min(period or SAMPLED, SAMPLED)
        self.waited = 0 if period else self.interval - 1
        self.histograms = histograms
        self.paths: list[str] = []
        self._newest: tf.Variable | None = None
        self._restored: dict[str, Any] = {}

    def prepare(self) -> tf.Variable:
        """Variables for the trainable variables; anew where these have changed, as the model is built."""
        paths = [variable.path for variable in self.model.trainable_variables]
        if self._newest is None or paths != self.paths:
            self.paths = paths
            count = len(paths)
            # over several processes only the first one watches, and making a variable of a strategy takes all of them
            several = isinstance(self.model.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy)
            with tf.init_scope(), nullcontext() if several else scope_of(self.model):
                # rows: norm before clipping, norm after, 1 where a gradient came in this step
                self._newest = _variable(tf.zeros([3, count]))
                self._table = _variable(tf.zeros([len(Row), count + 1]))
                self._counts = _variable(tf.zeros([count, BINS + 1]))
                self._bad = _variable(tf.fill([count + 1], -1))
                self._steps = _variable(tf.constant(self.step))
                self._since = _variable(tf.constant(self.waited))
                self._starts = [_variable(tf.zeros(v.shape, v.dtype)) for v in self.model.trainable_variables]
            self.restore(self._restored)
        return self._newest

    def begin(self) -> None:
        """Before a step: keep the weights that it starts from, where it is a sample."""
        self.prepare()

        def keep() -> None:
            for start, variable in zip(self._starts, self.model.trainable_variables, strict=True):
                start.assign(variable.value)

        self._where_sampled(keep)

    def update(self, before: Pairs, after: Pairs) -> None:
        """Keep the norms of one optimizer's gradients, and count their magnitudes."""
        newest = self.prepare()
        half_after = _half_squares(after)
        half_before = half_after if before is after else _half_squares(before)
        if not half_before:
            half_before = dict.fromkeys(half_after, tf.constant(float("nan")))
        references = [variable.value.ref() for variable in self.model.trainable_variables]
        missing = tf.constant(0.0)  # a variable that this loss does not reach, or another optimizer moves
        rows = [[known.get(reference, missing) for reference in references] for known in (half_before, half_after)]
        fresh = tf.constant([float(reference in half_before) for reference in references])
        newest.assign(tf.where(fresh > 0, tf.stack([*map(_lengths, rows), fresh]), newest))
        if self.histograms:
            self._where_sampled(lambda: self._count(before or after, references))

    def _count(self, pairs: Pairs, references: list[Any]) -> None:
        none = tf.zeros([BINS + 1])
        counts = {v.ref(): magnitude_counts(_dense(g, v)) for g, v in pairs if g is not None}
        self._counts.assign_add(tf.stack([counts.get(reference, none) for reference in references]))

    def end(self) -> None:
        """After a step: add what came in it to the sums."""
        newest = self.prepare()
        self._steps.assign_add(1)
        if not self.paths:
            return
        before, after, fresh = tf.unstack(_with_all(newest))
        clipped = tf.cast(tf.abs(after - before) > CLIPPED * before, tf.float32)
        clipped = tf.concat([clipped[:-1], tf.reduce_max(clipped[:-1], keepdims=True)], axis=0)
        sizes = [float(np.prod(variable.shape)) for variable in self.model.trainable_variables]
        table = self._table
        rows = tf.unstack(tf.convert_to_tensor(table))
        rows[Row.UPDATES] += fresh
        rows[Row.NORM] += before
        rows[Row.SQUARE] += before**2 / tf.constant([*sizes, sum(sizes)])
        rows[Row.CLIPPED_NORM] += after
        rows[Row.CLIPS] += clipped
        rows[Row.LARGEST] = tf.maximum(rows[Row.LARGEST], before)
        table.assign(tf.stack(rows))
        first = (self._bad < 0) & ~tf.math.is_finite(before) & (fresh > 0)
        self._bad.assign(tf.where(first, self._steps, self._bad))
        self._where_sampled(lambda: self._add_ratios(fresh))
        sampled = (self._since + 1 >= self.interval) & (fresh[-1] > 0)
        self._since.assign(tf.where(sampled, 0, self._since + 1))
        newest.assign(tf.zeros_like(newest))

    def _add_ratios(self, fresh: tf.Tensor) -> None:
        """Add the length of the update over that of the weights, where these are not all 0."""
        moved, held = [], []
        for start, variable in zip(self._starts, self.model.trainable_variables, strict=True):
            moved.append(_half_square(tf.cast(variable.value, tf.float32) - tf.cast(start, tf.float32)))
            held.append(_half_square(start))
        lengths = _with_all(tf.stack([_lengths(moved), _lengths(held), fresh[:-1]]))
        counted = tf.cast((lengths[1] > 0) & (lengths[2] > 0), tf.float32)
        rows = tf.unstack(tf.convert_to_tensor(self._table))
        rows[Row.RATIO] += tf.math.divide_no_nan(lengths[0], lengths[1]) * counted
        rows[Row.SAMPLES] += counted
        self._table.assign(tf.stack(rows))

    def _where_sampled(self, act: Any) -> None:
        """Call `act`, in the graph, where this step is a sample."""
        if self.interval == 1:
            act()
            return

        def acted() -> tf.Tensor:
            act()
            return tf.constant(0)

        tf.cond(self._since + 1 >= self.interval, acted, lambda: tf.constant(0))

    def take(self) -> Sums:
        """The sums since the last call."""
        if self._newest is None:
            return Sums.zeros(0)
        sums = Sums(self._table.numpy(), self._counts.numpy(), self._bad.numpy())
        self._table.assign(tf.zeros_like(self._table))
        self._counts.assign(tf.zeros_like(self._counts))
        return sums

    def state(self) -> dict[str, Any]:
        """The sums so far, for a checkpoint."""
        if self._newest is None:
            return {}
        kept = {"table": self._table, "counts": self._counts, "bad": self._bad}
        counters = {"steps": self._steps, "since": self._since}
        return {name: variable.numpy() for name, variable in {**kept, **counters}.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`; one of another model counts as nothing."""
        self._restored = state
        if self._newest is None or not state:
            return
        variables = {
            "table": self._table, "counts": self._counts, "bad": self._bad, "steps": self._steps, "since": self._since,
        }  # fmt: skip
        if any(tuple(variable.shape) != np.shape(state.get(name, 0)) for name, variable in variables.items()):
            return
        for name, variable in variables.items():
            variable.assign(state[name])
        self._restored = {}


def _variable(value: tf.Tensor) -> tf.Variable:
    """A variable that each replica has for itself; all hold the same."""
    return tf.Variable(
        value, trainable=False, synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )  # fmt: skip


def _with_all(rows: tf.Tensor) -> tf.Tensor:
    """(3, V) -> (3, V + 1): two rows of norms and one of flags, with those of all variables together behind."""
    norms, fresh = rows[:2], rows[2:]
    lengths = tf.norm(norms, axis=1, keepdims=True)
    return tf.concat([tf.concat([norms, fresh], 0), tf.concat([lengths, tf.reduce_max(fresh, 1, True)], 0)], 1)


def _half_squares(pairs: Pairs) -> dict[Any, tf.Tensor]:
    """Half the square of the L2 norm of each gradient in float32, by its variable's reference."""
    return {v.ref(): _half_square(_dense(gradient, v)) for gradient, v in pairs if gradient is not None}


def _dense(gradient: Any, variable: Any) -> Any:
    """A gradient by rows as a whole one: the same row may come more than once."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, variable.shape[0])
    return gradient


def _half_square(values: Any) -> tf.Tensor:
    """Half the squared L2 norm: one operation for each variable to trace, where `tf.norm` is six."""
    return tf.nn.l2_loss(tf.cast(values, tf.float32))


def _lengths(half_squares: list[tf.Tensor]) -> tf.Tensor:
    """The L2 norms."""
    return tf.sqrt(2.0 * tf.stack(half_squares))
