"""What a run says of where it was made: right, quick, and without secrets."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import keras
import numpy as np
import pytest

from kerazoo.runs import environment as module
from kerazoo.runs.environment import changes, environment, git_state


def git(folder, *arguments):
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=surroundings).stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    """A repository that keeps one package, and one that it does not keep."""
    for name in ("kept", "installed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    git(tmp_path, "init", "--quiet")
    (tmp_path / ".gitignore").write_text("installed\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--no-verify", "-m", "first")
    return tmp_path


def test_all_that_numbers_depend_on():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {
        "started", "command", "python", "platform", "cpus", "memory", "gpus", "backend", "versions", "git", "variables",
    }  # fmt: skip
    assert found["versions"]["keras"] == keras.__version__
    assert found["versions"]["numpy"] == np.__version__
    assert found["backend"] == keras.config.backend()
    assert found["command"] == sys.argv
    assert found["cpus"] == len(os.sched_getaffinity(0))
    assert found["memory"] > 1e8
    assert isinstance(found["gpus"], list)
    assert abs(datetime.fromisoformat(found["started"]) - datetime.now(UTC)) < timedelta(minutes=1)


def test_what_moves_numbers_is_told_from_what_does_not():
    now = environment()
    still = now | {"started": "", "command": [], "memory": 1, "platform": "", "gpus": ["H200"]}
    still |= {"variables": now["variables"] | {"TF_CONFIG": "{}", "KERAZOO_CACHE": "x"}}
    assert changes(still, now) == []
    before = now | {"cpus": now["cpus"] + 1, "backend": "jax", "git": None, "variables": {"TF_ENABLE_ONEDNN_OPTS": "0"}}
    before["versions"] = {"numpy": "1.26.0"} | {name: v for name, v in now["versions"].items() if name != "numpy"}
    told = [
        f"TF_ENABLE_ONEDNN_OPTS: 0 -> {now['variables'].get('TF_ENABLE_ONEDNN_OPTS')}",
        f"backend: jax -> {now['backend']}",
        *([f"commit: None -> {now['git']['commit']}"] if now["git"] else []),
        f"cpus: {now['cpus'] + 1} -> {now['cpus']}",
        f"numpy: 1.26.0 -> {np.__version__}",
    ]
    assert changes(before, now) == told
    assert "cpus: None ->" in ", ".join(changes({}, now))  # of an older version


def test_the_gpus_are_named(monkeypatch):
    import tensorflow as tf

    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [gpu])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda _: {"device_name": "H200"})
    assert environment()["gpus"] == ["H200"]

    def fails(_):
        raise RuntimeError("the driver is gone")

    monkeypatch.setattr(tf.config.experimental, "get_device_details", fails)
    assert environment()["gpus"] is None


def test_tensorflow_is_not_imported_for_it():
    script = "import sys; from kerazoo.runs.environment import environment; e = environment()\n"
    script += "assert e['gpus'] is None and 'tensorflow' not in sys.modules; assert e['backend'] == 'jax'"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, env=os.environ | {"KERAS_BACKEND": "jax"})


def test_the_commit_and_whether_the_code_differs(checkout, monkeypatch):
    commit = git(checkout, "rev-parse", "HEAD")
    assert git_state(checkout / "kept") == {"commit": commit, "dirty": False}
    (checkout / "notes.txt").write_text("beside the package")
    assert git_state(checkout / "kept") == {"commit": commit, "dirty": False}
    monkeypatch.setenv("GIT_DIR", str(checkout / "nowhere"))  # as a hook has it
    (checkout / "kept" / "new.py").write_text("")
    assert git_state(checkout / "kept") == {"commit": commit, "dirty": True}


def test_an_installed_package_has_no_commit(checkout, tmp_path, monkeypatch):
    assert git_state(checkout / "installed") is None  # though it lies in someone's checkout
    assert git_state(tmp_path / "absent") is None
    monkeypatch.setenv("PATH", "")  # no git at all
    assert git_state(checkout / "kept") is None
    assert environment()["git"] is None


def test_a_git_that_hangs_is_not_waited_for(checkout, tmp_path, monkeypatch):
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    start = time.monotonic()
    assert git_state(checkout / "kept") is None
    assert time.monotonic() - start < 5


def test_variables_without_secrets(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("TF_", "KERAZOO_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    told = {"TF_DETERMINISTIC_OPS": "1", "XLA_FLAGS": "--x", "CUDA_VISIBLE_DEVICES": "", "KERAZOO_CACHE": "/c"}
    hidden = {
        "TF_TOKEN_app_terraform_io": "s",
        "TF_VAR_x": "s",
        "KERAZOO_API_KEY": "s",
        "AWS_SECRET": "s",
        "HOME": "/h",
    }
    for name, value in (told | hidden).items():
        monkeypatch.setenv(name, value)
    assert environment()["variables"] == told | {"KERAS_BACKEND": "tensorflow"}
