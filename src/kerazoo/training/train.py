"""Training: from a recipe to a finished run. The loop is Keras's own `fit`."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from kerazoo.callbacks.checkpoints import prune
from kerazoo.errors import KerazooError, RecipeError
from kerazoo.evaluation.evaluate import answers_of
from kerazoo.evaluation.label_thresholds import choose_thresholds
from kerazoo.models.answering import answering_network
from kerazoo.models.saved import load_network, save_model, save_spec
from kerazoo.pipelines.devices.devices import Devices
from kerazoo.pipelines.devices.opening import open_devices
from kerazoo.pipelines.input.causes import true_causes
from kerazoo.recipes.recipe import Recipe
from kerazoo.runs.begin import choose_folder, started
from kerazoo.runs.digests import digests_of
from kerazoo.runs.run import RUNS, Run, finished
from kerazoo.runs.timings import spent, timed, timing
from kerazoo.training.fit import build_network, check_callbacks, divergence_message, fit, make_batches
from kerazoo.training.outcome import Outcome, trained
from kerazoo.training.plan import Plan, plan, set_seed, stem_of, summary
from kerazoo.training.second_view import with_second_view
from kerazoo.training.teacher import check_teacher
from kerazoo.training.watching import log_kept
from kerazoo.training.whitening import whitened

log = logging.getLogger("kerazoo")


@timing()
def train(
    recipe: Recipe, *, name: str | None = None, root: str | Path = RUNS, overwrite: bool = False,
    devices: Devices | None = None, callbacks: Sequence[keras.callbacks.Callback] = (), reported: bool = True,
) -> Run:  # fmt: skip
    """Train a network of the registry from random weights and return the finished run, evaluated on val and test.

    An unfinished run with the same recipe is resumed from its newest checkpoint (`choose_folder`).
    If `reported` is False, the caller must call `run.set_reported()` after showing the result. A finished run that was
    not reported (its process was killed) is returned by the next call with the same recipe.
    `callbacks` are Keras callbacks, called after those of the run. The state of a callback with `state()` and
    `restore(state)` is saved in checkpoints and restored, see `Resume`.
    `devices` are the opened devices of the recipe. If there are several workers, only the first writes and evaluates.
    Raises InputError before anything is written if the recipe or the data are bad; Interrupted if a signal asked to
    stop.
    """
    start = time.perf_counter()
    check_callbacks(callbacks)
    if recipe.transfer is not None:
        raise RecipeError("train starts from random weights; use finetune, or remove the transfer part of the recipe")
    recipe = recipe.anchored()
    devices = devices or open_devices(recipe.devices)
    worker = devices.worker if devices.workers > 1 else None
    folder = choose_folder(recipe, stem_of(recipe), name=name, root=root, overwrite=overwrite, worker=worker)
    if finished(folder) and not overwrite:
        return Run(folder)
    with true_causes(recipe.training.batch_size):
        with timed("reading the data"):
            run_plan = plan(recipe, devices)
        with timed("checking and resizing"):
            run_plan.check_images()
        teacher = check_teacher(run_plan)
        set_seed(run_plan.recipe.seed)
        batches, validation = make_batches(run_plan, devices)
        model = whitened(build_network(run_plan, devices), run_plan)
    devices.check_batch_norm(model)
    log.info(
        f"{run_plan.entry.name}: {model.count_params():,} parameters; {summary(run_plan.examples)}; on "
        f"{devices.describe()}"
    )
    with (
        true_causes(run_plan.recipe.training.batch_size, run_plan.examples, run_plan.preprocessing),
        started(
            folder, run_plan.recipe, run_plan.examples, writes=devices.is_chief, overwrite=overwrite,
            numbered=name is None, devices=devices.describe(), **teacher,
        ) as run,
    ):  # fmt: skip
        with timed("training"):
            history = fit(model, batches, validation, plan=run_plan, run=run, devices=devices, callbacks=callbacks)
        reason = divergence_message(history, run_plan.recipe.optimizer.learning_rate)
        if reason:
            raise KerazooError(reason)
        if not devices.is_chief:
            return run
        run_plan = replace(run_plan, spec=with_second_view(model, run_plan))
        return finish_run(run, run_plan, model, history, start, reported=reported)


def finish_run(
    run: Run, plan: Plan, model: keras.Model, history: list[dict[str, float]], start: float, *,
    outcome: Outcome | None = None, **known: Any,
) -> Run:  # fmt: skip
    """Save the model, draw, evaluate on val and test, and mark the run as finished. Returns the run.

    `outcome` is by default that of training from random weights. `start` is the start time by `time.perf_counter`.
    `known` is written to `run.json`. Feature maps of the final model are drawn as one more epoch. The answers for val
    choose the thresholds of labels, which `model.json` keeps.
    """
    outcome = outcome or trained(history, keeps_best=plan.recipe.training.early_stopping is not None)
    with timed("pictures"):
        outcome.draw(history, run.folder)
    with timed("saving"):
        save_model(run.folder, plan.spec, model)
        spec, network = load_network(run.folder)  # evaluate the saved model, which users will load
        stored = answering_network(spec, network)
    with timed("pictures"):
        log_kept(network, outcome.levels, run, plan, epochs=len(history))
    results: dict[str, Any] = {}
    described = plan.spec
    for split in plan.examples.split_names[1:]:
        part = plan.examples.split(split)
        with timed("evaluation"):
            result = answers_of(stored, described, part, split, plan.stored(split))
            if split == "val":  # the first one
                result = choose_thresholds(result)
                described = replace(described, thresholds=result.thresholds)
                save_spec(run.folder, described)
            result.write(run.folder / "evaluation")
        results |= result.summary()
        log.info(result.line())
    prune(run.checkpoints, keep=1)
    seconds = round(time.perf_counter() - start, 1)
    known |= {"timings": spent(), "digests": digests_of(run.folder)}
    run.set_status("finished", seconds=seconds, results=results, **known)
    return run
