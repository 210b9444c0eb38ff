"""A teacher: the answers of a finished run in place of the labels of training ("function matching").

Teacher and student see the same crops, mirrored, mixed or erased alike: Beyer et al. 2021, "Knowledge distillation: a
good teacher is patient and consistent", arXiv:2106.05237. The teacher answers all images of an epoch before the epoch,
so training itself is that of any run whose labels are shares of the classes. Source of the idea: Hinton et al. 2015,
arXiv:1503.02531.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerazoo.errors import InputError, RecipeError
from kerazoo.files import read_json
from kerazoo.models.description import ModelSpec
from kerazoo.models.saved import DESCRIPTION, load_model
from kerazoo.pipelines.input.batches import TrainingBatches, training_batches
from kerazoo.runs.digests import check_digests
from kerazoo.runs.records import read_data
from kerazoo.runs.run import open_run
from kerazoo.training.plan import Plan

KEY = "training.teacher"


def check_teacher(plan: Plan) -> dict[str, Any]:
    """{"teacher": sha256 of the teacher's weights}, which a run records; {} if the recipe has no teacher.

    Raises RecipeError if the teacher may have seen images of val or test, or has other classes or another image size.
    """
    if plan.recipe.training.teacher is None:
        return {}
    folder = _folder_of(plan.recipe.training.teacher)
    spec = open_run(folder).spec
    if spec.members:
        raise RecipeError(
            f"{KEY}: {folder} is an ensemble, whose networks have seen the images of val; use one of its folds, and "
            "the same data.folds and data.fold"
        )
    if spec.task != plan.task.name or spec.class_names != plan.examples.class_names:
        raise RecipeError(
            f"{KEY}: the {plan.task.units} of {folder} ({', '.join(spec.class_names[:5])}) must be those of the data "
            f"({', '.join(plan.examples.class_names[:5])}), in the same order"
        )
    if replace(spec.preprocessing, scaling=plan.preprocessing.scaling) != plan.preprocessing:
        raise RecipeError(
            f"{KEY}: the images of {folder} must be prepared as those of the student, which are "
            f"{_described(plan)}; got {_described(replace(plan, preprocessing=spec.preprocessing))}; set data.size and "
            "data.resize, or train a teacher for this size"
        )
    if read_data(folder)["digest"] != plan.examples.digest():
        raise RecipeError(
            f"{KEY}: {folder} was trained on other data or other splits, so it may have seen images of val or test; "
            "train the teacher on this data, with the same keys of data"
        )
    return {"teacher": read_json(folder / DESCRIPTION).get("weights_sha256")}


def _folder_of(teacher: str) -> Path:
    """The folder of the finished run `teacher`, whose files are those that it finished with. Raises RecipeError."""
    try:
        folder = open_run(teacher).folder
        check_digests(folder)
    except InputError as error:
        raise RecipeError(f"{KEY}: {error}") from error
    return folder


def _described(plan: Plan) -> str:
    x = plan.preprocessing
    return f"{x.height} x {x.width} x {x.channels} by {x.resize} and {x.interpolation}"


@dataclass(frozen=True)
class Teacher:
    """The network of a run that answers, and what it was made of."""

    spec: ModelSpec
    network: keras.Model


def load_teacher(plan: Plan) -> Teacher:
    """The teacher that the recipe of `plan` names, in float32 and on one device. Raises as `check_teacher`."""
    check_teacher(plan)
    return Teacher(*load_model(_folder_of(str(plan.recipe.training.teacher))))


@dataclass(frozen=True)
class TaughtBatches(TrainingBatches):
    """Training batches whose labels are (B, K) answers of a teacher for the same pixels."""

    learn: Any = None  # epoch -> None: has the answers for that epoch ready before `dataset` is read

    def clock(self) -> keras.callbacks.Callback:
        """The callback that sets `epoch` and has the teacher answer, at the start of each epoch of `fit`."""

        def begin(epoch: int, logs: Any = None) -> None:
            self.epoch.assign(epoch)
            self.learn(epoch)

        return keras.callbacks.LambdaCallback(on_epoch_begin=begin)


def taught(batches: TrainingBatches, plan: Plan, teacher: Teacher) -> TaughtBatches:
    """`batches`, those of `plan`, with the answers of `teacher` in place of labels.

    The answers of an epoch depend on the recipe and the epoch only, so a resumed run computes the same ones again.
    """
    training = plan.recipe.training
    size = int(training.batch_size)
    train = plan.examples.split("train")
    seen = training_batches(
        train, teacher.spec.preprocessing, batch_size=size, seed=plan.recipe.seed, augmentation=plan.augmentation,
        balance=training.balance, drop_last=training.drop_last, stored=plan.stored("train"),
    )  # fmt: skip
    rows = len(batches.order(0))
    answers = tf.Variable(tf.zeros((rows, len(train.class_names))), trainable=False, name="teacher")

    def answers_of(epoch: int) -> np.ndarray:
        """(rows, K) the answers for the images of an epoch, in the order in which it shows them."""
        logits = teacher.network.predict(seen.at(epoch, 0).map(lambda pixels, *_: pixels), verbose=0)
        found: np.ndarray = keras.ops.convert_to_numpy(teacher.spec.answers(keras.ops.convert_to_tensor(logits)))
        return found

    def with_answers(dataset: tf.data.Dataset, values: Any, start: Any) -> tf.data.Dataset:
        """`dataset`, which begins with the step `start()`, with the rows of `values()` as labels."""
        steps = tf.data.Dataset.range(1).flat_map(lambda _: tf.data.Dataset.range(start(), batches.steps))
        targets = steps.map(lambda step: values()[step * size : (step + 1) * size])
        return tf.data.Dataset.zip(dataset, targets).map(lambda batch, target: (batch[0], target, *batch[2:]))

    def at(epoch: int, step: int) -> tf.data.Dataset:
        values = tf.constant(answers_of(epoch))
        found = with_answers(batches.at(epoch, step), lambda: values, lambda: tf.constant(step, tf.int64))
        return found.apply(tf.data.experimental.assert_cardinality(batches.steps - step))

    whole = with_answers(batches.dataset, answers.read_value, batches.start.read_value)
    whole = whole.apply(tf.data.experimental.assert_cardinality(batches.steps))
    return TaughtBatches(
        whole, batches.epoch, batches.start, batches.steps, batches.class_names, batches.counts, batches.manifest, at,
        batches.order, learn=lambda epoch: answers.assign(answers_of(epoch)),
    )  # fmt: skip
