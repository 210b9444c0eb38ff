"""Keeps TensorFlow's start-up lines off the terminal. No environment variable silences all of them."""

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_start() -> Iterator[None]:
    """Inside, what native code writes to file descriptor 2 goes to a temporary file; it is shown if the body fails.

    Import tensorflow and touch its devices once in here. Python's own `sys.stderr` keeps working.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    own, sys.stderr = sys.stderr, os.fdopen(os.dup(2), "w", buffering=1)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except Exception:
            os.dup2(kept, 2)
            log.seek(0)
            os.write(2, log.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            sys.stderr.close()
            sys.stderr = own


def start_tensorflow(*, keras: bool = True) -> None:
    """Import tensorflow and start the devices, in silence. Without `keras`, no later import can bring it in.

    `import tensorflow` imports keras wherever it is installed; a blocked entry in `sys.modules` is what a process on a
    machine without keras would see. It has no effect where keras was imported before.
    """
    if not keras:
        sys.modules.setdefault("keras", None)  # type: ignore[arg-type]
    with quiet_start(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow as tf

        tf.constant(0) + 1  # the first operation prints what the processor can do
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)
