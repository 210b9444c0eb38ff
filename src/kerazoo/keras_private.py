"""What kerazoo uses of Keras and TensorFlow that is not public: no other module touches a private name of theirs.

Each function says why no public name does. `tests/test_keras_private.py` holds one test for each: a newer Keras or
TensorFlow must pass them before KERAS or TENSORFLOW is changed. Nothing is imported before a function is called.
"""

import functools
import io
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from kerazoo.errors import KerazooError

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

KERAS, TENSORFLOW = "3.15.1", "2.21.0"  # tested; later ones that share the first two numbers are taken, too
P = ParamSpec("P")
R = TypeVar("R")

# methods of an optimizer on the TensorFlow backend, called in this order when gradients are applied: one clips them,
# the other sums those of all replicas; Keras has no callback that sees gradients
CLIP_GRADIENTS, SUM_GRADIENTS = "_clip_gradients", "_all_reduce_sum_gradients"
# `experimental_attributes` of a tf.function that stays one operation in the graph; the argument is public, the name not
NO_INLINE = {"_noinline": True}


def check_versions(keras_version: str | None = None, tensorflow_version: str | None = None) -> None:
    """Raise KerazooError where Keras or TensorFlow is not one whose private names were tested; says what to install."""
    import keras
    import tensorflow as tf

    for name, tested, version in (
        ("keras", KERAS, keras_version or keras.__version__),
        ("tensorflow", TENSORFLOW, tensorflow_version or tf.__version__),
    ):
        if version.split(".")[:2] != tested.split(".")[:2] or _numbers(version) < _numbers(tested):
            raise KerazooError(
                f"kerazoo uses private names of {name}, tested with {tested} and later {_series(tested)}; this is "
                f"{version}, which is untested: pip install '{name}~={tested}'"
            )


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")[:3] if part.isdigit()]


def _series(version: str) -> str:
    return ".".join([*version.split(".")[:2], "x"])


