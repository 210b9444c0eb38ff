"""A run for each fold of train and val, one table of their results, and the ensemble of their networks.

runs/NAME is the ensemble, and runs/NAME/folds/1 to K are the runs of the folds, each a run like any other. An ensemble
that did not finish goes on with the fold that did not finish; finished folds are not trained again.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerazoo.errors import RecipeError
from kerazoo.evaluation.answers import FOLDS
from kerazoo.evaluation.evaluate import evaluate_model, evaluation_of_answers, recorded_evaluation
from kerazoo.evaluation.label_thresholds import choose_thresholds
from kerazoo.models.description import Member, ModelSpec
from kerazoo.models.ensemble import side_by_side
from kerazoo.models.saved import load_model, load_network, save_model
from kerazoo.pipelines.data.examples import Examples
from kerazoo.pipelines.data.folds import folds_of, with_fold
from kerazoo.pipelines.data.load import check_classes, load_examples
from kerazoo.pipelines.devices.devices import Devices
from kerazoo.recipes.checks import check_against
from kerazoo.recipes.recipe import Recipe, make_recipe
from kerazoo.runs.begin import choose_folder, started
from kerazoo.runs.digests import digests_of
from kerazoo.runs.run import RUNS, Run, finished
from kerazoo.tasks.task import find_task
from kerazoo.training.fold_table import FoldResult, show_folds
from kerazoo.training.plan import plan, resolve_preset, stem_of

log = logging.getLogger("kerazoo")


def train_folds(
    recipe: Recipe, make: Callable[..., Run], *, name: str | None = None, root: str | Path = RUNS,
    overwrite: bool = False, devices: Devices, callbacks: Sequence[keras.callbacks.Callback] = (),
    reported: bool = True,
) -> Run:  # fmt: skip
    """The finished ensemble of `recipe.data.folds` runs, which `make` (`train` or `finetune`) makes of the folds.

    Its results are of the out-of-fold answers, and of the ensemble on test if there is one. The other arguments are
    those of `make`. Raises as `make` does.
    """
    start = time.perf_counter()
    if devices.workers > 1:
        raise RecipeError("data.folds works only on one machine; remove it, or train each fold by data.fold")
    recipe = recipe.anchored()
    if recipe.transfer is None:
        examples = load_examples(recipe.data)
    else:
        recipe, examples = resolve_preset(recipe)
    count = int(recipe.data.folds or 0)
    numbers = folds_of(examples, count)
    used = numbers[numbers > 0]
    recipe = check_against(recipe, len(used) - int(np.bincount(used).max()))
    folder = choose_folder(recipe, stem_of(recipe), name=name, root=root, overwrite=overwrite)
    if finished(folder) and not overwrite:
        return Run(folder)
    recipes = [_recipe_of(fold, recipe) for fold in range(1, count + 1)]
    for fold, one in enumerate(recipes, 1):  # refuse bad ones before anything is written
        split = with_fold(examples, count, fold)
        check_classes(split)
        plan(one, devices, examples=split)
    with started(folder, recipe, examples, overwrite=overwrite, numbered=name is None) as run:
        members = []
        for one in recipes:
            log.info(f"fold {one.data.fold} of {count}")
            members.append(_run_of(one, run, make, devices=devices, callbacks=callbacks))
        return _finish(run, examples, members, start, reported=reported)


def _recipe_of(fold: int, recipe: Recipe) -> Recipe:
    """The recipe of the run of a fold; every key is set, as in the recipe that the ensemble keeps."""
    values = recipe.model_dump(exclude_none=True)
    values["data"]["fold"] = fold
    return make_recipe(values)


def _run_of(recipe: Recipe, ensemble: Run, make: Callable[..., Run], **arguments: Any) -> Run:
    """The finished run of a fold. One that is finished is not made again."""
    root = ensemble.folder / FOLDS
    name = str(recipe.data.fold)
    if finished(root / name):
        run = Run(root / name)
        run.check_recipe()
        log.info(f"{run.folder} is finished")
        return run
    return make(recipe, name=name, root=root, reported=False, **arguments)


def _finish(run: Run, examples: Examples, members: list[Run], start: float, *, reported: bool) -> Run:
    """Put the networks of `members` together, evaluate, show the table, and mark the run as finished."""
    folder = run.folder / "evaluation"
    rows, answers = _out_of_fold(examples, members)
    part = examples.take(np.flatnonzero(examples.splits != "test"))
    result = choose_thresholds(evaluation_of_answers(FOLDS, part, answers, examples.task))
    result.write(folder)
    spec = _save_ensemble(run.folder, members, result.thresholds)
    model = load_model(run.folder)[1]  # evaluate the saved model, which users will load
    tested = []
    for split in examples.split_names[1:]:
        evaluation = evaluate_model(model, spec, examples.split(split), folder, split)
        if split != "val":  # the members have seen val, whose answers are recorded for the gate of an export only
            tested.append(evaluation)
    results = show_folds(rows, result, part.groups, tested)
    run.set_status(
        "finished", seconds=round(time.perf_counter() - start, 1), results=results, digests=digests_of(run.folder),
        folds=[asdict(row) for row in rows], reported=reported,
    )  # fmt: skip
    return run


def _out_of_fold(examples: Examples, members: list[Run]) -> tuple[list[FoldResult], np.ndarray]:
    """The result of each fold, and (N, K) answers for train and val: each image's from the run that did not see it."""
    keys = [key for key, split in zip(examples.keys, examples.splits, strict=True) if split != "test"]
    place = {key: number for number, key in enumerate(keys)}
    answers = np.full((len(keys), len(examples.class_names)), np.nan, np.float32)
    task = find_task(examples.task)
    rows = []
    for fold, member in enumerate(members, 1):
        one = recorded_evaluation(member, member.spec, with_fold(examples, len(members), fold), "val")
        answers[[place[key] for key in one.keys]] = one.probabilities
        score = float(task.scores_of_answers(one.probabilities, one.labels).mean())
        row = FoldResult(
            run=f"{FOLDS}/{member.name}", fold=fold, images=len(one.keys), score=score, loss=one.loss,
            seconds=member.seconds, kept=member.kept_phase,
        )  # fmt: skip
        rows.append(row)
    assert np.isfinite(answers).all()
    return rows, answers


def _save_ensemble(folder: Path, members: list[Run], thresholds: tuple[float, ...]) -> ModelSpec:
    """Write the ensemble of the networks of `members` into `folder`, with the `thresholds` of its labels."""
    loaded = [load_network(member.folder) for member in members]
    first = loaded[0][0]
    each = tuple(Member(spec.temperature, spec.flip) for spec, _ in loaded)
    # the momentum of batch norm, which may differ, has no effect on answers
    spec = ModelSpec(
        first.name, first.arguments, first.preprocessing, first.class_names, first.task, members=each,
        thresholds=thresholds,
    )  # fmt: skip
    save_model(folder, spec, side_by_side([network for _, network in loaded]))
    return spec
