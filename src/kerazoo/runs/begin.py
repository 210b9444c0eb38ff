"""Start a new run, or resume an unfinished one."""

import glob
import hashlib
import logging
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from kerazoo.errors import KerazooError, RunError
from kerazoo.files import FULL, remove_temporary, write_json, write_whole
from kerazoo.pipelines.data.examples import Examples
from kerazoo.recipes.checks import with_recorded_batch_size
from kerazoo.recipes.recipe import Recipe
from kerazoo.runs.environment import changes, environment, recorded
from kerazoo.runs.locks import TakenError, beside, is_locked, remove_left, run_lock
from kerazoo.runs.records import DATA, STATE, read_data, read_state
from kerazoo.runs.run import RUNS, Run, check_name, differences

log = logging.getLogger("kerazoo")
WAYS = "choose another name (--name), or replace the run (--overwrite, in Python overwrite=True)"


def choose_folder(
    recipe: Recipe,
    stem: str,
    *,
    name: str | None,
    root: str | Path = RUNS,
    overwrite: bool = False,
    worker: int | None = None,
) -> Path:
    """The folder for training with `recipe`: a new one, or that of an unfinished run with the same recipe.

    Without a `name`, it is the first unfinished run called `stem-N` with exactly the same recipe, or the next free
    number. A finished run whose result was not reported yet also counts as unfinished; the caller reports its result.
    `worker` is the number of this process if several processes train the run, which then must have a name; worker 0
    chooses the folder, and the others use the same one. Raises RunError if `name` is not a plain name, or if its run is
    finished (unless `overwrite`), has another recipe, or is being trained now.
    """
    root = Path(root)
    if name is None:
        if worker is not None:
            raise RunError("a run trained by several workers must have a name; give all workers the same name (--name)")
        return next(iter(_unfinished(recipe, stem, root)), root / free_name(stem, root))
    check_name(name)
    folder = root / name
    if not folder.exists():
        return folder
    if not overwrite and (folder / STATE).is_file() and Run(folder).is_reported:
        raise RunError(
            f"run {folder} exists and is finished: open it with kerazoo.open_run, choose another name (--name), or "
            "replace it (--overwrite, in Python overwrite=True)"
        )
    if worker:
        return folder
    if is_locked(folder):
        raise RunError(
            f"run {folder} is being trained by another process; wait for it, or choose another name (--name)"
        )
    if not (folder / STATE).is_file():
        raise RunError(f"{folder} exists but is not a run; choose another name (--name)")
    if overwrite:
        return folder
    run = Run(folder)
    try:
        other = run.recipe
    except KerazooError as error:
        raise RunError(f"the recipe of the unfinished run {folder} cannot be read ({error}); {WAYS}") from error
    run.check_recipe()
    recipe = with_recorded_batch_size(recipe, other)
    keys = ", ".join(differences(other.model_dump(), recipe.model_dump()))
    if keys:
        state = "finished" if run.status == "finished" else "unfinished"
        raise RunError(f"run {folder} is {state} and has another recipe ({keys}); {WAYS}")
    return folder


def _unfinished(recipe: Recipe, stem: str, root: Path) -> Iterator[Path]:
    folders = [path.parent for path in root.glob(f"{glob.escape(stem)}-*/{STATE}")]
    for folder in sorted(folders, key=lambda folder: (len(folder.name), folder.name)):
        run = Run(folder)
        try:
            run.check_recipe()
            kept = run.recipe
            same = not run.is_reported and kept.model_dump() == with_recorded_batch_size(recipe, kept).model_dump()
        except KerazooError:
            continue  # a run of another version
        if same and not is_locked(run.folder):
            yield run.folder


def free_name(stem: str, root: Path = RUNS) -> str:
    """`stem-1`, or the name with the next number that is free in `root`."""
    number = 1
    while (root / f"{stem}-{number}").exists():
        number += 1
    return f"{stem}-{number}"


