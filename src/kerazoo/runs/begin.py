"""Beginning a run, or going on with one that did not finish."""

import glob
import hashlib
import logging
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from kerazoo.errors import Interrupted, KerazooError, RunError
from kerazoo.files import FULL, remove_temporary, write_json, write_whole
from kerazoo.pipelines.data.examples import Examples
from kerazoo.recipes.checks import with_recorded_batch_size
from kerazoo.recipes.recipe import Recipe
from kerazoo.runs.environment import changes, environment, recorded
from kerazoo.runs.locks import TakenError, beside, is_locked, remove_left, run_lock
from kerazoo.runs.records import DATA, STATE, read_data, read_state
from kerazoo.runs.run import RUNS, Run, check_name, differences

log = logging.getLogger("kerazoo")


def choose_folder(
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
    if not overwrite and (folder / STATE).is_file() and Run(folder).is_reported:
        raise RunError(f"run {folder} exists and is finished; {ways}")
    if worker:
        return folder
    if is_locked(folder):
        raise RunError(f"run {folder} is being trained by another process; wait for it or choose another --name")
    if not (folder / STATE).is_file():
        raise RunError(f"{folder} exists and is no run; choose another --name")
    if overwrite:
        return folder
    run = Run(folder)
    try:
        other = run.recipe
    except KerazooError as error:
        raise RunError(f"the recipe of the unfinished run {folder} cannot be read ({error}); {ways}") from error
    run.check_recipe()
    recipe = with_recorded_batch_size(recipe, other)
    if keys := ", ".join(differences(other.model_dump(), recipe.model_dump())):
        state = "finished" if run.status == "finished" else "unfinished"
        raise RunError(f"run {folder} is {state}, with another recipe ({keys}); {ways}")
    return folder


def _unfinished(recipe: Recipe, stem: str, root: Path) -> Iterator[Path]:
    found = [path.parent for path in root.glob(f"{glob.escape(stem)}-*/{STATE}")]
    for folder in sorted(found, key=lambda folder: (len(folder.name), folder.name)):
        run = Run(folder)
        try:
            run.check_recipe()
            kept = run.recipe
            same = not run.is_reported and kept.model_dump() == with_recorded_batch_size(recipe, kept).model_dump()
        except KerazooError:
            continue  # of another version
        if same and not is_locked(run.folder):
            yield run.folder


def free_name(stem: str, root: Path = RUNS) -> str:
    """`stem-1`, or the first number after it that is free in `root`."""
    number = 1
    while (root / f"{stem}-{number}").exists():
        number += 1
    return f"{stem}-{number}"


@contextmanager
def started(
    folder: Path, recipe: Recipe, examples: Examples, *, writes: bool = True,
    overwrite: bool = False, numbered: bool = False, **known: Any,
) -> Iterator[Run]:  # fmt: skip
    """The run in `folder`, held by this process within; as it is, where another process `writes` it.

    A new one is made whole with all that is known before training; `known` goes into `run.json`. An unfinished one goes
    on where recipe, data and what is `known` are the same; versions and hardware may have changed, which the
    log says. `overwrite` puts a new one in the place of any other. With `numbered`, the next free number is taken if
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
    """The run in `folder`, held by `stack`: the one that is there, made ready to go on, or a new one."""
    if not folder.exists():
        return _make(folder, recipe, examples, known, stack)
    stack.enter_context(run_lock(folder))
    run = Run(folder)
    other = _what_differs(run, recipe, examples, known)
    if other and overwrite:
        return _make(folder, recipe, examples, known, stack, overwrite=True)
    if other:
        kind = TakenError if run.status == "finished" else RunError
        raise kind(f"run {folder} cannot go on: {other}; choose another --name, or take --overwrite")
    remove_temporary(folder)
    before, now = read_state(folder).get("resumed", []), environment()
    if changed := ", ".join(changes(recorded(folder / "environment.json"), now)):
        log.info(
            f"the environment has changed ({changed}); results may differ in the last bits from an uninterrupted run"
        )
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
    state = read_state(run.folder)
    if state.get("status") == "finished":
        return "it is finished"
    if keys := ", ".join(differences(run.recipe.model_dump(), recipe.model_dump())):
        return f"its {keys}"
    facts = {**state, "data": read_data(run.folder).get("digest")}
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
        stack.enter_context(run_lock(making))  # so that no other process takes it for one that was killed
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
            raise TakenError(f"run {folder} exists; choose another --name or remove it") from error
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    return Run(folder)
