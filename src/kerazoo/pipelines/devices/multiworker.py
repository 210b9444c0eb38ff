"""The end of all workers when one is lost, by one clear line in each."""

import atexit
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from kerazoo.errors import KerazooError
from kerazoo.keras_private import abort_shared_work, peer_answers

PERIOD, PATIENCE = 5.0, 10.0  # seconds between looks at the peers, and for an answer; a loss shows within 3 of both
TRIES = 2
LOSSES = (
    tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError, tf.errors.CancelledError, tf.errors.InternalError,
)  # fmt: skip


class WorkerLostError(KerazooError):
    """Another worker died, hangs, or cannot be reached."""


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
            if not any(peer_answers(peer, PATIENCE) for _ in range(TRIES)) and not stop.is_set():
                task = peer.rpartition(":")[2]
                abort_shared_work(f"worker {task} does not answer")
                return


def _reason(error: tf.errors.OpError) -> str:
    """The line of TensorFlow's message that says what happened."""
    lines = [line.strip() for line in str(error.message).splitlines()]
    worker_errors = [line.partition("aborted by: ")[2] for line in lines if "aborted by: " in line]
    return (worker_errors or [line for line in lines if line] or [type(error).__name__])[0][:200].rstrip(".: ")
