"""What results may depend on besides recipe and data: versions, hardware, the code's commit, the command."""

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
from kerazoo.models import installed

PACKAGES = ("kerazoo", "keras", "tensorflow", "numpy", "scikit-learn", "pillow", "jax", "jaxlib")
PATIENCE = 1.0  # seconds for each call of git
# TF_CLI_, TF_TOKEN_ and TF_VAR_ belong to Terraform
VARIABLE = re.compile(r"CUDA_VISIBLE_DEVICES|KERAS_BACKEND|XLA_FLAGS|KERAZOO_.*|TF_(?!CLI_|TOKEN_|VAR_).*")
# the variables that can change the last bits of results
MOVING = re.compile(r"XLA_FLAGS|TF_(ENABLE_ONEDNN_OPTS|NUM_INTRAOP_THREADS|DETERMINISTIC_OPS)")
SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|(^|_)KEY(_|$)", re.IGNORECASE)
SOURCE = Path(__file__).parents[1]


def environment() -> dict[str, Any]:
    """Versions, hardware, backend, git state, command, variables and the time; None for unknown values."""
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
    """The environment recorded when a run started. A damaged record is renamed and replaced by the present one.

    The record only informs, so a damaged one must not stop a run.
    """
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
    """The changes that can alter the last bits of results, in words: "cpus: 8 -> 4".

    The number of CPUs is one of them, because sums are divided among their threads.
    """
    old = _moving(before)
    new = _moving(now)
    return [
        f"{what}: {old.get(what)} -> {new.get(what)}" for what in sorted({*old, *new}) if old.get(what) != new.get(what)
    ]


def _moving(environment: dict[str, Any]) -> dict[str, Any]:
    facts = {what: environment.get(what) for what in ("python", "backend", "cpus")}
    facts |= _object(environment, "versions")
    facts |= {what: value for what, value in _object(environment, "variables").items() if MOVING.fullmatch(what)}
    return facts | {"commit": _object(environment, "git").get("commit")}


def _object(environment: dict[str, Any], key: str) -> dict[str, Any]:
    """The object under `key`; an empty one if the value is not an object, which happens if a user edited the file."""
    value = environment.get(key)
    return value if isinstance(value, dict) else {}


def cpus() -> int | None:
    """The number of CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def memory() -> int | None:
    """The machine's memory in bytes."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def gpus() -> list[str] | None:
    """The names of TensorFlow's GPUs; None if TensorFlow is not imported, because importing it takes seconds."""
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None:
        return None
    try:
        config = tensorflow.config
        devices = config.list_physical_devices("GPU")
        return [config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in devices]
    except Exception:  # training reports a broken driver
        return None


def _backend() -> str | None:
    keras = sys.modules.get("keras")
    return os.environ.get("KERAS_BACKEND") if keras is None else str(keras.config.backend())


def versions() -> dict[str, str]:
    """The versions of the installed packages that results depend on, those of networks in use among them."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found | installed.versions()


def git_state(folder: Path) -> dict[str, Any] | None:
    """{"commit": hash, "dirty": whether files in `folder` differ from it}; None if git does not track `folder`.

    A package that is installed inside another project's checkout is not tracked by that checkout.
    """
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--", ".")
    return None if commit is None else {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    # a hook's GIT_DIR would select another repository; locks would disturb other git commands in this one
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *arguments],  # fsmonitor would run a program
            capture_output=True, text=True, timeout=PATIENCE, check=True,
            stdin=subprocess.DEVNULL, env=surroundings | {"GIT_OPTIONAL_LOCKS": "0"}, errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def variables() -> dict[str, str]:
    """The environment variables that change results or devices, without those whose names suggest a secret."""
    known = {name: value for name, value in sorted(os.environ.items()) if VARIABLE.fullmatch(name)}
    return {name: value for name, value in known.items() if not SECRET.search(name)}
