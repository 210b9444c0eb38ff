"""Evaluation: compute a model's answers for every example of a split, their metrics, and store them."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from kerazoo.arrays import read_answers
from kerazoo.errors import DataError, GateError, KerazooError
from kerazoo.evaluation.answers import FOLDS, Evaluation
from kerazoo.models.description import ModelSpec
from kerazoo.models.saved import load_model
from kerazoo.pipelines.checks.check import check_images
from kerazoo.pipelines.data.examples import Examples
from kerazoo.pipelines.data.load import check_class_names, load_examples
from kerazoo.pipelines.input.batches import evaluation_batches
from kerazoo.pipelines.input.causes import true_causes
from kerazoo.runs.digests import check_digests
from kerazoo.runs.records import read_data
from kerazoo.runs.run import Run
from kerazoo.tasks.task import find_task


def evaluate_model(model: keras.Model, spec: ModelSpec, examples: Examples, folder: Path, split: str) -> Evaluation:
    """As `answers_of`; writes the answers into `folder`."""
    result = answers_of(model, spec, examples, split)
    result.write(folder)
    return result


def answers_of(
    model: keras.Model, spec: ModelSpec, examples: Examples, split: str, stored: np.ndarray | None = None
) -> Evaluation:
    """The answers of `model` for `examples`, in inference mode. Raises KerazooError if an answer is not finite.

    `stored` has the resized images, if they are cached. The thresholds of `spec` are taken as chosen by other answers.
    """
    with true_causes(None, examples, spec.preprocessing):
        logits = model.predict(evaluation_batches(examples, spec.preprocessing, stored=stored), verbose=0)
    if not np.isfinite(logits).all():
        bad = examples.keys[int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])]
        raise KerazooError(f"the network's answer for {bad} is not a finite number; train with a lower learning rate")
    answers = keras.ops.convert_to_numpy(spec.answers(keras.ops.convert_to_tensor(logits)))
    loss = float(find_task(spec.task).losses(logits / spec.temperature, examples.labels).mean())
    return Evaluation(
        split, examples.keys, examples.labels, answers, spec.class_names, loss, spec.task, thresholds=spec.thresholds
    )


def evaluate(run: Run, data: str | None = None) -> list[Evaluation]:
    """The evaluations of a finished run on its own val and test splits, or on every split of other `data`.

    For an ensemble, whose members have seen the images of val, the first one is of the recorded out-of-fold answers.

    Other data without splits is evaluated as one split, `test`, and its results go into `evaluation/NAME-DIGEST/`.
    Answers on the run's own data must equal the recorded ones. Raises RunError if a file of the run was changed (see
    `digests.py`), DataError if its data has changed or the classes differ, and GateError if the answers differ.
    """
    check_digests(run.folder)
    recipe = run.recipe
    spec, model = load_model(run.folder)
    other = None if data is None else recipe.data.model_copy(update={"path": data, "manifest": None, "group": None})
    examples = load_examples(other or recipe.data, hold_out=data is None)
    check_class_names(examples.class_names, spec.class_names, examples.source)
    folder = run.folder / "evaluation"
    if data is not None:
        check_images(examples)
        folder = folder / f"{Path(examples.source).stem}-{examples.digest()[:8]}"
        return [evaluate_model(model, spec, examples.split(s), folder, s) for s in examples.split_names]
    check_unchanged(run, examples)
    results = []
    for split in examples.split_names[1:]:
        result = answers_of(model, spec, examples.split(split), split)
        recorded = recorded_answers(run, split, result.probabilities.shape)
        if not find_task(spec.task).agree(result.probabilities, recorded).all():
            raise GateError(
                f"{run.folder} does not give the same answers for its {split} images as when it was trained"
            )
        results.append(replace(result, chose=split == "val"))
    if spec.members:  # they have seen the images of val, each other's folds
        return [out_of_fold(run, spec, examples), *(result for result in results if result.split != "val")]
    return results


def reported_evaluations(run: Run, spec: ModelSpec, examples: Examples) -> list[Evaluation]:
    """The recorded evaluations of `run` that say how good it is: on val and test, for an ensemble on folds and test."""
    splits = examples.split_names[1:]
    if not spec.members:
        return [recorded_evaluation(run, spec, examples, split) for split in splits]
    tested = [recorded_evaluation(run, spec, examples, split) for split in splits if split != "val"]
    return [out_of_fold(run, spec, examples), *tested]


def out_of_fold(run: Run, spec: ModelSpec, examples: Examples) -> Evaluation:
    """The recorded answers for train and val of the ensemble `run`, each of the member that did not see the image."""
    part = examples.take(np.flatnonzero(examples.splits != "test"))
    answers = recorded_answers(run, FOLDS, (len(part), len(examples.class_names)))
    return replace(evaluation_of_answers(FOLDS, part, answers, spec.task), thresholds=spec.thresholds, chose=True)


def evaluation_of_answers(split: str, examples: Examples, answers: np.ndarray, task: str) -> Evaluation:
    """The evaluation of (N, K) `answers` for `examples`."""
    loss = float(find_task(task).losses_of_answers(answers, examples.labels).mean())
    return Evaluation(split, examples.keys, examples.labels, answers, examples.class_names, loss, task)


def recorded_answers(run: Run, split: str, shape: tuple[int, ...]) -> np.ndarray:
    """(N, K) float32 answers of `run` when it finished. Raises RunError if they do not have that `shape`."""
    return read_answers(run.folder / "evaluation" / f"{split}.npy", shape)


def recorded_evaluation(run: Run, spec: ModelSpec, examples: Examples, split: str) -> Evaluation:
    """The evaluation of `split` from the recorded answers of `run` and the labels of `examples`, without the model."""
    part = examples.split(split)
    answers = recorded_answers(run, split, (len(part), len(examples.class_names)))
    result = evaluation_of_answers(split, part, answers, spec.task)
    return replace(result, thresholds=spec.thresholds, chose=split == "val")


def check_unchanged(run: Run, examples: Examples) -> None:
    """Raise DataError unless `examples` are exactly the data that `run` was trained on."""
    recorded = read_data(run.folder)["digest"]
    if examples.digest() != recorded:
        raise DataError(
            f"{examples.source} has changed since {run.folder} was trained (its digest was {recorded[:16]}); "
            f"to evaluate on the changed data, name it: --data {examples.source}, in Python evaluate(run, data)"
        )
