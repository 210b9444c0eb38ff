"""The house holds: imports run one way, links point home, the pinned facts about Keras are still true."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import house
import keras
import numpy as np
import pytest

import kerazoo
from kerazoo.files import sha256
from kerazoo.models.saved import load_spec
from kerazoo.models.weights.sources import SHIPPED
from kerazoo.recipes.parts import DataPart
from kerazoo.tasks.task import TASKS

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", list(house.modules()))
def test_imports_run_one_way(name):
    room = house.room_of(name)
    assert room in {*house.ALLOWED, *house.FLOOR, *house.TOP, "cli"}, f"tests/house.py has no room {room}"
    rooms = house.CLI | house.CLI_ALONE.get(name, set()) if room == "cli" else house.ALLOWED.get(room, set())
    for imported in house.imports(house.modules()[name]):
        first = imported.split(".")[0]
        assert first not in house.ALLOWED, f"{imported} goes through a link at the top"
        if first != "kerazoo" or imported == "kerazoo" or room in house.TOP:
            continue
        other = house.room_of(imported)
        allowed = {room, *house.FLOOR, *rooms}
        assert other in allowed, f"{room} must not import {imported}"


def test_an_error_has_one_definition():
    places = {}
    for name, path in house.modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name.endswith("Error"):
                places.setdefault(node.name, []).append(name)
    assert {error: where for error, where in places.items() if len(where) > 1} == {}


def test_no_modules_import_each_other():
    assert not house.circles()


def test_what_a_room_may_import_it_does_import():
    """The table says no more than what is so."""
    used = {}
    for name, imported in house.graph().items():
        used.setdefault(house.room_of(name), set()).update(map(house.room_of, imported))
    for room, allowed in house.ALLOWED.items():
        assert allowed <= used[room], f"{room} does not import {allowed - used[room]}; take it out of the table"


@pytest.mark.parametrize("name", list(house.modules()))
def test_no_module_is_two_modules(name):
    assert len(house.modules()[name].read_text().splitlines()) <= 400


@pytest.mark.parametrize("name", [name for name in house.modules() if house.room_of(name) != "tasks"])
def test_tasks_are_asked_and_not_compared(name):
    """What depends on the task stands in `tasks/`: elsewhere no name of one is compared, matched or a key."""
    for line, part in compared_or_keys(ast.parse(house.modules()[name].read_text())):
        named = {n.value for n in ast.walk(part) if isinstance(n, ast.Constant) and n.value in list(TASKS)}
        named |= {n.id for n in ast.walk(part) if isinstance(n, ast.Name) and n.id.lower() in TASKS}
        assert not named, f"{name}, line {line}: ask `find_task(...)`, do not compare with {', '.join(named)}"


def compared_or_keys(tree):
    """(line, node) of what is compared with ==, !=, `in`, `is` or `match`, and of the keys of dicts and sets."""
    for node in ast.walk(tree):
        parts = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.Dict):
            parts = [key for key in node.keys if key is not None]
        elif isinstance(node, ast.Set):
            parts = node.elts
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        yield from ((node.lineno, part) for part in parts)


def test_a_recipe_can_name_every_task():
    names, _ = get_args(DataPart.model_fields["task"].annotation)
    assert get_args(names) == tuple(TASKS)


@pytest.mark.parametrize("name", ["models", "pipelines", "callbacks", "recipes"])
def test_the_rooms_stand_at_the_top(name):
    assert (ROOT / name).is_symlink()
    assert (ROOT / name).resolve() == (house.SOURCE / name).resolve()


def test_importing_touches_nothing():
    script = (
        "import sys, kerazoo\n"
        "assert {*kerazoo.__all__} <= set(dir(kerazoo))\n"
        "assert not hasattr(kerazoo, 'no_such_thing')\n"
        "assert not {'keras', 'tensorflow', 'numpy', 'pydantic', 'rich'} & set(sys.modules)\n"
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
