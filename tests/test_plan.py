"""A recipe and its data are resolved once: below the plan no function takes a recipe."""

import ast
import re

import house
import keras
import numpy as np
import pytest

from kerazoo.pipelines.devices.devices import Devices
from kerazoo.recipes.recipe import make_recipe
from kerazoo.training.fit import make_batches
from kerazoo.training.plan import plan

# rooms and modules that read, compare, keep or resolve recipes
ABOVE = ("kerazoo.recipes", "kerazoo.runs", "kerazoo.sweeps", "kerazoo.cli", "kerazoo.api", "kerazoo.training.plan")
DOORS = {  # what makes a plan of a recipe and does what it says
    "kerazoo.training.diagnosis": {"diagnose"},
    "kerazoo.training.folds": {"train_folds", "_recipe_of", "_run_of"},
    "kerazoo.training.train": {"train"},
    "kerazoo.training.trials": {"try_rates", "try_one_batch"},
    "kerazoo.transfer.finetune": {"finetune"},
    "kerazoo.transfer.ranking": {"rank"},
}
PARAGRAPH = 40  # lines
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def tree_of(name):
    return ast.parse(house.modules()[name].read_text(encoding="utf-8"))


def is_recipe(argument):
    annotation = "" if argument.annotation is None else ast.unparse(argument.annotation)
    return argument.arg == "recipe" or re.search(r"\bRecipe\b", annotation) is not None


def takes_recipe(function):
    parts = function.args
    every = [*parts.posonlyargs, *parts.args, *parts.kwonlyargs, parts.vararg, parts.kwarg]
    return any(is_recipe(argument) for argument in every if argument is not None)


def test_below_the_plan_no_function_takes_a_recipe():
    found = {}
    for name in house.modules():
        if any(name == above or name.startswith(f"{above}.") for above in ABOVE):
            continue
        for node in ast.walk(tree_of(name)):
            if isinstance(node, FUNCTIONS) and takes_recipe(node):
                found.setdefault(name, set()).add(getattr(node, "name", "lambda"))
    assert found == DOORS


@pytest.mark.parametrize(("module", "name"), [(module, name) for module in DOORS for name in sorted(DOORS[module])])
def test_what_trains_reads_as_a_paragraph(module, name):
    [function] = [node for node in tree_of(module).body if isinstance(node, ast.FunctionDef) and node.name == name]
    body = function.body[1:] if ast.get_docstring(function) else function.body
    assert body[-1].end_lineno - body[0].lineno + 1 <= PARAGRAPH


@pytest.mark.parametrize(("size", "drop_last"), [(5, True), (5, False), ("all", True)])
def test_a_plan_knows_its_steps(tmp_path, size, drop_last):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "data.npz", x_train=pixels, y_train=np.arange(24) % 2)
    values = {
        "model": {"name": "mlp"}, "data": {"path": str(tmp_path / "data.npz"), "validation": 0.25},
        "training": {"batch_size": size, "drop_last": drop_last, "label_smoothing": 0.1},
        "augmentation": {"policy": "strong"},
    }  # fmt: skip
    devices = Devices("cpu")
    made = plan(make_recipe(values), devices)
    batches, _ = make_batches(made, devices)
    assert made.steps == batches.steps == len(list(batches.at(0, 0)))
    assert made.recipe.training.batch_size == (18 if size == "all" else size)
    assert made.augmentation.mixes
    assert isinstance(made.loss, keras.losses.Loss)
    assert made.spec.preprocessing == made.preprocessing
    assert (made.task.name, made.source) == ("multiclass", None)
