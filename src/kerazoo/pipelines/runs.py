"""A run folder: recipe, environment, data, metrics, model, evaluation. `run.json` says whether it finished.

runs/NAME/run.json             status, command, seconds, results; the digest of the weights it started from
          recipe.toml          everything the run depended on; `kerazoo train recipe.toml` runs it again
          environment.json     versions and hardware
          data.json            source, digest, classes, counts
          model.json, model.weights.h5
          history.csv, watch.jsonl, feature_maps/, tensorboard/
          evaluation/SPLIT.json, SPLIT.csv, SPLIT.npy
"""

import csv
import io
import os
import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from kerazoo.errors import RunError
from kerazoo.models.stored import DESCRIPTION, read_json, write_json, write_text
from kerazoo.pipelines.examples import Examples
from kerazoo.pipelines.recipe import Recipe, make_recipe, read_recipe

RUNS = Path("runs")


@dataclass(frozen=True)
class Run:
    """A run on disk."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    def recipe(self) -> Recipe:
        """The resolved recipe it was made by."""
        return make_recipe(read_recipe(self.folder / "recipe.toml"))

    def finish(self, **values: Any) -> None:
        """Mark it finished, with `values` beside."""
        state = read_json(self.folder / "run.json")
        write_json(self.folder / "run.json", {**state, "status": "finished", **values})

    def write_history(self, history: list[dict[str, float]]) -> None:
        """`history.csv`: one row an epoch."""
        columns = list(dict.fromkeys(name for row in history for name in row))
        text = io.StringIO()
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(history)
        write_text(self.folder / "history.csv", text.getvalue())


def check_free(name: str, root: Path = RUNS) -> Path:
    """`root/name`, which does not exist. Raises RunError where it does, or where `name` is not a plain name."""
    if not name or name != Path(name).name or name.startswith("."):
        raise RunError(f"run name {name!r} must be a plain folder name")
    if (root / name).exists():
        raise RunError(f"run {root / name} exists; choose another --name or remove it")
    return root / name


def free_name(stem: str, root: Path = RUNS) -> str:
    """`stem-1`, or the first number after it that is free in `root`."""
    number = 1
    while (root / f"{stem}-{number}").exists():
        number += 1
    return f"{stem}-{number}"


def create_run(folder: Path, recipe: Recipe, examples: Examples, **known: Any) -> Run:
    """A new run folder with all that is known before training, `known` among it (in `run.json`).

    Raises RunError where the folder exists.
    """
    data = examples.describe()
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise RunError(f"run {folder} exists; choose another --name or remove it") from error
    write_json(folder / "run.json", {"status": "running", "command": sys.argv, "pid": os.getpid(), **known})
    write_text(folder / "recipe.toml", recipe.to_toml())
    write_json(folder / "environment.json", environment())
    write_json(folder / "data.json", data)
    return Run(folder)


def open_run(path: str | Path) -> Run:
    """The finished run at `path`, or at `runs/path`. Raises RunError where there is none."""
    for folder in (Path(path), RUNS / path):
        if (folder / "run.json").is_file():
            status = read_json(folder / "run.json").get("status")
            if status != "finished" or not (folder / DESCRIPTION).is_file():
                raise RunError(f"run {folder} did not finish (status {status!r}); train it again")
            return Run(folder)
    raise RunError(f"there is no run {path}: a run is a folder that `kerazoo train` or `kerazoo finetune` made")


def environment() -> dict[str, Any]:
    """Versions and hardware that numbers may depend on."""
    import keras

    packages = ("kerazoo", "keras", "tensorflow", "numpy", "scikit-learn", "pillow")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "backend": keras.config.backend(),
        "versions": {name: metadata.version(name) for name in packages},
    }
