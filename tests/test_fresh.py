"""Fresh processes import installed code only; what a folder or PYTHONPATH plants is never run."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from conftest import plant_modules

import kerazoo
from kerazoo.startup import fresh_python

LOOK = """
import importlib.util, json, kerazoo.serving
print(kerazoo.__file__, json.__file__, importlib.util.find_spec("tensorflow").origin)
"""


@pytest.mark.parametrize("place", ["here", "PYTHONPATH", "not installed"])
def test_a_fresh_process_imports_installed_code_only(tmp_path, place):
    planted = plant_modules(tmp_path / "planted")
    source = Path(kerazoo.__file__).parents[1]
    done = subprocess.run(
        fresh_python("builtins", "exec", LOOK), capture_output=True, text=True, check=False,
        cwd=tmp_path if place == "PYTHONPATH" else planted,
        env={**os.environ, "PYTHONPATH": str(source if place == "not installed" else planted)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ours, *others = done.stdout.split()
    assert Path(ours).samefile(kerazoo.__file__)
    assert str(planted) not in "".join(others)
    assert not (planted / "ran").exists()


def test_folders_outside_of_the_standard_ones_come_last(tmp_path, monkeypatch):
    """h5py was imported from a folder that holds other modules, too."""
    planted = plant_modules(tmp_path / "planted")
    module = types.ModuleType("h5py")
    module.__file__ = str(planted / "h5py" / "__init__.py")
    monkeypatch.setitem(sys.modules, "h5py", module)
    command = fresh_python("builtins", "exec", LOOK)
    assert str(planted) in "\n".join(command)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert str(planted) not in done.stdout
    assert not (planted / "ran").exists()


SLOW = pytest.mark.slow  # each starts TensorFlow; the first one does, too


@pytest.mark.parametrize(
    "call",
    [
        "kerazoo.build('mlp')",
        *(pytest.param(call, marks=SLOW) for call in ("kerazoo.describe('mlp').arguments", "kerazoo.callbacks")),
    ],
)
def test_tensorflow_starts_in_silence_in_python_calls(tmp_path, call):
    done = subprocess.run(
        [sys.executable, "-c", f"import kerazoo; {call}; print('done')"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_the_package_runs_as_a_module(tmp_path):
    command = [sys.executable, "-m", "kerazoo", "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"kerazoo {kerazoo.__version__}\n"
