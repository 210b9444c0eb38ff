"""What numbers may depend on beside recipe and data: versions, hardware, the code's commit, the command."""

import os
import platform
import re
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from kerazoo.errors import KerazooError
from kerazoo.files import read_json, set_aside, write_json

PACKAGES = ("kerazoo", "keras", "tensorflow", "numpy", "scikit-learn", "pillow", "jax", "jaxlib")
PATIENCE = 1.0  # seconds for each question to git
VARIABLE = re.compile(
    r"CUDA_VISIBLE_DEVICES|KERAS_BACKEND|XLA_FLAGS|KERAZOO_.*|TF_(?!CLI_|TOKEN_|VAR_).*"
)  # Terraform's
MOVING = re.compile(r"XLA_FLAGS|TF_(ENABLE_ONEDNN_OPTS|NUM_INTRAOP_THREADS|DETERMINISTIC_OPS)")  # of those, the numbers
SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|(^|_)KEY(_|$)", re.IGNORECASE)
SOURCE = Path(__file__).parents[1]


def environment() -> dict[str, Any]:
    """Versions, hardware, backend, git state, command, variables and the time; None for what cannot be known."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": cpus(),
        "memory": memory(),
        "gpus": gpus(),
        "backend": _backend(),
        "versions": versions(),
        "git": git_state(SOURCE),
        "variables": variables(),
    }


def recorded(path: Path) -> dict[str, Any]:
    """What `environment` gave as a run began. It informs only: if it is damaged, it is set aside, and this one kept."""
    try:
        return read_json(path)
    except KerazooError as error:
        now = environment()
        with suppress(OSError):
            if path.exists():
                set_aside(path, str(error))
            write_json(path, now)
        return now


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is not as it was and can move the last bits of every number: "cpus was 8, is 4".

    The count of CPUs is one of them: sums are parted among their threads.
    """
    old, new = _moving(before), _moving(now)
    return [
        f"{what} was {old.get(what)}, is {new.get(what)}"
        for what in sorted({*old, *new})
        if old.get(what) != new.get(what)
    ]


def _moving(environment: dict[str, Any]) -> dict[str, Any]:
    found = {what: environment.get(what) for what in ("python", "backend", "cpus")}
    found |= _object(environment, "versions")
    found |= {what: value for what, value in _object(environment, "variables").items() if MOVING.fullmatch(what)}
    return found | {"commit": _object(environment, "git").get("commit")}


def _object(environment: dict[str, Any], key: str) -> dict[str, Any]:
    """The object under `key`; an empty one if it was edited to be something else."""
    value = environment.get(key)
    return value if isinstance(value, dict) else {}


def cpus() -> int | None:
    """How many CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def memory() -> int | None:
    """Bytes of the machine's memory."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def gpus() -> list[str] | None:
    """The names of the GPUs that TensorFlow sees; None where it is not imported, for that takes seconds."""
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None:
        return None
    try:
        config = tensorflow.config
        found = config.list_physical_devices("GPU")
        return [config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in found]
    except Exception:  # a driver that fails is training's to report
        return None


def _backend() -> str | None:
    keras = sys.modules.get("keras")
    return os.environ.get("KERAS_BACKEND") if keras is None else str(keras.config.backend())


def versions() -> dict[str, str]:
    """Of the packages that numbers depend on, as far as they are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state(folder: Path) -> dict[str, Any] | None:
    """{"commit": hash, "dirty": whether files below `folder` differ from it}; None where git does not keep `folder`.

    An installed package that merely lies within someone's checkout is not kept by it.
    """
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "--", ".")
    return None if commit is None else {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    # a hook's GIT_DIR would answer for another repository; locks would disturb whoever works in this one
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *arguments],  # it names a program to run
            capture_output=True, text=True, timeout=PATIENCE, check=True,
            stdin=subprocess.DEVNULL, env=surroundings | {"GIT_OPTIONAL_LOCKS": "0"}, errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def variables() -> dict[str, str]:
    """The environment variables that change what is computed, or where; none whose name says it is a secret."""
    known = {name: value for name, value in sorted(os.environ.items()) if VARIABLE.fullmatch(name)}
    return {name: value for name, value in known.items() if not SECRET.search(name)}
