"""The house holds: imports run one way, links point home, the pinned facts about Keras are still true."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import kerazoo
from kerazoo.files import sha256
from kerazoo.models.stored import load_spec
from kerazoo.models.weights import SHIPPED

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "kerazoo"
# what each room may import of the others
ALLOWED = {
    "models": set(),
    "callbacks": set(),
    "pipelines": {"models", "callbacks"},
    "serving": {"models", "pipelines"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_run_one_way(path):
    room = path.relative_to(SOURCE).parts[0]
    for name in imports(path):
        assert name.split(".")[0] not in ALLOWED, f"{name} goes through a link at the top"
        parts = name.split(".")
        if room in ALLOWED and parts[0] == "kerazoo" and len(parts) > 1 and parts[1] in ALLOWED and parts[1] != room:
            assert parts[1] in ALLOWED[room], f"{room} must not import {name}"
    assert len(path.read_text().splitlines()) <= 400, "two modules by now"


@pytest.mark.parametrize("name", ["models", "pipelines", "callbacks"])
def test_the_rooms_stand_at_the_top(name):
    assert (ROOT / name).is_symlink()
    assert (ROOT / name).resolve() == (SOURCE / name).resolve()


def test_importing_touches_nothing():
    script = (
        "import sys, kerazoo\n"
        "assert {'build', 'callbacks', 'list_models', '__version__'} <= set(dir(kerazoo))\n"
        "assert not hasattr(kerazoo, 'no_such_thing')\n"
        "assert not {'keras', 'tensorflow', 'numpy'} & set(sys.modules)\n"
        "assert kerazoo.list_models('vgg') == ['vgg_small', 'vgg16', 'vgg19']"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_callbacks_are_imported_when_they_are_first_used(monkeypatch):
    monkeypatch.delattr(kerazoo, "callbacks", raising=False)
    assert kerazoo.callbacks.Resume.__module__ == "kerazoo.callbacks.resume"


def test_shipped_weights_are_what_they_say():
    folder = SHIPPED / "bottleneck_cnn_mnist"
    described, source = (
        json.loads((folder / "model.json").read_text()),
        json.loads((folder / "source.json").read_text()),
    )
    weights = folder / "model.weights.h5"
    assert sha256(weights) == described["weights_sha256"]
    assert weights.stat().st_size <= 200_000
    assert load_spec(folder).name == "bottleneck_cnn"
    assert source["command"].startswith("kerazoo train bottleneck_cnn --data")


def test_fact_1_the_plain_export_call_takes_augmentation_for_training():
    """Why exports call the network with training=False: augmentation layers are on in a plain call."""
    flip = keras.layers.RandomFlip("horizontal", seed=0)
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 4, 1)
    assert len({np.array(flip(x)).tobytes() for _ in range(20)}) == 2
    assert len({np.array(flip(x, training=False)).tobytes() for _ in range(20)}) == 1


def test_fact_17_trainable_changes_need_a_new_compile():
    """Why fine-tuning sets `trainable` before it compiles."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    x, y = np.ones((4, 1), np.float32), np.zeros((4, 1), np.float32)
    model.fit(x, y, verbose=0)
    model.trainable = False
    before = model.get_weights()[0].copy()
    model.fit(x, y, verbose=0)
    assert not np.array_equal(before, model.get_weights()[0])
