"""A run folder: recipe, environment, data, metrics, model, evaluation. `run.json` says whether it finished.

runs/NAME/run.json             status (running, interrupted, finished), results; digest of the weights it started from
          recipe.toml          everything the run depended on; `kerazoo train recipe.toml` runs it again
          environment.json     versions, hardware, command, commit
          data.json            source, digest, classes, counts
          model.json, model.weights.h5
          history.csv, metrics.jsonl, curves.svg and .png, watch.jsonl, feature_maps/, tensorboard/
          checkpoints/         the newest state of training; see callbacks/checkpoints.py
          evaluation/SPLIT.json, SPLIT.csv, SPLIT.npy
"""

import glob
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kerazoo.errors import Interrupted, KerazooError, RunError
from kerazoo.files import read_json, write_json, write_whole
from kerazoo.models.stored import DESCRIPTION
from kerazoo.pipelines.environment import changes, environment, recorded
from kerazoo.pipelines.examples import Examples
from kerazoo.pipelines.recipe import Recipe, make_recipe, read_recipe
from kerazoo.pipelines.recipe_checks import as_kept

RUNS = Path("runs")
LOCK = ".lock"
LONGEST = 200  # bytes of a run's name, which gets endings, too; file systems take 255


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
        path = self.folder / "recipe.toml"
        values = read_recipe(path)
        try:
            return make_recipe(values)
        except KerazooError as error:
            raise RunError(f"{path}: {error}") from error

    @property
    def status(self) -> str:
        """running (or killed), interrupted, or finished."""
        return str(read_json(self.folder / "run.json").get("status"))

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints lie."""
        return self.folder / "checkpoints"

    def set_status(self, status: str, **values: Any) -> None:
        """Change its status, with `values` beside."""
        write_json(self.folder / "run.json", {**read_json(self.folder / "run.json"), "status": status, **values})


def claim(
    recipe: Recipe,
    stem: str,
    *,
    name: str | None,
    root: Path = RUNS,
    overwrite: bool = False,
    worker: int | None = None,
) -> Path:
    """The folder that training by `recipe` belongs in: a new one, or that of a run it began and did not finish.

    Without a `name`, the first unfinished run called `stem-N` with the very same recipe, else the next free number.
    `worker` is the number of this process where several train the run, which must have a name; all but 0 take what 0
    claims. Raises RunError where `name` is no plain name, is finished (`overwrite` takes it away), has another recipe,
    or is being trained at this moment.
    """
    if name is None:
        if worker is not None:
            raise RunError("several workers train one run, which must have a name; give all of them the same --name")
        return next(iter(_unfinished(recipe, stem, root)), root / free_name(stem, root))
    if name != Path(name).name or not name or name.startswith(".") or len(os.fsencode(name)) > LONGEST:
        raise RunError(f"run name {name!r} must be a plain folder name, of {LONGEST} bytes at most")
    folder = root / name
    ways = "choose another --name, or take --overwrite to lose it"
    if not folder.exists():
        return folder
    if not overwrite and (folder / "run.json").is_file() and Run(folder).status == "finished":
        raise RunError(f"run {folder} exists and is finished; {ways}")
    if worker:
        return folder
    if is_held(folder):
        raise RunError(f"run {folder} is being trained by another process; wait for it or choose another --name")
    if not (folder / "run.json").is_file():
        raise RunError(f"{folder} exists and is no run; choose another --name")
    if overwrite:
        return folder
    try:
        other = Run(folder).recipe()
    except KerazooError as error:
        raise RunError(f"the recipe of the unfinished run {folder} cannot be read ({error}); {ways}") from error
    recipe = as_kept(recipe, other)
    if keys := ", ".join(_differences(other.model_dump(), recipe.model_dump())):
        raise RunError(f"run {folder} is unfinished, with another recipe ({keys}); {ways}")
    return folder


def _unfinished(recipe: Recipe, stem: str, root: Path) -> Iterator[Path]:
    found = [path.parent for path in root.glob(f"{glob.escape(stem)}-*/run.json")]
    for folder in sorted(found, key=lambda folder: (len(folder.name), folder.name)):
        run = Run(folder)
        try:
            kept = run.recipe()
            same = run.status != "finished" and kept.model_dump() == as_kept(recipe, kept).model_dump()
        except KerazooError:
            continue  # of another version
        if same and not is_held(run.folder):
            yield run.folder


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key} was {before!r}, is {after!r}")
    return found


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; the lock goes with the process, however it ends. Raises RunError if held."""
    with (folder / LOCK).open("w") as file:
        if not _lock(file.fileno()):
            raise RunError(f"run {folder} is being trained by another process; wait for it or choose another --name")
        yield


