"""The programs of the guides in environments that hold nothing but the package they name."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest
from conftest import make_images

import kerazoo
from kerazoo.exports.export import export_run
from kerazoo.exports.formats.table import FORMATS
from kerazoo.recipes.recipe import make_recipe
from kerazoo.training.train import train

pytestmark = pytest.mark.slow  # each environment is made from the package index; TensorFlow's has 2 GB
GUIDES = Path(__file__).parents[1] / "docs/guides"
PACKAGES = {"onnxruntime": "onnx", "ai-edge-litert": "litert", "openvino": "openvino"}  # and the export's format


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with saved_models/flowers/1, in all formats that can be written here, and rose.jpg."""
    folder = tmp_path_factory.mktemp("place")
    images = make_images(folder / "images", count=8, size=24)
    values = {
        "model": {"name": "bottleneck_cnn"}, "data": {"path": str(images), "size": 16, "channels": 3},
        "training": {"epochs": 1},
    }  # fmt: skip
    run = train(make_recipe(values), name="flowers", root=folder / "runs")
    formats = [name for name in PACKAGES.values() if all(map(installed, FORMATS[name].packages))]
    export_run(run, formats=formats, root=folder / "saved_models")
    (folder / "rose.jpg").write_bytes(next(images.rglob("*.png")).read_bytes())
    return folder


def installed(package):
    import importlib.util

    return importlib.util.find_spec(package) is not None


def said_in(tmp_path, packages, code, folder):
    """What the program prints in a new environment with these packages and what they need."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *packages], check=True)
    names = subprocess.run([*pip[:5], "list", "--format=freeze"], check=True, capture_output=True, text=True).stdout
    done = subprocess.run([python, "-I", "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split(), {line.split("==")[0].lower() for line in names.splitlines()}


def expected(place):
    (prediction,) = kerazoo.predict(str(place / "saved_models/flowers"), [place / "rose.jpg"])
    return prediction.top[0]


def test_tensorflow_alone(place, tmp_path):
    code = (GUIDES / "serving.md").read_text().split("## TensorFlow alone\n")[1].split("```python\n")[1].split("```")[0]
    said, packages = said_in(tmp_path, ["tensorflow>=2.21,<2.22"], code, place)
    assert "kerazoo" not in packages
    label, probability = expected(place)
    assert said[0] == label
    assert float(said[1]) == pytest.approx(probability, abs=1e-5)


@pytest.mark.parametrize("package", PACKAGES)
def test_an_engine_alone(place, tmp_path, package):
    name = PACKAGES[package]
    if not (place / "saved_models/flowers/1" / FORMATS[name].file).exists():
        pytest.skip(f"{name} cannot be written here")
    programs = (GUIDES / "export.md").read_text().split("ONNX Runtime:\n")[1].split("```python\n")
    code = programs[1].split("```")[0]
    if name != "onnx":
        words = {"litert": "LiteRT, with", "openvino": "OpenVINO:\n"}[name]
        code = code.split("session =")[0].replace("import onnxruntime\n", "")
        code += (GUIDES / "export.md").read_text().split(words)[1].split("```python\n")[1].split("```")[0]
        code += 'print(settings["class_names"][probabilities[0].argmax()])'
    said, packages = said_in(tmp_path, [package, "numpy", "pillow"], code, place)
    assert not {"tensorflow", "keras", "kerazoo"} & packages
    assert said == [expected(place)[0]]
