"""Training: a recipe and examples in, a finished run out. Keras's own `fit` is the loop."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from kerazoo.callbacks.checkpoints import prune
from kerazoo.errors import KerazooError
from kerazoo.evaluation.evaluate import evaluate_model
from kerazoo.models.description import ModelSpec
from kerazoo.models.registry import find
from kerazoo.models.saved import load_model, save_model
from kerazoo.pipelines.data.examples import Examples
from kerazoo.pipelines.devices.devices import Devices
from kerazoo.pipelines.devices.opening import open_devices
from kerazoo.pipelines.input.causes import true_causes
from kerazoo.recipes.recipe import Recipe
from kerazoo.runs.begin import choose_folder, started
from kerazoo.runs.digests import digests_of
from kerazoo.runs.run import RUNS, Run, finished
from kerazoo.training.fit import check_callbacks, divergence_message, fit
from kerazoo.training.outcome import Outcome, trained
from kerazoo.training.plan import assemble
from kerazoo.training.watching import log_kept

log = logging.getLogger("kerazoo")


def train(
    recipe: Recipe, *, name: str | None = None, root: str | Path = RUNS, overwrite: bool = False,
    devices: Devices | None = None, callbacks: Sequence[keras.callbacks.Callback] = (), reported: bool = True,
) -> Run:  # fmt: skip
    """Train a network of the registry from random weights; the finished run, evaluated on val and test.

    A run that was begun by the same recipe and not finished goes on from its newest checkpoint (`choose_folder`).
    With `reported` False the caller calls `run.set_reported()` once it has told the result; a run that finished and was
    never reported (its process was killed) is what the next call with the same recipe returns.
    `callbacks` are Keras callbacks of the caller's; they are called after those of the run. One that has `state()` and
    `restore(state)` goes on with the run, as with `Resume`.
    `devices` are those that the recipe asks for, opened. Of several workers only the first writes and
    evaluates. Raises InputError before anything is written where recipe or data are bad; Interrupted
    where a signal asked to stop.
    """
    start = time.perf_counter()
    check_callbacks(callbacks)
    recipe = recipe.anchored()
    devices = devices or open_devices(recipe.devices)
    worker = devices.worker if devices.workers > 1 else None
    stem = f"{find(recipe.model.name).name}-{Path(recipe.data.path).stem}"
    folder = choose_folder(recipe, stem, name=name, root=root, overwrite=overwrite, worker=worker)
    if finished(folder) and not overwrite:
        return Run(folder)
    with true_causes(recipe):
        made = assemble(recipe, devices)
    recipe, spec, examples = made.recipe, made.spec, made.examples
    writes, on = devices.is_chief, devices.describe()
    with (
        true_causes(recipe, examples, spec.preprocessing),
        started(folder, recipe, examples, writes=writes, overwrite=overwrite, numbered=name is None, devices=on) as run,
    ):
        history = fit(
            made.model, made.batches, made.validation, run=run, recipe=recipe, spec=spec, examples=examples,
            loss=made.loss, devices=devices, callbacks=callbacks,
        )  # fmt: skip
        if reason := divergence_message(history, recipe):
            raise KerazooError(reason)
        if not devices.is_chief:
            return run
        return finish_run(run, recipe, spec, made.model, examples, history, start, reported=reported)


def finish_run(
    run: Run, recipe: Recipe, spec: ModelSpec, model: keras.Model, examples: Examples,
    history: list[dict[str, float]], start: float, *, outcome: Outcome | None = None, **known: Any,
) -> Run:  # fmt: skip
    """Save, draw, evaluate on val and test, mark finished; `outcome` is by default that of a plain training.

    `known` goes into `run.json`. Feature maps are drawn once more, of what was kept, as of one epoch more.
    """
    outcome, epochs = outcome or trained(history, recipe), len(history)
    outcome.draw(history, run.folder)
    save_model(run.folder, spec, model)
    stored = load_model(run.folder)[1]  # what is evaluated is what anyone will load
    log_kept(stored, outcome.levels, run, recipe, examples, spec.preprocessing, epochs=epochs)
    results: dict[str, Any] = {}
    for split in examples.split_names[1:]:
        result = evaluate_model(stored, spec, examples.split(split), run.folder / "evaluation", split)
        results |= result.summary()
        log.info(result.line())
    prune(run.checkpoints, keep=1)
    seconds = round(time.perf_counter() - start, 1)
    run.set_status("finished", seconds=seconds, results=results, digests=digests_of(run.folder), **known)
    return run
