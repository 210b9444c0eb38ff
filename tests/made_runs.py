"""Folders of finished runs with any answers, made without training."""

from pathlib import Path

import numpy as np

from kerazoo.evaluation.answers import Evaluation
from kerazoo.files import read_json, write_json
from kerazoo.models.description import ModelSpec
from kerazoo.preprocessing.preprocessing import Preprocessing
from kerazoo.recipes.recipe import Recipe
from kerazoo.runs.digests import digests_of
from kerazoo.runs.environment import environment
from kerazoo.runs.run import Run
from kerazoo.tasks.task import find_task

HOSTILE = (
    "<script>window.bad = 1</script>", "\"><img src=x onerror='window.bad = 2'>", "' onclick='window.bad = 3",
    "\u05d7\u05ea\u05d5\u05dc \u0642\u0637\u0629", "\u202eevil\u202d", "&lt;b&gt; {{x}} ${x} `x`", "e" * 80,
    "</style></title><h1>oh</h1>",
)  # fmt: skip


def make_run(folder: Path, result: Evaluation, *, data: str = "no/such/data", **settings) -> Run:
    """A finished run whose answers on validation are `result`."""
    folder.mkdir(parents=True)
    names = result.class_names
    task = find_task(result.task)
    recipe = Recipe.for_training("mlp", data, **settings)
    (folder / "recipe.toml").write_text(recipe.to_toml())
    spec = ModelSpec("mlp", {"num_classes": len(names), "input_shape": (16, 16, 3)}, Preprocessing(16, 16),
                     names, result.task, thresholds=result.thresholds)  # fmt: skip
    write_json(folder / "model.json", {**spec.to_json(), "weights_sha256": "0" * 64})
    write_json(folder / "environment.json", environment())
    counts = {split: task.counts(result.labels, names) for split in ("train", "val")}
    write_json(folder / "data.json", {
        "source": data, "digest": "d" * 64, "manifest": None, "task": result.task, "class_names": list(names),
        "counts": counts, "left_out": {},
    })  # fmt: skip
    result.write(folder / "evaluation")
    write_json(folder / "run.json", {"status": "finished", "seconds": 12.5, "results": result.summary()})
    return sealed(folder)


def sealed(folder: Path) -> Run:
    """The run in `folder`, whose files were changed on purpose."""
    write_json(folder / "run.json", read_json(folder / "run.json") | {"digests": digests_of(folder)})
    return Run(folder)


def guesses(names, count: int, *, right: float = 0.8, seed: int = 0, keys=None) -> Evaluation:
    """Answers of which about the share `right` is right."""
    rng = np.random.default_rng(seed)
    classes = len(names)
    labels = np.arange(count) % classes
    answers = np.where(rng.random(count) < right, labels, rng.integers(0, classes, count))
    probabilities = rng.random((count, classes), np.float32)
    probabilities[np.arange(count), answers] += classes * rng.uniform(0.3, 3, count).astype(np.float32)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    keys = keys or tuple(f"val/{number:05d}.png" for number in range(count))
    return evaluation(keys, labels, probabilities, names)


def evaluation(keys, labels, answers, names, task="multiclass", split="val") -> Evaluation:
    """An evaluation with its loss."""
    answers = np.asarray(answers, np.float32)
    loss = float(find_task(task).losses_of_answers(answers, np.asarray(labels)).mean())
    return Evaluation(split, tuple(keys), np.asarray(labels), answers, tuple(names), loss, task)