def _tested(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, which is called only where the versions are tested ones."""

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        check_versions()
        return function(*args, **kwargs)

    return checked


# -- models and optimizers ----------------------------------------------------------------------------------------


@_tested
def weights_file(model: "keras.Model") -> bytes:
    """The contents of a .weights.h5 file, made in memory.

    `save_weights` writes such a file to the disk piece by piece; HDF5 cannot close it on a full disk, and ends the
    interpreter by SIGSEGV.
    """
    from keras.src.saving import saving_lib

    buffer = io.BytesIO()
    store = saving_lib.H5IOStore(buffer, mode="w")
    saving_lib._save_state(model, store, assets_store=None, inner_path="", visited_saveables=set())
    store.close()
    return buffer.getvalue()


@_tested
@contextmanager
def without_variables() -> Iterator[None]:
    """Inside, networks are built whose variables have shapes and no values.

    Such variables wait in a list of Keras's, and the next scope would make them, gigabytes at worst: they are taken
    out of it, and the random state is put back, from which layers draw seeds.
    """
    import keras
    from keras.src.backend.common import global_state

    name = "uninitialized_variables"
    state = random.getstate()
    waiting = global_state.get_global_attribute(name)
    global_state.set_global_attribute(name, [])
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        random.setstate(state)
        global_state.set_global_attribute(name, waiting or [])


@_tested
def all_layers(model: "keras.Model") -> list["keras.Layer"]:
    """`model`, its layers, and those within networks that it holds; `model.layers` has the outermost only."""
    return list(model._flatten_layers())


@_tested
def averages_of(optimizer: "keras.optimizers.Optimizer") -> list[tuple[Any, Any]]:
    """(variable, average) of an optimizer with `use_ema`; the public way puts averages over the weights."""
    return list(zip(optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True))


@_tested
def index_of(optimizer: "keras.optimizers.Optimizer", variable: Any) -> int:
    """The place of `variable` among those that the optimizer was built for, which `update_step` is not told."""
    index: int = optimizer._get_variable_index(variable)
    return index


@_tested
def undecayed(optimizer: "keras.optimizers.Optimizer") -> str | None:
    """The pattern that `exclude_from_weight_decay` made of its names; the optimizer's config leaves it out."""
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    return None if pattern is None else str(pattern.pattern)


# -- fit ----------------------------------------------------------------------------------------------------------


@_tested
def set_first_epoch(model: "keras.Model", epoch: int | None) -> None:
    """Have `fit` begin with `epoch`, from `on_train_begin` on; None: as `fit` was told. BackupAndRestore does so."""
    model._initial_epoch = epoch


@_tested
def build_metrics(model: "keras.Model", batch: Any) -> None:
    """Make the variables of compiled metrics from the shapes of `batch`; in public, only a step of training does."""
    model._symbolic_build(data_batch=batch)


@_tested
@contextmanager
def patched_trainer(strategy: "tf.distribute.Strategy", workers: int) -> Iterator[None]:
    """Inside, `fit`, `evaluate` and `predict` work for models of `strategy`.

    Keras 3 does not run under MultiWorkerMirroredStrategy: https://github.com/keras-team/keras/issues/20585, open since
    December 2024. Two functions of its TensorFlow trainer are at fault; both are replaced, for this strategy only:

    - `_maybe_symbolic_build` averages the images of one step over the replicas. That fails over workers, and on one
      machine where replicas have unequal numbers of them; any one replica's images tell the shapes as well.
    - `reduce_per_replica`, replaced for several workers only, averages scalars along an axis that scalars do not have,
      and puts predictions in an order that only Keras's own sharding has.

    `steps_per_execution` must stay 1.
    """
    import tensorflow as tf
    from keras.src.backend.tensorflow import trainer

    stock_build, stock_reduce = trainer.TensorFlowTrainer._maybe_symbolic_build, trainer.reduce_per_replica

    def build(self: Any, iterator: Any = None, data_batch: Any = None) -> None:
        if self._distribute_strategy is not strategy:
            stock_build(self, iterator=iterator, data_batch=data_batch)
            return
        if iterator is not None:
            _, _, batches = next(iter(iterator))
            data_batch = tf.nest.map_structure(lambda v: strategy.experimental_local_results(v)[0], next(batches))
        with strategy.scope():
            self._symbolic_build(data_batch=data_batch)

    def reduce(values: Any, used: Any, reduction: str) -> Any:
        if used is not strategy or workers == 1:
            return stock_reduce(values, used, reduction)
        if reduction == "concat":  # replicas in their order, as `Devices.distribute` deals out the rows
            return tf.nest.map_structure(lambda value: strategy.gather(value, axis=0), values)
        return tf.nest.map_structure(lambda value: strategy.reduce("MEAN", value, axis=None), values)

    trainer.TensorFlowTrainer._maybe_symbolic_build, trainer.reduce_per_replica = build, reduce
    try:
        yield
    finally:
        trainer.TensorFlowTrainer._maybe_symbolic_build, trainer.reduce_per_replica = stock_build, stock_reduce


# -- TensorFlow's strategies --------------------------------------------------------------------------------------


@_tested
def set_steps(distributed: Any, steps: int) -> None:
    """Say how many steps a distributed dataset has, by which `fit` counts; TensorFlow counts the replicas' parts."""
    import numpy as np

    distributed._cardinality = np.int64(steps)


@_tested
def peer_answers(peer: str, seconds: float) -> bool:
    """Whether the worker `peer` ("/job:worker/replica:0/task:1") answers; a strategy looks for lost ones too late."""
    import tensorflow as tf
    from tensorflow.python.eager import context

    try:
        context.context().check_collective_ops_peer_health(peer, timeout_in_ms=int(seconds * 1000))
    except tf.errors.OpError:
        return False
    return True


@_tested
def abort_shared_work(reason: str) -> None:
    """End all collective operations of this process by UnavailableError; nothing public ends one that waits."""
    import tensorflow as tf
    from tensorflow.python.eager import context

    context.context().abort_collective_ops(tf.errors.UNAVAILABLE, reason)
