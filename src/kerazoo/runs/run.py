"""A run folder: recipe, environment, data, metrics, model, evaluation. `run.json` says whether it finished.

runs/NAME/run.json             status (running, interrupted, finished), results, whether they were reported; the recipe
                               at the start and its digest; digests of the initial weights, and of the files that must
                               not change once the run is finished (see digests.py)
          recipe.toml          everything the run depended on; `kerazoo train recipe.toml` runs it again
          environment.json     versions, hardware, command, commit
          data.json            source, digest, classes, counts
          model.json, model.weights.h5
          phases.json          for fine-tuning: the cost and gain of each phase, and the penalties tried by the probe
          history.csv, metrics.jsonl, curves.svg and .png, watch.jsonl, findings.json, feature_maps/
          checkpoints/         the newest checkpoints; see callbacks/checkpoints.py
          evaluation/SPLIT.json, SPLIT.csv, SPLIT.npy
          folds/1 and on       of an ensemble: a run for each fold; evaluation/folds.* has the out-of-fold answers
"""

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kerazoo.errors import KerazooError, RunError
from kerazoo.files import WAY_OUT, open_regular, sha256, write_json
from kerazoo.models.description import ModelSpec
from kerazoo.models.saved import DESCRIPTION, load_spec
from kerazoo.recipes.recipe import Recipe, make_recipe, read_recipe
from kerazoo.runs.records import STATE, read_state

RUNS = Path("runs")
LONGEST = 200  # bytes of a run's name; file systems allow 255, and temporary names add to it


@dataclass(frozen=True, repr=False)
class Run:
    """A run on disk. `is_chief` is False in the processes of a cluster that only compute: another process writes it."""

    folder: Path
    is_chief: bool = True

    def __str__(self) -> str:
        """The run in one line: folder, status, first result, and the phase of fine-tuning that was kept."""
        try:
            words = [self.status, *(f"{name} {value:.4f}" for name, value in list(self.results.items())[:1])]
            words += [f"kept {self.kept_phase}"] if self.kept_phase else []
        except RunError as error:
            words = [str(error)]
        return f"Run {self.folder}: {', '.join(words)}"

    def __repr__(self) -> str:
        """As `str`."""
        return f"<{self}>"

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe of the run."""
        path = self.folder / "recipe.toml"
        values = read_recipe(path)
        try:
            return make_recipe(values)
        except KerazooError as error:
            raise RunError(f"{path}: {error}") from error

    @property
    def status(self) -> str:
        """The status: "running" (also after a kill), "interrupted" or "finished"."""
        return str(read_state(self.folder).get("status"))

    @property
    def results(self) -> dict[str, Any]:
        """The metrics of the evaluation, such as {"val_accuracy": 0.9}; empty until the run is finished."""
        return dict(read_state(self.folder).get("results", {}))

    @property
    def seconds(self) -> float:
        """The total time in seconds; 0 until the run is finished."""
        return float(read_state(self.folder).get("seconds", 0.0))

    @property
    def timings(self) -> dict[str, float]:
        """The seconds of each part of the work, from the start of TensorFlow on; empty until the run is finished.

        They are of the process that finished the run, so what ran before an interruption is not in them.
        """
        return dict(read_state(self.folder).get("timings", {}))

    @property
    def phases(self) -> list[dict[str, Any]]:
        """The cost and the gain of each phase of fine-tuning, with its `line`; empty for training from scratch."""
        return list(read_state(self.folder).get("phases", []))

    @property
    def folds(self) -> list[dict[str, Any]]:
        """The result of each fold, with the folder of its `run`; empty for a run that is not an ensemble."""
        rows = read_state(self.folder).get("folds", [])
        return [{**row, "run": str(self.folder / row["run"])} for row in rows]

    @property
    def kept_phase(self) -> str | None:
        """The last phase of fine-tuning that was kept, which the results are of; None for training from scratch."""
        kept = [phase["name"] for phase in self.phases if phase.get("kept") and phase.get("score") is not None]
        return kept[-1] if kept else None

    @property
    def history(self) -> dict[str, list[float]]:
        """The losses and metrics of each epoch by name, as in `keras.callbacks.History.history`. Raises RunError."""
        path = self.folder / "history.csv"
        if not path.is_file():
            return {}
        try:
            with io.TextIOWrapper(open_regular(path), "utf-8") as text:
                rows = list(csv.DictReader(text))
            names = [name for name in rows[0] if name != "epoch"] if rows else []
            return {name: [float(row[name]) for row in rows] for name in names}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RunError(f"{path} cannot be read: {error}; {WAY_OUT}") from error

    @property
    def spec(self) -> ModelSpec:
        """The network's name and arguments, its preprocessing, and the class names. Raises RunError."""
        return load_spec(self.folder)

    @property
    def is_reported(self) -> bool:
        """Whether the run is finished and its result was shown. Until then, the same command returns this run."""
        state = read_state(self.folder)
        return state.get("status") == "finished" and state.get("reported") is not False

    def check_recipe(self) -> None:
        """Raise RunError if `recipe.toml` was edited after the run started."""
        state = read_state(self.folder)
        path = self.folder / "recipe.toml"
        recorded = state.get("recipe_sha256")
        if recorded is None or not path.is_file() or sha256(path) == recorded:  # older versions recorded nothing
            return
        keys = ", ".join(differences(state.get("recipe") or {}, read_recipe(path)))
        if keys:
            raise RunError(
                f"{path} was edited after the run started ({keys}), which would change the results; undo the edit, or "
                f"start a new run: kerazoo train {path} --name NAME"
            )

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def recipe_sha256(self) -> str | None:
        """The digest of the recipe at the start of the run; None in runs of older versions."""
        return read_state(self.folder).get("recipe_sha256")

    def set_reported(self) -> None:
        """Record that the result was shown. The same command then starts a new run."""
        self.set_status(self.status, reported=True)

    def set_status(self, status: str, **values: Any) -> None:
        """Set the status and `values` in `run.json`."""
        write_json(self.folder / STATE, {**read_state(self.folder), "status": status, **values})


