"""A run folder: recipe, environment, data, metrics, model, evaluation. `run.json` says whether it finished.

runs/NAME/run.json             status (running, interrupted, finished), results, whether they were reported; the recipe
                               it was begun with and its digest; digest of the weights it started from, and of the
                               files that must not change once it is finished (see digests.py)
          recipe.toml          everything the run depended on; `kerazoo train recipe.toml` runs it again
          environment.json     versions, hardware, command, commit
          data.json            source, digest, classes, counts
          model.json, model.weights.h5
          stages.json          of a fine-tuning: what each phase cost and gained; the penalties that the probe tried
          history.csv, metrics.jsonl, curves.svg and .png, watch.jsonl, feature_maps/, tensorboard/
          checkpoints/         the newest state of training; see callbacks/checkpoints.py
          evaluation/SPLIT.json, SPLIT.csv, SPLIT.npy
"""

import glob
import hashlib
import os
import shutil
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kerazoo.errors import Interrupted, KerazooError, RunError
from kerazoo.files import FULL, read_json, remove_temporary, sha256, write_json, write_whole
from kerazoo.models.stored import DESCRIPTION
from kerazoo.pipelines.environment import changes, environment, recorded
from kerazoo.pipelines.examples import Examples
from kerazoo.pipelines.recipe import Recipe, make_recipe, read_recipe
from kerazoo.pipelines.recipe_checks import as_kept
from kerazoo.pipelines.run_locks import TakenError, beside, held, is_held, remove_left

RUNS = Path("runs")
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
    def is_told(self) -> bool:
        """Whether it is finished and its result was told; until then the same command is answered by it."""
        state = read_json(self.folder / "run.json")
        return state.get("status") == "finished" and state.get("reported") is not False

    def check_recipe(self) -> None:
        """Raise RunError if `recipe.toml` has other values than the run was begun with."""
        state = read_json(self.folder / "run.json")
        path = self.folder / "recipe.toml"
        recorded = state.get("recipe_sha256")
        if recorded is None or not path.is_file() or sha256(path) == recorded:  # older versions recorded nothing
            return
        if keys := ", ".join(_differences(state.get("recipe") or {}, read_recipe(path))):
            raise RunError(
                f"{path} was edited since the run began ({keys}), which would give other results; undo that, or begin "
                f"another run by it: kerazoo train {path} --name NAME"
            )

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints lie."""
        return self.folder / "checkpoints"

    @property
    def recipe_sha256(self) -> str | None:
        """The digest of the recipe it was begun with; None in runs of older versions."""
        return read_json(self.folder / "run.json").get("recipe_sha256")

    def set_reported(self) -> None:
        """Its result was told: the same command does not stand for it any more."""
        self.set_status(self.status, reported=True)

    def set_status(self, status: str, **values: Any) -> None:
        """Change its status, with `values` beside."""
        write_json(self.folder / "run.json", {**read_json(self.folder / "run.json"), "status": status, **values})


def claim(
    recipe: Recipe,
    stem: str,
    *,
    name: str | None,
    root: str | Path = RUNS,
    overwrite: bool = False,
    worker: int | None = None,
) -> Path:
    """The folder that training by `recipe` belongs in: a new one, or that of a run it began and did not finish.

    Without a `name`, the first unfinished run called `stem-N` with the very same recipe, else the next free number. A
    run that finished and whose result was never reported is one of these: the caller answers by it.
    `worker` is the number of this process where several train the run, which must have a name; all but 0 take what 0
    claims. Raises RunError where `name` is no plain name, is finished (`overwrite` takes it away), has another recipe,
    or is being trained at this moment.
    """
    root = Path(root)
    if name is None:
        if worker is not None:
            raise RunError("several workers train one run, which must have a name; give all of them the same --name")
        return next(iter(_unfinished(recipe, stem, root)), root / free_name(stem, root))
    check_name(name)
    folder = root / name
    ways = "choose another --name, or take --overwrite to lose it"
    if not folder.exists():
        return folder
    if not overwrite and (folder / "run.json").is_file() and Run(folder).is_told:
        raise RunError(f"run {folder} exists and is finished; {ways}")
    if worker:
        return folder
    if is_held(folder):
        raise RunError(f"run {folder} is being trained by another process; wait for it or choose another --name")
    if not (folder / "run.json").is_file():
        raise RunError(f"{folder} exists and is no run; choose another --name")
    if overwrite:
        return folder
    run = Run(folder)
    try:
        other = run.recipe()
    except KerazooError as error:
        raise RunError(f"the recipe of the unfinished run {folder} cannot be read ({error}); {ways}") from error
    run.check_recipe()
    recipe = as_kept(recipe, other)
    if keys := ", ".join(_differences(other.model_dump(), recipe.model_dump())):
        state = "finished" if run.status == "finished" else "unfinished"
        raise RunError(f"run {folder} is {state}, with another recipe ({keys}); {ways}")
    return folder


def check_name(name: str, what: str = "run") -> None:
    """Raise RunError if `name` cannot be the folder of a run, or of another `what`."""
    if not name or name != Path(name).name or name.startswith(".") or "\0" in name or len(os.fsencode(name)) > LONGEST:
        raise RunError(f"{what} name {name!r:.60} must be a plain folder name, of {LONGEST} bytes at most")


def _unfinished(recipe: Recipe, stem: str, root: Path) -> Iterator[Path]:
    found = [path.parent for path in root.glob(f"{glob.escape(stem)}-*/run.json")]
    for folder in sorted(found, key=lambda folder: (len(folder.name), folder.name)):
        run = Run(folder)
        try:
            run.check_recipe()
            kept = run.recipe()
            same = not run.is_told and kept.model_dump() == as_kept(recipe, kept).model_dump()
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


def free_name(stem: str, root: Path = RUNS) -> str:
    """`stem-1`, or the first number after it that is free in `root`."""
    number = 1
    while (root / f"{stem}-{number}").exists():
        number += 1
    return f"{stem}-{number}"


@contextmanager
def begun(
    folder: Path, recipe: Recipe, examples: Examples, *, say: Callable[[str], None], writes: bool = True,
    overwrite: bool = False, numbered: bool = False, **known: Any,
) -> Iterator[Run]:  # fmt: skip
    """The run in `folder`, held by this process within; as it is, where another process `writes` it.

    A new one is made whole with all that is known before training; `known` goes into `run.json`. An unfinished one goes
    on where recipe, data and what is `known` are the same; versions and hardware may have changed, which is told to
    `say`. `overwrite` puts a new one in the place of any other. With `numbered`, the next free number is taken if
    another process was faster. Raises RunError; KerazooError where the disk is full.
    """
    if not writes:
        yield Run(folder)
        return
    remove_left(folder.parent)
    with ExitStack() as stack:
        while True:
            try:
                with _full_disk_named(folder):
                    run = _opened(folder, recipe, examples, known, stack, say=say, overwrite=overwrite)
                break
            except TakenError:
                if not numbered:
                    raise
                folder = folder.with_name(free_name(folder.name.rpartition("-")[0], folder.parent))
        with _marked(run), _full_disk_named(run.folder):
            yield run


def _opened(
    folder: Path, recipe: Recipe, examples: Examples, known: dict[str, Any], stack: ExitStack, *,
    say: Callable[[str], None], overwrite: bool,
) -> Run:  # fmt: skip
    """The run in `folder`, held by `stack`: the one that is there, made ready to go on, or a new one."""
    if not folder.exists():
        return _make(folder, recipe, examples, known, stack)
    stack.enter_context(held(folder))
    run = Run(folder)
    other = _what_differs(run, recipe, examples, known)
    if other and overwrite:
        return _make(folder, recipe, examples, known, stack, overwrite=True)
    if other:
        kind = TakenError if run.status == "finished" else RunError
        raise kind(f"run {folder} cannot go on: {other}; choose another --name, or take --overwrite")
    remove_temporary(folder)
    before, now = read_json(folder / "run.json").get("resumed", []), environment()
    if changed := ", ".join(changes(recorded(folder / "environment.json", say), now)):
        say(f"the environment has changed ({changed}); results may differ in the last bits from an uninterrupted run")
    run.set_status("running", resumed=[*before, now])
    return run


@contextmanager
def _marked(run: Run) -> Iterator[None]:
    """Says of a run that was stopped by a signal that it was."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt, SystemExit):
        with suppress(OSError):
            if run.status != "finished":
                run.set_status("interrupted")
        raise


