"""The private names of Keras and TensorFlow that kerazoo uses. No other module uses any.

Each function says why there is no public way. `tests/test_keras_private.py` has a test for each. Before you change
KERAS or TENSORFLOW, the new version must pass these tests. Nothing is imported before a function is called.
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

KERAS, TENSORFLOW = "3.15.1", "2.21.0"  # the tested versions; later ones with the same first two numbers are allowed
P = ParamSpec("P")
R = TypeVar("R")

# Methods of an optimizer on the TensorFlow backend, called in this order when gradients are applied. The first clips
# gradients, the second sums those of all replicas. Keras has no callback that receives gradients.
CLIP_GRADIENTS, SUM_GRADIENTS = "_clip_gradients", "_all_reduce_sum_gradients"
# The same on the JAX backend: it receives the gradients with their variables, and calls the one that clips.
APPLY_GRADIENTS = "_backend_apply_gradients"
# `experimental_attributes` of a tf.function that stays one operation in the graph; only the argument is public
NO_INLINE = {"_noinline": True}


def check_versions(keras_version: str | None = None, tensorflow_version: str | None = None) -> None:
    """Raise KerazooError, which says what to install, if this version of Keras or TensorFlow was not tested."""
    import keras
    import tensorflow as tf

    for name, tested, version in (
        ("keras", KERAS, keras_version or keras.__version__),
        ("tensorflow", TENSORFLOW, tensorflow_version or tf.__version__),
    ):
        if version.split(".")[:2] != tested.split(".")[:2] or _numbers(version) < _numbers(tested):
            raise KerazooError(
                f"{name} must be {tested} or a later {_series(tested)}, because kerazoo uses private names that are "
                f"tested only there, got {version}; run pip install '{name}~={tested}'"
            )


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")[:3] if part.isdigit()]


def _series(version: str) -> str:
    return ".".join([*version.split(".")[:2], "x"])


def _tested(function: Callable[P, R]) -> Callable[P, R]:
    """`function` with a check that the versions are tested."""

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        check_versions()
        return function(*args, **kwargs)

    return checked


# -- models and optimizers ----------------------------------------------------------------------------------------


@_tested
def weights_file(model: "keras.Model") -> bytes:
    """The contents of a .weights.h5 file, created in memory.

    `save_weights` writes the file to the disk in pieces. On a full disk, HDF5 cannot close it, and the interpreter ends
    with SIGSEGV.
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
    """Inside, the variables of new networks have shapes but no values.

    Keras keeps such variables in a list, and the next scope would create them, with gigabytes in the worst case. They
    are removed from the list. The random state, from which layers draw seeds, is restored.
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
    """`model`, its layers, and the layers of nested networks; `model.layers` has only the outermost."""
    return list(model._flatten_layers())


@_tested
def sublayers(layer: "keras.Layer") -> list["keras.Layer"]:
    """The layers that `layer` holds itself, not those within them; in public, only models have `layers`."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


@_tested
@contextmanager
def forgotten_calls(layer: "keras.Layer") -> Iterator[None]:
    """Inside, calls of `layer` and of what is in it on symbolic tensors are recorded as usual; then they are removed.

    Keras keeps each such call for ever, and `layer.output` raises an error after the second one.
    """
    operations = {}
    for part in layer._flatten_layers():
        for operation in (part, *getattr(part, "operations", ())):
            operations[id(operation)] = operation
    before = [(one, len(one._inbound_nodes), len(one._outbound_nodes)) for one in operations.values()]
    try:
        yield
    finally:
        for operation, inbound, outbound in before:
            del operation._inbound_nodes[inbound:]
            del operation._outbound_nodes[outbound:]


@_tested
def calls_between(
    inputs: list[Any], outputs: list[Any]
) -> list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Any]]]:
    """(operation, its arguments, its keyword arguments, its outputs) of each call from `inputs` to `outputs`.

    They are symbolic tensors, and the calls are in an order in which they can run. `operations` of a `keras.Function`
    has no arguments, and has each operation once.
    """
    import keras

    by_depth = keras.Function(inputs, outputs)._nodes_by_depth
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input]
    return [(node.operation, node.arguments.args, node.arguments.kwargs, list(node.outputs)) for node in nodes]


