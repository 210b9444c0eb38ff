"""Networks of other packages: real distributions, made on the spot, seen by real processes."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_images

from kerazoo.files import sha256

GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "training.md"
# several commands in one process, for starting TensorFlow takes seconds: (exit code, output, errors) of each
COMMANDS = """
import contextlib, io, json, sys
from kerazoo.cli import app as cli

done = []
for arguments in json.load(sys.stdin):
    sys.argv, out, err, code = ["kerazoo", *arguments], io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
    done.append((code, out.getvalue(), err.getvalue()))
    if arguments[0] in ("models", "check"):
        assert not {"keras", "my_package"} & set(sys.modules)
print(json.dumps(done))
"""


def install(site, name, points, version="1.2", **modules):
    """A distribution in the folder `site`: its metadata, its entry points, and the text of its modules."""
    about = site / f"{name}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = "\n".join(f"{point} = {value}" for point, value in points.items())
    (about / "entry_points.txt").write_text(f"[kerazoo.networks]\n{lines}\n")
    for module, text in modules.items():
        path = site / name / f"{module}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def run(site, folder, *commands):
    """(code, standard output, standard error) of each of `commands`, in one fresh process."""
    environment = {**os.environ, "PYTHONPATH": "" if site is None else str(site)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", COMMANDS], input=json.dumps([list(map(str, words)) for words in commands]),
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # TensorFlow's start-up lines among them
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder of packages, working folder): the guide's package, and a run of its network."""
    root = tmp_path_factory.mktemp("installed")
    site, here = root / "site", root / "here"
    guide = GUIDE.read_text()
    text = next(code for code in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "def my_net" in code)
    (point,) = re.findall(r'\[project.entry-points."kerazoo.networks"\]\nmy_net = "(.*)"', guide)
    install(site, "my_package", {"my_net": point}, __init__="", networks=text)
    here.mkdir()
    make_images(here / "photos", count=8, size=16)
    listed, trained = run(
        site, here, ["models", "--filter", "MY_"],
        ["train", "my_net", "--data", "photos", "--size", 16, "--epochs", 1, "--name", "one",
         "--set", "model.arguments.width=4"],
    )  # fmt: skip
    assert listed == [0, "my_net          -            -  -         my_package 1.2, my_package.networks:my_net\n", ""]
    assert trained[0] == 0, trained
    assert trained[2].startswith("my_net: ")
    return site, here


@pytest.mark.slow  # five commands, a fine-tuning among them
def test_a_run_of_an_installed_network_is_used_by_other_processes(trained):
    site, here = trained
    described = json.loads((here / "runs" / "one" / "model.json").read_text())
    assert (described["name"], described["arguments"]["width"]) == ("my_net", 4)
    assert json.loads((here / "runs" / "one" / "environment.json").read_text())["versions"]["my_package"] == "1.2"
    tune = ["finetune", "photos", "--backbone", "my_net", "--weights", "runs/one", "--preset", "linear", "--size", 16]
    done = run(
        site, here, ["evaluate", "one", "--json"], ["export", "one", "--json"],
        ["predict", "one", "photos/circle/00.png", "--json"], [*tune, "--name", "tuned", "--json"],
        ["rank", "photos", "--backbone", "my_net=runs/one", "--size", 16, "--json"],
    )  # fmt: skip
    assert [code for code, _, _ in done] == [0] * 5, done
    evaluated, exported, predicted, _, ranked = (json.loads(out) for _, out, _ in done)
    recorded = json.loads((here / "runs" / "one" / "run.json").read_text())["results"]
    assert evaluated["val_loss"] == recorded["val_loss"]
    assert exported["gate"]["images"] > 0
    assert "error" not in predicted["predictions"][0]
    assert ranked["ranked"][0]["parameters"] == 4 * 3 * 9 + 4 + 8 * 4 * 9 + 8  # without the head


LIBRARY = """
import sys
import kerazoo

assert kerazoo.list_models()[-1] == "my_net"
assert kerazoo.list_models(weights="imagenet")[-1] != "my_net"
info = kerazoo.describe("my_net")
assert (info.kind, info.input_shape, info.parameters) == ("installed", None, None)
assert not {"keras", "numpy", "my_package"} & set(sys.modules)
assert info.arguments["width"] == 16
assert info.preprocessing().shape == (32, 32, 3)
model = kerazoo.build("my_net", num_classes=3, width=2)
assert model.output_shape == (None, 3)
assert model.count_params() == 2 * 3 * 9 + 2 + 4 * 2 * 9 + 4 + 4 * 3 + 3
assert kerazoo.Recipe.for_training("my_net", "data").model.name == "my_net"
"""


@pytest.mark.slow  # the fixture is five commands, a training among them
def test_the_library_builds_and_describes_it(trained):
    site, here = trained
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-P", "-c", LIBRARY]
    subprocess.run(command, check=True, cwd=here, env=environment, timeout=120)


@pytest.mark.slow  # as above
def test_model_json_imports_nothing_by_path(trained, tmp_path):
    """Only a name that an installed package declares is imported; a module that can be imported is not enough."""
    site, here = trained
    (site / "planted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\ndef net(**arguments): pass\n")
    names = ["my_package.networks:my_net", "planted:net", "planted", "planted.net", str(site / "planted.py")]
    for number, name in enumerate(names):
        shutil.copytree(here / "runs" / "one", tmp_path / str(number))
        path = tmp_path / str(number) / "model.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "name": name}))
        state = json.loads((tmp_path / str(number) / "run.json").read_text())
        state["digests"]["model.json"] = sha256(path)  # as whoever plants a name would
        (tmp_path / str(number) / "run.json").write_text(json.dumps(state))
    done = run(site, tmp_path, *(["predict", number, here / "photos"] for number in range(len(names))))
    for name, (code, out, err) in zip(names, done, strict=True):
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert f"no model is called {name!r}" in err
    assert not (tmp_path / "ran").exists()
    ((code, out, err),) = run(None, here, ["evaluate", "one"])  # the package is not installed
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "no model is called 'my_net'" in err


