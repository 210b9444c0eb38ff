"""The wheel holds the package whole, with recipes, shipped weights and the list of published ones, and nothing else."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import house
import pytest

import kerazoo

ROOT = Path(__file__).parents[1]
# run in a process that has the wheel's contents only
INSTALLED = """
import sys
from pathlib import Path
import kerazoo
from kerazoo.models.saved import load_spec
from kerazoo.models.weights.published import published
from kerazoo.models.weights.sources import shipped

assert Path(kerazoo.__file__).is_relative_to(sys.argv[1]), kerazoo.__file__
assert kerazoo.Recipe.for_training("resnet20", "data").optimizer.name == "sgd"
assert load_spec(shipped("bottleneck_cnn", "mnist")).name == "bottleneck_cnn"
assert published("vgg16").name
"""


@pytest.mark.slow  # pip fetches the build backend: it needs the network
def test_the_wheel_holds_the_package_and_nothing_else(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--wheel-dir", str(tmp_path / "wheel")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if "No matching distribution found for hatchling" in done.stderr:
        pytest.skip("there is no network to fetch hatchling from")
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "wheel").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    about = f"kerazoo-{kerazoo.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"kerazoo", about}  # no `models`, `recipes`, ... at the top
    files = {path for path in house.SOURCE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    wanted = {str(path.relative_to(house.SOURCE.parent)) for path in files}
    assert {name for name in names if name.startswith("kerazoo/")} == wanted
    assert f"{about}/licenses/LICENSE" in names
    place = str(tmp_path / "installed")
    environment = {**os.environ, "PYTHONPATH": place}
    subprocess.run([sys.executable, "-P", "-c", INSTALLED, place], check=True, env=environment, timeout=60)
