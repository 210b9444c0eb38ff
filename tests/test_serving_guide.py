"""The guide to serving: its programs run as they stand, and what it says of "Could not find variable" is so."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_images
from servers import serving

import kerazoo
from kerazoo.exports.export import export_run
from kerazoo.recipes.recipe import make_recipe
from kerazoo.training.train import train

GUIDE = (Path(__file__).parents[1] / "docs/guides/serving.md").read_text()
TOOL = Path(sys.executable).with_name("saved_model_cli")


def program(heading):
    """The first Python program below a heading of the guide."""
    return GUIDE.split(f"## {heading}\n")[1].split("```python\n")[1].split("```")[0]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"), count=8, size=24)


@pytest.fixture(scope="module")
def place(images, tmp_path_factory):
    """A folder with saved_models/flowers/1 and rose.jpg, as in the guide."""
    folder = tmp_path_factory.mktemp("place")
    values = {
        "model": {"name": "mlp"}, "data": {"path": str(images), "size": 16, "channels": 3}, "training": {"epochs": 1},
    }  # fmt: skip
    run = train(make_recipe(values), name="flowers", root=folder / "runs")
    export_run(run, root=folder / "saved_models")
    (folder / "rose.jpg").write_bytes(next(images.rglob("*.png")).read_bytes())
    return folder


def done(command, folder):
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-1000:]
    return found.stdout


def test_tensorflow_alone_answers(place):
    """Without keras and kerazoo, as the guide has it. test_venvs.py has an environment with nothing else."""
    blocked = "import sys\nfor name in ('keras', 'kerazoo'):\n    sys.modules[name] = None\n"
    said = done([sys.executable, "-c", blocked + program("TensorFlow alone")], place).split()
    (expected,) = kerazoo.predict(str(place / "saved_models/flowers"), [place / "rose.jpg"])
    (label, probability), *_ = expected.top
    assert said == [label, said[1], "b'ok'"]
    assert float(said[1]) == pytest.approx(probability, abs=1e-6)


@pytest.mark.slow  # three starts of TensorFlow; graph_check.py's own test refuses ReadFile
def test_the_tool_of_tensorflow_shows_and_scans_it(place):
    for line in GUIDE.split("## TensorFlow alone\n")[1].split("```sh\n")[1].split("```")[0].splitlines():
        words = line.split()
        assert words[0] == TOOL.name
        said = done([TOOL, *words[1:]], place)
        if words[1] == "scan":
            assert "does not contain the default denylisted ops" in said
        else:
            assert "image_bytes" in said
            assert "top_probabilities" in said


@pytest.fixture(scope="module")
def served(place):
    with serving(place / "saved_models/flowers", "--grpc-port", "0") as found:
        yield found


@pytest.fixture(scope="module")
def expected(place):
    """(label, probability) of rose.jpg."""
    (answer,) = kerazoo.predict(str(place / "saved_models/flowers"), [place / "rose.jpg"])
    return answer.top[0]


def here(text, served):
    """A part of the guide, for the ports of this server."""
    return text.replace("http://127.0.0.1:8501", served.rest).replace("127.0.0.1:8500", served.grpc)


CLIENTS = GUIDE.split("### Ask it\n")[1].split("### Versions\n")[0]
PROGRAMS = [part.split("```")[0] for part in CLIENTS.split("```python\n")[1:]]


@pytest.mark.parametrize("program", PROGRAMS, ids=["REST", "gRPC"])
def test_python_clients_of_the_guide_work(program, place, served, expected):
    label, value, *_ = done([sys.executable, "-c", here(program, served)], place).split()
    assert label == expected[0]
    assert float(value) == pytest.approx(expected[1], abs=1e-5)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_lines_of_the_guide_work(place, served, expected):
    lines = here(CLIENTS.split("```sh\n")[1].split("```")[0], served).splitlines()
    assert len(lines) == 2
    for line in lines:
        answer = json.loads(done(["curl", "--silent", *shlex.split(line)[1:]], place))
        assert answer["label"] == expected[0]
        assert answer["probability"] == pytest.approx(expected[1], abs=1e-5)


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
def test_the_javascript_of_the_guide_works(place, served, expected):
    code = here(CLIENTS.split("```js\n")[1].split("```")[0], served)
    code += """
    const image = require("fs").readFileSync("rose.jpg");
    classify(image).then((top) => console.log(JSON.stringify(top)));
    classify(Buffer.from("no image")).catch((error) => console.error(error.message));
    """
    found = subprocess.run(["node", "-e", code], cwd=place, capture_output=True, text=True, check=True)
    ((label, probability), *_) = json.loads(found.stdout)
    assert (label, probability) == (expected[0], pytest.approx(expected[1], abs=1e-5))
    assert found.stderr.startswith("not decoded: ")


def in_a_session(folder, x):
    """The answer of a SavedModel as the C++ loader and TensorFlow Serving give it."""
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(folder))
    signature = loaded.signature_def["serving_default"]
    return session.run(signature.outputs["y"].name, {signature.inputs["x"].name: x})


def test_could_not_find_variable_is_mended(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(program('"Could not find variable"'), found)
    x = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(in_a_session("served/1", x), found["model"](x), atol=1e-6)

    module = tf.Module()
    module.model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    serve = tf.function(
        lambda x: {"y": module.model(x)}, input_signature=[tf.TensorSpec((None, 4), tf.float32, "x")], autograph=False
    )
    tf.saved_model.save(module, "broken/1", {"serving_default": serve})
    answer = tf.saved_model.load("broken/1").signatures["serving_default"](x=tf.constant(x))["y"]
    np.testing.assert_allclose(answer, module.model(x), atol=1e-6)
    with pytest.raises(tf.errors.FailedPreconditionError, match="Could not find variable sequential"):
        in_a_session("broken/1", x)