@contextmanager
def started(
    folder: Path, recipe: Recipe, examples: Examples, *, writes: bool = True,
    overwrite: bool = False, numbered: bool = False, **known: Any,
) -> Iterator[Run]:  # fmt: skip
    """The run in `folder`, locked by this process. If not `writes`, another process writes it, and nothing is done.

    A new run gets all files that are known before training; `known` is written to `run.json`. An unfinished run is
    resumed if its recipe, its data and `known` are the same. Versions and hardware may have changed; the log then says
    so. `overwrite` replaces any other run. With `numbered`, the next free number is used if another process takes the
    folder first. Raises RunError, or KerazooError if the disk is full.
    """
    if not writes:
        yield Run(folder)
        return
    remove_left(folder.parent)
    with ExitStack() as stack:
        while True:
            try:
                with _full_disk_named(folder):
                    run = _opened(folder, recipe, examples, known, stack, overwrite=overwrite)
                break
            except TakenError:
                if not numbered:
                    raise
                folder = folder.with_name(free_name(folder.name.rpartition("-")[0], folder.parent))
        with _marked(run), _full_disk_named(run.folder):
            yield run


def _opened(
    folder: Path, recipe: Recipe, examples: Examples, known: dict[str, Any], stack: ExitStack, *,
    overwrite: bool,
) -> Run:  # fmt: skip
    """The run in `folder`, locked until `stack` closes: the existing one, ready to resume, or a new one."""
    if not folder.exists():
        return _make(folder, recipe, examples, known, stack)
    stack.enter_context(run_lock(folder))
    run = Run(folder)
    other = _what_differs(run, recipe, examples, known)
    if other and overwrite:
        return _make(folder, recipe, examples, known, stack, overwrite=True)
    if other:
        error_type = TakenError if run.status == "finished" else RunError
        raise error_type(f"run {folder} cannot be resumed: {other}; {WAYS}")
    remove_temporary(folder)
    before = read_state(folder).get("resumed", [])
    now = environment()
    changed = ", ".join(changes(recorded(folder / "environment.json"), now))
    if changed:
        log.info(
            f"the environment has changed ({changed}); results may differ in the last bits from an uninterrupted run"
        )
    run.set_status("running", resumed=[*before, now])
    return run


@contextmanager
def _marked(run: Run) -> Iterator[None]:
    """Set the run's status to "interrupted" if a signal stops it."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        with suppress(OSError):
            if run.status != "finished":
                run.set_status("interrupted")
        raise


@contextmanager
def _full_disk_named(folder: Path) -> Iterator[None]:
    """Turn the error of a full disk into one line that says where the run in `folder` will resume."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        from kerazoo.callbacks.checkpoints import newest_place  # it imports TensorFlow, which the callers already have

        place = newest_place(folder / "checkpoints")
        next_step = "starts again" if place is None else f"resumes from epoch {place[0] + 1}, step {place[1]}"
        raise KerazooError(
            f"{error.filename or folder} cannot be written: {error.strerror}; free some disk space and run the same "
            f"command again: it {next_step}"
        ) from error


def _what_differs(run: Run, recipe: Recipe, examples: Examples, known: dict[str, Any]) -> str:
    """Why `run` cannot be resumed with these, in words; "" if it can."""
    state = read_state(run.folder)
    if state.get("status") == "finished":
        return "it is finished"
    keys = ", ".join(differences(run.recipe.model_dump(), recipe.model_dump()))
    if keys:
        return f"its {keys}"
    facts = {**state, "data": read_data(run.folder).get("digest")}
    now = {**known, "data": examples.digest()}
    return ", ".join(
        f"its {what} was {facts.get(what)} and is now {now[what]}" for what in now if facts.get(what) != now[what]
    )


def _make(
    folder: Path, recipe: Recipe, examples: Examples, known: dict[str, Any], stack: ExitStack, *,
    overwrite: bool = False,
) -> Run:  # fmt: skip
    """A new run in `folder`, locked until `stack` closes. It is made beside `folder` and renamed when complete."""
    making = beside(folder, "new")
    old = beside(folder, "old")
    for path in (making, old):
        shutil.rmtree(path, ignore_errors=True)  # left by a killed process with the same number
    text = recipe.to_toml()
    recorded = {"recipe_sha256": hashlib.sha256(text.encode()).hexdigest(), "recipe": tomllib.loads(text)}
    try:
        making.mkdir(parents=True)
        stack.enter_context(run_lock(making))  # or another process would remove it as the folder of a killed process
        write_json(making / STATE, {"status": "running", **known, **recorded})
        write_whole(making / "recipe.toml", text)
        write_json(making / "environment.json", environment())
        write_json(making / DATA, examples.describe())
        if overwrite:
            folder.replace(old)
        try:
            making.replace(folder)
        except OSError as error:
            if error.errno in FULL:
                raise
            raise TakenError(f"run {folder} exists; choose another name (--name), or remove it") from error
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    return Run(folder)