HEAD = "import keras\nfrom kerazoo.models.heads.classifier import attach\n"
SHAPES = "*, input_shape=(8, 8, 3), num_classes=10"
LAYERS = """
    inputs = keras.Input(input_shape, name="inputs")
    x = keras.layers.Flatten(name="flatten")(inputs)
"""
BAD = {  # the text of a module whose `net` is not a builder, and what is said of it
    "imports": ("import nosuch\n", "cannot be imported: ModuleNotFoundError: No module named 'nosuch'; repair or"),
    "syntax": ("def net(:\n", "cannot be imported: SyntaxError: "),
    "attribute": ("other = 3\n", "cannot be imported: AttributeError: module 'attribute_package.code' has"),
    "number": ("net = 3\n", "must be a function such as my_net(*, input_shape=(32, 32, 3), "),
    "kind": ("class net:\n    pass\n", "must be a function such as my_net("),
    "positional": (f"def net(width=3, {SHAPES}):\n    pass\n", "must take keyword arguments with defaults only"),
    "required": (f"def net({SHAPES}, width):\n    pass\n", "must take keyword arguments with defaults only"),
    "anything": (f"def net({SHAPES}, **more):\n    pass\n", "must take keyword arguments with defaults only"),
    "reserved": (f"def net({SHAPES}, weights='none'):\n    pass\n", "must not take 'weights', which is an argument of"),
    "nothing": (f"def net({SHAPES}, width=None):\n    pass\n", "must have numbers, text or lists for defaults, got"),
    "shapeless": ("def net(*, num_classes=10):\n    pass\n", "must take 'input_shape', as (*, input_shape=(32, 32, 3)"),
    "flat": ("def net(*, input_shape=(8,), num_classes=10):\n    pass\n", "input_shape=(8,) must be (height, width"),
    "raises": (f"def net({SHAPES}):\n    raise OSError('a\\nb')\n", "cannot be built: OSError: a b"),
    "none": (f"def net({SHAPES}):\n    pass\n", "must give a functional keras.Model, keras.Model(inputs, logits), got"),
    "chain": (
        f"{HEAD}def net({SHAPES}):\n    return keras.Sequential([keras.Input(input_shape), keras.layers.Flatten()])\n",
        "must give a functional keras.Model",
    ),
    "headless": (
        f"{HEAD}def net({SHAPES}):{LAYERS}    return keras.Model(inputs, x)\n",
        "must give layers called features and, last, logits, got inputs, flatten",
    ),
    "maps": (
        f"{HEAD}def net({SHAPES}):{LAYERS}    x = keras.layers.Reshape((2, -1), name='maps')(x)\n"
        "    x = keras.layers.Identity(name='features')(x)\n"
        "    return keras.Model(inputs, keras.layers.Dense(num_classes, name='logits')(x))\n",
        "must give features of the shape (batch, count), got (None, 2, ",
    ),
    "classes": (
        f"{HEAD}def net({SHAPES}):{LAYERS}    return keras.Model(inputs, attach(x, 7, model='net'))\n",
        "must give 2 logits, got the shape (None, 7)",
    ),
    "size": (
        f"{HEAD}def net({SHAPES}):\n    input_shape = (9, 9, 3){LAYERS}"
        "    return keras.Model(inputs, attach(x, num_classes, model='net'))\n",
        "must give a model for images of (8, 8, 3), got (9, 9, 3)",
    ),
}  # fmt: skip


@pytest.mark.slow  # a process for each; the tests beside it have one
def test_what_is_not_a_builder_is_one_line_that_names_the_package(tmp_path):
    site = tmp_path / "site"
    for name, (text, _) in BAD.items():
        install(site, f"{name}_package", {name: f"{name}_package.code:net"}, __init__="", code=text)
    for package in ("first", "second"):
        install(site, package, {"twice": f"{package}.code:net", "mlp": f"{package}.code:net", "a.b": "x:y"})
    make_images(tmp_path / "data", count=4, size=8)
    train = [["train", name, "--data", "data", "--size", 8, "--epochs", 0] for name in (*BAD, "twice")]
    listed, *done = run(site, tmp_path, ["models"], *train)
    for (name, (_, message)), (code, out, err) in zip(BAD.items(), done, strict=False):
        assert (code, out, err.count("\n")) == (2, "", 1), (name, err)
        assert err.startswith(f"kerazoo: the network {name} ({name}_package 1.2, {name}_package.code:net)"), err
        assert message in err
    assert done[-1][2] == (
        "kerazoo: the network twice (first 1.2, first.code:net and second 1.2, second.code:net) must be declared by "
        "one package; uninstall the others\n"
    )
    assert not (tmp_path / "runs").exists()
    names = [line.split()[0] for line in listed[1].splitlines()]
    assert names.count("mlp") == 1  # kerazoo's own comes first, and no other is seen
    assert names[-len(BAD) - 1 :] == sorted([*BAD, "twice"])  # and none called a.b, which no run can be
