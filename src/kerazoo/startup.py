"""Starting TensorFlow without its start-up lines, and fresh Python processes that import installed code only."""

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# -I leaves out the current folder, PYTHON* variables and the user's packages; kerazoo itself is loaded from the folder
# that runs now (an editable install, or one that is not installed), and `more` comes last, behind what is installed
START = """
import importlib, importlib.util, sys
package, more, module, function, *arguments = sys.argv[1:]
sys.path += [folder for folder in more.splitlines() if folder not in sys.path]
spec = importlib.util.spec_from_file_location("kerazoo", package + "/__init__.py", submodule_search_locations=[package])
sys.modules["kerazoo"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["kerazoo"])
getattr(importlib.import_module(module), function)(*arguments)
"""
HEAVY = ("numpy", "tensorflow", "h5py")  # as this process found them, they may be outside of the standard folders


def fresh_python(module: str, function: str, *arguments: str) -> list[str]:
    """The command that calls `function(*arguments)` of the kerazoo module `module` in a fresh process."""
    loaded = [getattr(sys.modules.get(name), "__file__", None) for name in HEAVY]
    folders = dict.fromkeys(Path(file).resolve().parents[1] for file in loaded if file)
    folders.pop(Path.cwd().resolve(), None)
    package = str(Path(__file__).resolve().parent)
    return [sys.executable, "-I", "-c", START, package, "\n".join(map(str, folders)), module, function, *arguments]


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


def import_keras() -> None:
    """Import keras, and TensorFlow with it, without their messages. The devices are not started."""
    if sys.modules.get("keras") is not None:
        return
    with quiet_start(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import keras  # noqa: F401


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