@contextmanager
def _full_disk_named(folder: Path) -> Iterator[None]:
    """Turns the error of a full disk into one line that says what becomes of the run in `folder`."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        from kerazoo.callbacks.checkpoints import newest_place  # it brings TensorFlow, which the callers have

        place = newest_place(folder / "checkpoints")
        goes_on = "begins from the start" if place is None else f"goes on from epoch {place[0] + 1}, step {place[1]}"
        raise KerazooError(
            f"{error.filename or folder} cannot be written: {error.strerror}; make room and give the same command "
            f"again: it {goes_on}"
        ) from error


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


def _make(
    folder: Path, recipe: Recipe, examples: Examples, known: dict[str, Any], stack: ExitStack, *,
    overwrite: bool = False,
) -> Run:  # fmt: skip
    """A new run in `folder`, whole or not at all, held by `stack`; what was there goes after it has come."""
    making, old = beside(folder, "new"), beside(folder, "old")
    for left in (making, old):
        shutil.rmtree(left, ignore_errors=True)  # of a killed process with this number
    text = recipe.to_toml()
    recorded = {"recipe_sha256": hashlib.sha256(text.encode()).hexdigest(), "recipe": tomllib.loads(text)}
    try:
        making.mkdir(parents=True)
        stack.enter_context(held(making))  # so that no other process takes it for one that was killed
        write_json(making / "run.json", {"status": "running", **known, **recorded})
        write_whole(making / "recipe.toml", text)
        write_json(making / "environment.json", environment())
        write_json(making / "data.json", examples.describe())
        if overwrite:
            folder.replace(old)
        try:
            making.replace(folder)
        except OSError as error:
            if error.errno in FULL:
                raise
            raise TakenError(f"run {folder} exists; choose another --name or remove it") from error
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    return Run(folder)


def unfinished(folder: str | Path) -> Run:
    """The run at `folder`, which did not finish. Raises RunError."""
    folder = Path(folder)
    if not (folder / "run.json").is_file():
        raise RunError(f"there is no run {folder} to go on with")
    run = Run(folder)
    if run.is_told:
        raise RunError(f"run {folder} is finished; `kerazoo evaluate {folder}` shows what it gave")
    run.check_recipe()
    return run


def finished(folder: Path) -> bool:
    """Whether a finished run is there."""
    return (folder / "run.json").is_file() and Run(folder).status == "finished"


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
