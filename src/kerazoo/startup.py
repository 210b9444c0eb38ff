"""Start TensorFlow without its start-up messages, and fresh Python processes that import only installed code."""

import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# -I ignores the current folder, PYTHON* variables and the user's packages. kerazoo itself is loaded from its present
# folder, which may not be installed, and the folders in `more` come last, after the installed packages
START = """
import importlib, importlib.util, sys
package, more, module, function, *arguments = sys.argv[1:]
sys.path += [folder for folder in more.splitlines() if folder not in sys.path]
spec = importlib.util.spec_from_file_location("kerazoo", package + "/__init__.py", submodule_search_locations=[package])
sys.modules["kerazoo"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["kerazoo"])
getattr(importlib.import_module(module), function)(*arguments)
"""
_SECONDS: list[float] = []  # of each `starting`, without those within it
HEAVY = ("numpy", "tensorflow", "h5py")  # packages that may be outside the standard folders


def fresh_python(module: str, function: str, *arguments: str) -> list[str]:
    """The command that calls `function(*arguments)` of the kerazoo module `module` in a fresh process."""
    loaded = [getattr(sys.modules.get(name), "__file__", None) for name in HEAVY]
    folders = dict.fromkeys(Path(file).resolve().parents[1] for file in loaded if file)
    folders.pop(Path.cwd().resolve(), None)
    package = str(Path(__file__).resolve().parent)
    return [sys.executable, "-I", "-c", START, package, "\n".join(map(str, folders)), module, function, *arguments]


@contextmanager
def quiet_start(*, show: bool = True) -> Iterator[None]:
    """Inside, the output of native code to file descriptor 2 goes to a temporary file.

    It is shown if the body fails, unless `show` is False. Import tensorflow and use its
    devices once in here. Python's own `sys.stderr` still works.
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
            os.write(2, log.read() if show else b"")
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            sys.stderr.close()
            sys.stderr = own


@contextmanager
def starting() -> Iterator[None]:
    """`quiet_start` without warnings of Python, for the start of TensorFlow; its time is counted."""
    begin = time.perf_counter()
    before = sum(_SECONDS)
    try:
        with quiet_start(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        within = sum(_SECONDS) - before
        _SECONDS.append(time.perf_counter() - begin - within)


def take_start_seconds() -> float:
    """How long TensorFlow and its devices took to start in this process, for the first who asks; 0 for others."""
    seconds = sum(_SECONDS)
    _SECONDS.clear()
    return seconds


def import_keras() -> None:
    """Import keras, and TensorFlow with it, without their messages. The devices are not started."""
    if sys.modules.get("keras") is not None:
        return
    with starting():
        import keras  # noqa: F401


def start_tensorflow(*, keras: bool = True) -> None:
    """Import tensorflow and start the devices without messages. Without `keras`, keras cannot be imported afterwards.

    `import tensorflow` imports keras if it is installed. A blocked entry in `sys.modules` has the same effect as a
    machine without keras. If keras was already imported, this has no effect.
    """
    if not keras:
        sys.modules.setdefault("keras", None)  # type: ignore[arg-type]
    with starting():
        import tensorflow as tf

        tf.constant(0) + 1  # the first operation prints the features of the processor
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)