def check_name(name: str, what: str = "run") -> None:
    """Raise RunError if `name` cannot be the folder of a run, or of another `what`."""
    if not name or name != Path(name).name or name.startswith(".") or "\0" in name or len(os.fsencode(name)) > LONGEST:
        raise RunError(f"{what} name {name!r:.60} must be a plain folder name of at most {LONGEST} bytes")


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """The keys of two nested recipes whose values differ, in words: "seed: 0 -> 1"."""
    changed = []
    for key in sorted({*old, *new}):
        before = old.get(key)
        after = new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changed += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            changed.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return changed


def folder_of(path: str | Path) -> Path:
    """`path` if it is a run, else runs/`path`."""
    return Path(path) if (Path(path) / STATE).is_file() else RUNS / path


def unfinished(folder: str | Path) -> Run:
    """The unfinished run at `folder`. Raises RunError if there is none."""
    folder = Path(folder)
    if not (folder / STATE).is_file():
        raise RunError(f"there is no run {folder} to resume")
    run = Run(folder)
    if run.is_reported:
        raise RunError(
            f"run {folder} is finished; `kerazoo evaluate {folder}` shows its results, kerazoo.open_run opens it"
        )
    run.check_recipe()
    return run


def finished(folder: Path) -> bool:
    """Whether `folder` is a finished run."""
    return (folder / STATE).is_file() and Run(folder).status == "finished"


def open_run(path: str | Path) -> Run:
    """The finished run at `path` or `runs/path`. Raises RunError if there is none."""
    for folder in (Path(path), RUNS / path):
        if (folder / STATE).is_file():
            status = read_state(folder).get("status")
            if status != "finished" or not (folder / DESCRIPTION).is_file():
                raise RunError(f"run {folder} did not finish (status {status!r}); resume it with {_resume(folder)}")
            return Run(folder)
    raise RunError(f"there is no run {path}; give a folder that `kerazoo train` or `kerazoo finetune` made")


def _resume(folder: Path) -> str:
    return f"`kerazoo resume {folder}` or kerazoo.resume({str(folder)!r})"