def is_held(folder: Path) -> bool:
    """Whether a process is training there."""
    try:
        with (folder / LOCK).open("r+") as file:
            return not _lock(file.fileno())
    except FileNotFoundError:
        return False


def _lock(file: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def free_name(stem: str, root: Path = RUNS) -> str:
    """`stem-1`, or the first number after it that is free in `root`."""
    number = 1
    while (root / f"{stem}-{number}").exists():
        number += 1
    return f"{stem}-{number}"


@contextmanager
def begun(
    folder: Path, recipe: Recipe, examples: Examples, *, say: Callable[[str], None], writes: bool = True,
    overwrite: bool = False, **known: Any,
) -> Iterator[Run]:  # fmt: skip
    """The run in `folder`, held by this process within; as it is, where another process `writes` it.

    A new one is made whole with all that is known before training; `known` goes into `run.json`. An unfinished one goes
    on where recipe, data and what is `known` are the same; versions and hardware may have changed, which is told to
    `say`. `overwrite` puts a new one in the place of any other. Raises RunError.
    """
    if not writes:
        yield Run(folder)
        return
    with ExitStack() as stack:
        if folder.exists():
            stack.enter_context(held(folder))
            other = _what_differs(Run(folder), recipe, examples, known)
            if other and not overwrite:
                raise RunError(f"run {folder} cannot go on: {other}; choose another --name, or take --overwrite")
            if not other:
                run = Run(folder)
                before, now = read_json(folder / "run.json").get("resumed", []), environment()
                if changed := ", ".join(changes(recorded(folder / "environment.json", say), now)):
                    say(f"not as it began: {changed}; the last bits may not be those of a run that never stopped")
                run.set_status("running", resumed=[*before, now])
                with _marked(run):
                    yield run
                return
        _make(folder, recipe, examples, known)
        stack.enter_context(held(folder))
        with _marked(Run(folder)) as run:
            yield run


@contextmanager
def _marked(run: Run) -> Iterator[Run]:
    """Says of a run that was stopped by a signal that it was."""
    try:
        yield run
    except (Interrupted, KeyboardInterrupt):
        if run.status != "finished":
            run.set_status("interrupted")
        raise


def _what_differs(run: Run, recipe: Recipe, examples: Examples, known: dict[str, Any]) -> str:
    """Why `run` cannot go on with these, in words; "" where it can."""
    state = read_json(run.folder / "run.json")
    if state.get("status") == "finished":
        return "it is finished"
    if keys := ", ".join(_differences(run.recipe().model_dump(), recipe.model_dump())):
        return f"its {keys}"
    facts = {**state, "data": read_json(run.folder / "data.json").get("digest")}
    now = {**known, "data": examples.digest()}
    return ", ".join(
        f"its {what} was {facts.get(what)}, is {now[what]}" for what in now if facts.get(what) != now[what]
    )


def _make(folder: Path, recipe: Recipe, examples: Examples, known: dict[str, Any]) -> None:
    """A new run in `folder`, whole or not at all; what was there goes after it has come."""
    making, old = (folder.with_name(f".{folder.name}-{what}-{os.getpid()}") for what in ("new", "old"))
    for left in (making, old):
        shutil.rmtree(left, ignore_errors=True)  # of a killed process with this number
    making.mkdir(parents=True)
    write_json(making / "run.json", {"status": "running", **known})
    write_whole(making / "recipe.toml", recipe.to_toml())
    write_json(making / "environment.json", environment())
    write_json(making / "data.json", examples.describe())
    if folder.exists():
        folder.replace(old)
    try:
        making.replace(folder)
    except OSError as error:
        shutil.rmtree(making)
        raise RunError(f"run {folder} exists; choose another --name or remove it") from error
    shutil.rmtree(old, ignore_errors=True)


def unfinished(folder: Path) -> Run:
    """The run at `folder`, which did not finish. Raises RunError."""
    if not (folder / "run.json").is_file():
        raise RunError(f"there is no run {folder} to go on with")
    if Run(folder).status == "finished":
        raise RunError(f"run {folder} is finished; `kerazoo evaluate {folder}` shows what it gave")
    return Run(folder)


def open_run(path: str | Path) -> Run:
    """The finished run at `path`, or at `runs/path`. Raises RunError where there is none."""
    for folder in (Path(path), RUNS / path):
        if (folder / "run.json").is_file():
            status = read_json(folder / "run.json").get("status")
            if status != "finished" or not (folder / DESCRIPTION).is_file():
                raise RunError(
                    f"run {folder} did not finish (status {status!r}); go on by `kerazoo train --resume {folder}`"
                )
            return Run(folder)
    raise RunError(f"there is no run {path}: a run is a folder that `kerazoo train` or `kerazoo finetune` made")
