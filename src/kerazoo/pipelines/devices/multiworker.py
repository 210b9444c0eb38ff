"""Stop all workers with one clear message each if one worker is lost."""

import atexit
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from kerazoo.errors import KerazooError
from kerazoo.keras_private import abort_shared_work, peer_answers

PERIOD, PATIENCE = 5.0, 10.0  # seconds between checks of the peers, and to wait for an answer
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

    A killed process is noticed at once, because its connections close. A machine that fails or hangs closes nothing.
    Each worker therefore checks the others, and aborts all collective operations if one does not answer.
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
    """Inside, TensorFlow's errors after the loss of another worker become a WorkerLostError."""
    try:
        yield
    except LOSSES as error:
        atexit.register(_leave)
        raise WorkerLostError(
            f"worker {worker} of {workers} stops: another worker was lost ({_reason(error)}). "
            "To resume, run the same command again on every worker"
        ) from error


def _leave() -> None:
    """End the process with exit code 1 at once, because TensorFlow's own exit waits for the lost worker."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _watch(peers: list[str], stop: threading.Event) -> None:
    """Check the peers in turn until `stop`; abort all collective operations if one does not answer."""
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
