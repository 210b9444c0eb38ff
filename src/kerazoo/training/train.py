"""Training: a recipe and examples in, a finished run out. Keras's own `fit` is the loop."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from kerazoo.callbacks.checkpoints import prune
from kerazoo.errors import KerazooError, RecipeError
from kerazoo.evaluation.evaluate import evaluate_model
from kerazoo.models.saved import load_model, save_model
from kerazoo.pipelines.checks.check import check_images
from kerazoo.pipelines.devices.devices import Devices
from kerazoo.pipelines.devices.opening import open_devices
from kerazoo.pipelines.input.causes import true_causes
from kerazoo.recipes.recipe import Recipe
from kerazoo.runs.begin import choose_folder, started
from kerazoo.runs.digests import digests_of
from kerazoo.runs.run import RUNS, Run, finished
from kerazoo.training.fit import build_network, check_callbacks, divergence_message, fit, make_batches
from kerazoo.training.outcome import Outcome, trained
from kerazoo.training.plan import Plan, plan, set_seed, stem_of, summary
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
    if recipe.transfer is not None:
        raise RecipeError("train begins with random weights; use finetune, or remove the transfer part of the recipe")
    recipe = recipe.anchored()
    devices = devices or open_devices(recipe.devices)
    worker = devices.worker if devices.workers > 1 else None
    folder = choose_folder(recipe, stem_of(recipe), name=name, root=root, overwrite=overwrite, worker=worker)
    if finished(folder) and not overwrite:
        return Run(folder)
    with true_causes(recipe.training.batch_size):
        made = plan(recipe, devices)
        check_images(made.examples)
        set_seed(made.recipe.seed)
        batches, validation = make_batches(made, devices)
        model = build_network(made, devices)
    devices.check_batch_norm(model)
    log.info(
        f"{made.entry.name}: {model.count_params():,} parameters; {summary(made.examples)}; on {devices.describe()}"
    )
    with (
        true_causes(made.recipe.training.batch_size, made.examples, made.preprocessing),
        started(
            folder, made.recipe, made.examples, writes=devices.is_chief, overwrite=overwrite, numbered=name is None,
            devices=devices.describe(),
        ) as run,
    ):  # fmt: skip
        history = fit(model, made, batches, validation, run=run, devices=devices, callbacks=callbacks)
        if reason := divergence_message(history, made.recipe.optimizer.learning_rate):
            raise KerazooError(reason)
        if not devices.is_chief:
            return run
        return finish_run(run, made, model, history, start, reported=reported)


def finish_run(
    run: Run, plan: Plan, model: keras.Model, history: list[dict[str, float]], start: float, *,
    outcome: Outcome | None = None, **known: Any,
) -> Run:  # fmt: skip
    """Save, draw, evaluate on val and test, mark finished; `outcome` is by default that of a plain training.

    `start` is when the run began, by `time.perf_counter`. `known` goes into `run.json`. Feature maps are drawn once
    more, of what was kept, as of one epoch more.
    """
    outcome = outcome or trained(history, keeps_best=plan.recipe.training.early_stopping is not None)
    outcome.draw(history, run.folder)
    save_model(run.folder, plan.spec, model)
    stored = load_model(run.folder)[1]  # what is evaluated is what anyone will load
    log_kept(stored, outcome.levels, run, plan, epochs=len(history))
    results: dict[str, Any] = {}
    for split in plan.examples.split_names[1:]:
        part = plan.examples.split(split)
        result = evaluate_model(stored, plan.spec, part, run.folder / "evaluation", split)
        results |= result.summary()
        log.info(result.line())
    prune(run.checkpoints, keep=1)
    seconds = round(time.perf_counter() - start, 1)
    run.set_status("finished", seconds=seconds, results=results, digests=digests_of(run.folder), **known)
    return run