@_tested
def averages_of(optimizer: "keras.optimizers.Optimizer") -> list[tuple[Any, Any]]:
    """The (variable, average) pairs of an optimizer with `use_ema`; the public way overwrites the weights."""
    return list(zip(optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True))


@_tested
def optimized(optimizer: "keras.optimizers.Optimizer | None") -> list[Any]:
    """The variables that an optimizer was built for; none where it is not built, or is several in one."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return list(getattr(optimizer, "_trainable_variables", ()))


@_tested
def index_of(optimizer: "keras.optimizers.Optimizer", variable: Any) -> int:
    """The index of `variable` among the optimizer's variables, which `update_step` does not receive."""
    index: int = optimizer._get_variable_index(variable)
    return index


@_tested
def batches_seen(optimizer: "keras.optimizers.Optimizer") -> Any:
    """The variable that counts batches; `iterations` counts updates, fewer where gradients are accumulated."""
    return optimizer._iterations


@_tested
def undecayed(optimizer: "keras.optimizers.Optimizer") -> str | None:
    """The pattern of `exclude_from_weight_decay`, which is not in the optimizer's config."""
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    return None if pattern is None else str(pattern.pattern)


# -- fit ----------------------------------------------------------------------------------------------------------


@_tested
def set_first_epoch(model: "keras.Model", epoch: int | None) -> None:
    """Make `fit` start with `epoch`, from `on_train_begin` on; None: as its argument says. BackupAndRestore does so."""
    model._initial_epoch = epoch


@_tested
def build_metrics(model: "keras.Model", batch: Any) -> None:
    """Create the variables of compiled metrics from the shapes of `batch`; publicly, only a training step does this."""
    model._symbolic_build(data_batch=batch)


@_tested
@contextmanager
def patched_trainer(strategy: "tf.distribute.Strategy", workers: int) -> Iterator[None]:
    """Inside, `fit`, `evaluate` and `predict` work for models of `strategy`.

    Keras 3 does not run under MultiWorkerMirroredStrategy: https://github.com/keras-team/keras/issues/20585, open since
    December 2024. The cause is two functions of its TensorFlow trainer. Both are replaced, for this strategy only:

    - `_maybe_symbolic_build` averages the images of one step over the replicas. This fails with several workers, and on
      one machine if replicas have different numbers of images. One replica's images are enough for the shapes.
    - `reduce_per_replica`, replaced only for several workers, averages scalars along an axis that scalars do not have,
      and orders predictions for Keras's own sharding.

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
        if reduction == "concat":  # replicas in order, because `Devices.distribute` distributes the rows in order
            return tf.nest.map_structure(lambda value: strategy.gather(value, axis=0), values)
        return tf.nest.map_structure(lambda value: strategy.reduce("MEAN", value, axis=None), values)

    trainer.TensorFlowTrainer._maybe_symbolic_build, trainer.reduce_per_replica = build, reduce
    try:
        yield
    finally:
        trainer.TensorFlowTrainer._maybe_symbolic_build, trainer.reduce_per_replica = stock_build, stock_reduce


# -- TensorFlow's strategies --------------------------------------------------------------------------------------


@_tested
def is_deterministic() -> bool:
    """Whether operations were made deterministic; in public that can be set, not read."""
    from tensorflow.python.framework import config

    return bool(config.is_op_determinism_enabled())


@_tested
def set_steps(distributed: Any, steps: int) -> None:
    """Set the number of steps of a distributed dataset for `fit`; TensorFlow counts the replicas' parts instead."""
    import numpy as np

    distributed._cardinality = np.int64(steps)


@_tested
def peer_answers(peer: str, seconds: float) -> bool:
    """Whether the worker `peer` ("/job:worker/replica:0/task:1") answers; a strategy notices lost workers too late."""
    import tensorflow as tf
    from tensorflow.python.eager import context

    try:
        context.context().check_collective_ops_peer_health(peer, timeout_in_ms=int(seconds * 1000))
    except tf.errors.OpError:
        return False
    return True


@_tested
def abort_shared_work(reason: str) -> None:
    """Abort all collective operations of this process with UnavailableError; no public function can do this."""
    import tensorflow as tf
    from tensorflow.python.eager import context

    context.context().abort_collective_ops(tf.errors.UNAVAILABLE, reason)
