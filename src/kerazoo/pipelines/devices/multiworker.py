"""Keras's `fit` under TensorFlow's strategies, and the end of all workers when one is lost.

Keras 3 does not run under MultiWorkerMirroredStrategy: https://github.com/keras-team/keras/issues/20585, open since
December 2024. Two functions of its TensorFlow trainer are at fault; both are replaced here, only inside
`patched_trainer` and only for the strategy given:

- `_maybe_symbolic_build` averages the images of one step over the replicas. That fails over workers, and on one
  machine where replicas have unequal numbers of them; any one replica's images tell the shapes as well.
- `reduce_per_replica`, replaced for several workers only, averages scalars along an axis that scalars do not have, and
  puts predictions in an order that only Keras's own sharding has.

Both are private to Keras, so versions that the tests have not seen are refused. `steps_per_execution` must stay 1.
"""

import atexit
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.tensorflow import trainer
from tensorflow.python.eager import context

from kerazoo.errors import KerazooError

TESTED = ("3.15.1",)
PERIOD, PATIENCE = 5.0, 10.0  # seconds between looks at the peers, and for an answer; a loss shows within 3 of both
TRIES = 2
LOSSES = (
    tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError, tf.errors.CancelledError, tf.errors.InternalError,
)  # fmt: skip


class WorkerLostError(KerazooError):
    """Another worker died, hangs, or cannot be reached."""


def check_version(version: str = keras.__version__) -> None:
    """Raise KerazooError where this Keras has not been tested with the replaced functions."""
    if version not in TESTED:
        raise KerazooError(
            f"several devices need two private functions of Keras {' or '.join(TESTED)} replaced; this is Keras "
            f"{version}, which is untested: pip install keras=={TESTED[-1]}"
        )


@contextmanager
def patched_trainer(strategy: tf.distribute.Strategy, workers: int) -> Iterator[None]:
    """Inside, `fit`, `evaluate` and `predict` work for models of `strategy`. Raises KerazooError on another Keras."""
    check_version()
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


@contextmanager
def watching_peers(workers: int, worker: int) -> Iterator[None]:
    """Inside, the loss of another worker raises WorkerLostError, within 60 seconds.

    A killed process shows at once, because its connections close. A machine that vanishes or hangs closes nothing:
    each worker asks the others after their health and gives up all shared work where one does not answer.
    """
    stop = threading.Event()
    peers = [f"/job:worker/replica:0/task:{task}" for task in range(workers) if task != worker]
    thread = threading.Thread(target=_watch, args=(peers, stop), daemon=True, name="kerazoo-peers")
    thread.start()
    try:
        with worker_errors(workers, worker):
            yield
    finally:
        stop.set()


@contextmanager
def worker_errors(workers: int, worker: int) -> Iterator[None]:
    """Inside, the errors that TensorFlow makes of the loss of another worker are a WorkerLostError."""
    try:
        yield
    except LOSSES as error:
        atexit.register(_leave)
        raise WorkerLostError(
            f"worker {worker} of {workers} stops: another worker was lost ({_reason(error)}). "
            "To resume, run the same command again on every worker"
        ) from error


def _leave() -> None:
    """End the process with exit code 1 at once: TensorFlow's own ending waits for the lost worker."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _watch(peers: list[str], stop: threading.Event) -> None:
    """Look at the peers in turn until `stop`; end all collective operations where one does not answer."""
    while not stop.wait(PERIOD):
        for peer in peers:
            if not any(_answers(peer) for _ in range(TRIES)) and not stop.is_set():
                task = peer.rpartition(":")[2]
                context.context().abort_collective_ops(tf.errors.UNAVAILABLE, f"worker {task} does not answer")
                return


def _answers(peer: str) -> bool:
    try:
        context.context().check_collective_ops_peer_health(peer, timeout_in_ms=int(PATIENCE * 1000))
    except tf.errors.OpError:
        return False
    return True


def _reason(error: tf.errors.OpError) -> str:
    """The line of TensorFlow's message that says what happened."""
    lines = [line.strip() for line in str(error.message).splitlines()]
    worker_errors = [line.partition("aborted by: ")[2] for line in lines if "aborted by: " in line]
    return (worker_errors or [line for line in lines if line] or [type(error).__name__])[0][:200].rstrip(".: ")
