"""What findings need of single steps, kept inside the compiled step: the first loss, margins, the first step that is
not finite with its batch and weights, how long a step waited.

Two methods of the model are hooked, `train_step` and `compute_loss`. What they record goes to variables of their own
that nothing else reads, so that no step waits for Python, and training stays as it is, bit for bit.
Shape letters: B batch, K classes, N examples of an epoch.
"""

import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerazoo.callbacks.hooks import Hooks
from kerazoo.keras_private import is_deterministic

RECENT = 1 / 20  # the share of a step in the moving average of the cross-entropy
EPSILON = 1e-7  # below it a probability counts as so much, as in Keras
NEVER = -1


class StepRecords:
    """Records of the steps of `model` under the TensorFlow backend, on one device.

    `count` is N, where margins are wanted; `from_logits` as in Keras's losses, None: found out. `step` is how many
    steps came before. Of a model that XLA compiles, batch and weights of a bad step cannot be kept, nor waiting times;
    these not either where TensorFlow runs deterministically, which allows no clock.
    """

    def __init__(self, model: keras.Model, *, count: int | None, from_logits: bool | None, step: int) -> None:
        self.model = model
        self.kind = loss_kind(model.loss)
        self.from_logits = takes_logits(model) if from_logits is None else from_logits
        self.classes: int | None = None  # K, known once a step was traced whose labels are classes
        self._compiled = bool(getattr(model, "jit_compile", False))
        self._clocked = not (self._compiled or model.run_eagerly or is_deterministic())
        self._inside = False
        self._hooks = Hooks(model)
        self._base = time.time()
        self._begun: list[float] = []
        self._times = {"seconds": 0.0, "steps": 0.0, "waited": 0.0, "clocked": 0.0}
        self._values = {
            "step": tf.Variable(step, dtype=tf.int64, trainable=False),
            "bad_step": tf.Variable(NEVER, dtype=tf.int64, trainable=False),
            "start": _zeros(1),  # cross-entropy of the first step
            "recent": _zeros(1),  # a moving average of the cross-entropy
            "output": tf.Variable([0.0, np.inf], trainable=False),  # largest |sum - 1|, lowest
            "input": _zeros(3),  # lowest, highest, mean of the first batch
            "soft": _zeros(1),  # the largest 1 - max label, 0 of one-hot labels
            "batch": _zeros(1),  # the largest
            "seen": tf.Variable(0, dtype=tf.int64, trainable=False),  # examples of this epoch
            "margins": tf.Variable(tf.fill([count or 0], np.float32(np.nan)), trainable=False),
        }
        self._arrived = tf.Variable(tf.zeros([2], tf.float64), trainable=False)  # sum of times, their number
        self._counts: tf.Variable | None = None  # (K,) labels of each class
        self._pending_counts: np.ndarray | None = None
        self._bad: dict[str, tf.Variable] = {}

    # -- into the model and out of it ---------------------------------------------------------------------------

    def insert(self) -> None:
        """Put the hooks in place, and have `fit` trace its step anew."""
        train_step, compute_loss = self.model.train_step, self.model.compute_loss

        def recorded_step(data: Any) -> Any:
            self._arrive(data)
            self._inside = True
            try:
                return train_step(data)
            finally:
                self._inside = False

        def recorded_loss(*args: Any, **kwargs: Any) -> Any:
            loss = compute_loss(*args, **kwargs)
            if self._inside:
                values = dict(zip(("x", "y", "y_pred"), args, strict=False)) | kwargs
                self._record(values.get("x"), values.get("y"), values.get("y_pred"), loss)
            return loss

        self._hooks.replace(self.model, "train_step", recorded_step)
        self._hooks.replace(self.model, "compute_loss", recorded_loss)
        self._hooks.trace()

    def remove(self) -> None:
        """Take the hooks out."""
        self._hooks.remove()

    # -- inside the step ------------------------------------------------------------------------------------------

    def _arrive(self, data: Any) -> None:
        if not self._clocked:
            return
        tensors = [part for part in tf.nest.flatten(data) if tf.is_tensor(part)]
        with tf.control_dependencies(tensors):
            now = tf.timestamp() - self._base
            self._arrived.assign_add(tf.stack([now, tf.ones_like(now)]))

    def _record(self, x: Any, y: Any, y_pred: Any, loss: Any) -> None:
        values = self._values
        step = values["step"].assign_add(1)
        pixels = next((part for part in tf.nest.flatten(x) if tf.is_tensor(part)), None)
        bad = tf.logical_and(~tf.math.is_finite(tf.cast(loss, tf.float32)), values["bad_step"] < 0)
        values["bad_step"].assign(tf.where(bad, step, values["bad_step"]))
        if not self._compiled:
            self._keep_where(bad, x, y)
        if pixels is not None:
            size = tf.shape(pixels)[0]
            values["batch"].assign(tf.maximum(values["batch"], tf.cast(size, tf.float32)))
            self._record_input(pixels)
        if tf.is_tensor(y_pred) and tf.is_tensor(y):
            self._record_answers(tf.stop_gradient(y_pred), y)

    def _record_input(self, pixels: tf.Tensor) -> None:
        """The range of the first batch of this process."""
        known = self._values["input"]

        def measure() -> tf.Tensor:
            pixels_ = tf.cast(pixels, tf.float32)
            return tf.stack([tf.reduce_min(pixels_), tf.reduce_max(pixels_), tf.reduce_mean(pixels_)])

        unknown = tf.reduce_all(tf.equal(known, 0.0))
        known.assign(tf.cond(unknown, measure, lambda: tf.identity(known)))

    def _record_answers(self, outputs: tf.Tensor, labels: tf.Tensor) -> None:
        """Cross-entropy, margins and the form of the outputs, where labels are classes."""
        targets = _targets(outputs, labels, self.kind)
        if targets is None:
            return
        values = self._values
        outputs = tf.cast(outputs, tf.float32)
        self.classes = int(outputs.shape[-1])
        error = tf.reduce_max(tf.abs(tf.reduce_sum(outputs, -1) - 1))
        output = values["output"]
        output.assign(tf.stack([tf.maximum(output[0], error), tf.minimum(output[1], tf.reduce_min(outputs))]))
        values["soft"].assign(tf.maximum(values["soft"], tf.reduce_max(1 - tf.reduce_max(targets, -1))))
        logits = outputs if self.from_logits else tf.math.log(tf.maximum(outputs, EPSILON))
        entropy = tf.reduce_mean(-tf.reduce_sum(targets * tf.nn.log_softmax(logits), -1))
        start, recent = values["start"], values["recent"]
        first = tf.equal(start[0], 0.0)
        recent.assign(tf.where(first, entropy, recent + RECENT * (entropy - recent)))
        start.assign(tf.where(first, entropy, start))
        count = tf.shape(outputs)[0]
        if self._counts is None:
            with tf.init_scope():  # out of the step that is being traced
                known = self._pending_counts
                fits = known is not None and known.shape == (self.classes,)
                self._counts = tf.Variable(known if fits else tf.zeros(self.classes), trainable=False)
        self._counts.assign_add(tf.reduce_sum(targets, 0))
        if values["margins"].shape[0]:
            own = tf.reduce_sum(targets * logits, -1)
            other = tf.reduce_max(tf.where(targets > 0.5, -np.inf, logits), -1)
            places = values["seen"] + tf.range(tf.cast(count, tf.int64))
            places = tf.minimum(places, values["margins"].shape[0] - 1)
            values["margins"].scatter_nd_update(places[:, None], own - other)
        values["seen"].assign_add(tf.cast(count, tf.int64))

    def _keep_where(self, bad: tf.Tensor, x: Any, y: Any) -> None:
        """Keep the batch and the weights of the first bad step; they cost nothing before it."""
        parts = {f"x{n}": part for n, part in enumerate(tf.nest.flatten(x)) if tf.is_tensor(part)}
        parts |= {f"y{n}": part for n, part in enumerate(tf.nest.flatten(y)) if tf.is_tensor(part)}
        with tf.init_scope():
            for name, part in parts.items():
                if name not in self._bad:
                    self._bad[name] = _any_shape(part.dtype, part.shape.rank)
            if "weights" not in self._bad:
                self._bad["weights"] = _any_shape(tf.float32, 1)

        def keep() -> tf.Tensor:
            for name, part in parts.items():
                self._bad[name].assign(part)
            variables = self.model.variables
            flat = [tf.reshape(tf.cast(variable.value, tf.float32), [-1]) for variable in variables]
            self._bad["weights"].assign(tf.concat(flat, 0))
            return tf.constant(True)

        tf.cond(bad, keep, lambda: tf.constant(False))

    # -- between steps --------------------------------------------------------------------------------------------

    def begin_epoch(self, *, resumed: bool) -> None:
        """Start the sums of an epoch, unless it goes on after a resume, and take the time of its steps."""
        if not resumed:
            self._values["seen"].assign(0)
            self._values["margins"].assign(np.full(self._values["margins"].shape, np.nan, np.float32))
        self._begun = []
        step = self.model.train_function
        if getattr(step, "times", None) is self:
            return

        def timed(iterator: Any) -> Any:
            """The time is taken here, after what all callbacks do before a batch."""
            self._begun.append(time.time() - self._base)
            return step(iterator)

        timed.times = self  # type: ignore[attr-defined]
        self.model.train_function = timed

    def begin_batch(self, batch: int) -> None:
        """Leave out the first two steps of an epoch: they trace, and fill buffers."""
        if batch == 2:
            if self._clocked:
                self._arrived.assign(np.zeros(2))
            self._begun = []

    def end_epoch(self) -> None:
        """Add up how long the steps took, and waited."""
        steps = len(self._begun) - 1
        if steps < 1:
            return
        self._times["steps"] += steps
        self._times["seconds"] += self._begun[-1] - self._begun[0]
        arrived, count = self._arrived.numpy()
        if count == len(self._begun):
            self._times["clocked"] += steps
            self._times["waited"] += max(arrived - sum(self._begun), 0.0) / count * steps

    def value(self, name: str) -> np.ndarray:
        """The numbers recorded under a name."""
        return np.array(self._values[name])

    @property
    def label_counts(self) -> np.ndarray | None:
        """(K,) how many labels of each class were trained on; None where labels are not classes."""
        return None if self._counts is None else self._counts.numpy()

    @property
    def seconds(self) -> tuple[float, int]:
        """Seconds of a step, and of how many steps that is the mean."""
        return self._times["seconds"] / max(self._times["steps"], 1), int(self._times["steps"])

    @property
    def waited(self) -> float | None:
        """Seconds that a step waited for its batch; None where that was not measured."""
        return self._times["waited"] / self._times["clocked"] if self._times["clocked"] else None

    def bad_batch(self) -> tuple[dict[str, np.ndarray], list[np.ndarray]] | None:
        """The batch, "x0", "y0", ..., and the variables of the model at the first bad step; None where not kept."""
        if self._values["bad_step"].numpy() < 0 or not self._bad or not self._bad["weights"].numpy().size:
            return None
        flat = self._bad["weights"].numpy()
        sizes = [int(np.prod(variable.shape)) for variable in self.model.variables]
        parts = np.split(flat, np.cumsum(sizes)[:-1])
        weights = [part.reshape(variable.shape) for part, variable in zip(parts, self.model.variables, strict=True)]
        return {name: part.numpy() for name, part in self._bad.items() if name != "weights"}, weights

    def state(self) -> dict[str, Any]:
        """All numbers, for a checkpoint."""
        values: dict[str, Any] = {name: variable.numpy() for name, variable in self._values.items()}
        return values | {"times": dict(self._times), "counts": self.label_counts}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`; one of another model or version counts as nothing."""
        for name, variable in self._values.items():
            if name in state and np.shape(state[name]) == tuple(variable.shape):
                variable.assign(state[name])
        self._times |= {name: float(value) for name, value in state.get("times", {}).items()}
        self._pending_counts = None if state.get("counts") is None else np.asarray(state["counts"], np.float32)


def loss_kind(loss: Any) -> str:
    """ "classes" of a cross-entropy over classes, "other" of any other loss: by its name, as compiled."""
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    name = name.lower().replace("_", "")
    return "classes" if "crossentropy" in name and "binary" not in name else "other"


def takes_logits(model: keras.Model) -> bool:
    """Whether the loss takes logits: as it says itself, else whether the last layer is no softmax."""
    said = getattr(model.loss, "from_logits", None)
    if said is not None:
        return bool(said)
    if isinstance(model.loss, str) or (callable(model.loss) and hasattr(model.loss, "__name__")):
        return False  # Keras's default
    last = model.layers[-1] if model.layers else None
    return getattr(last, "activation", None) is not keras.activations.softmax and not isinstance(
        last, keras.layers.Softmax
    )


def _targets(outputs: tf.Tensor, labels: tf.Tensor, kind: str) -> tf.Tensor | None:
    """(B, K) shares of the classes; None where labels are something else."""
    if kind != "classes" or outputs.shape.rank != 2 or (outputs.shape[-1] or 0) < 2:
        return None
    if labels.shape.rank == 2 and labels.shape[-1] == outputs.shape[-1]:
        return tf.cast(labels, tf.float32)
    if labels.shape.rank == 1 or (labels.shape.rank == 2 and labels.shape[-1] == 1):
        return tf.one_hot(tf.cast(tf.reshape(labels, [-1]), tf.int32), outputs.shape[-1])
    return None


def _zeros(*shape: int) -> tf.Variable:
    return tf.Variable(tf.zeros(shape), trainable=False)


def _any_shape(dtype: tf.DType, rank: int | None) -> tf.Variable:
    empty = tf.zeros([0] * (rank or 0), dtype)
    shape = tf.TensorShape([None] * rank) if rank else tf.TensorShape([])
    return tf.Variable(empty, trainable=False, shape=shape)
