"""What a recipe and its data come to: batches, preprocessing, loss and network, resolved once."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerazoo.errors import RecipeError, WeightsError
from kerazoo.models.backbone import Backbone
from kerazoo.models.description import ModelSpec, check_description
from kerazoo.models.registry import Network, describe, find
from kerazoo.models.saved import load_spec
from kerazoo.pipelines.checks.check import check_images
from kerazoo.pipelines.data.examples import Examples, split_like_classes
from kerazoo.pipelines.data.file_names import one_line
from kerazoo.pipelines.data.load import load_examples
from kerazoo.pipelines.devices.devices import Devices
from kerazoo.pipelines.input.augmentation import augmentation_of
from kerazoo.pipelines.input.batches import TrainingBatches, evaluation_batches, training_batches
from kerazoo.pipelines.input.images import prepared
from kerazoo.preprocessing.preprocessing import Preprocessing
from kerazoo.recipes.checks import check_against, check_replicas
from kerazoo.recipes.recipe import Recipe
from kerazoo.tasks.task import find_task

log = logging.getLogger("kerazoo")

EVALUATED = 64  # examples in a batch of validation


@dataclass(frozen=True)
class Assembled:
    """All that a training takes: the recipe in numbers, the data, and the network with random weights."""

    recipe: Recipe
    examples: Examples
    batches: TrainingBatches
    validation: tf.data.Dataset
    spec: ModelSpec
    model: keras.Model
    loss: str


def assemble(recipe: Recipe, devices: Devices) -> Assembled:
    """What `recipe` describes, seeded. Raises InputError where it, or its data, is bad."""
    entry = find(recipe.model.name)
    augmentation_of(recipe)  # refuses what it does not know before any data is read
    examples = load_examples(recipe.data)
    recipe = resolve_batch_size(recipe, examples, devices)
    loss = choose_loss(recipe, examples, entry.loss)
    preprocessing = make_preprocessing(entry, recipe, examples)
    check_images(examples)
    set_seed(recipe.seed)
    batches, validation = make_batches(recipe, examples, preprocessing, devices)
    preferred = {"momentum": momentum_for(batches.steps), "synchronized": recipe.training.synchronized_batch_norm}
    spec = make_spec(entry, recipe, preprocessing, examples, **preferred)
    with devices.building(), devices.scope(), precision(recipe):
        model = spec.build()
    devices.check_batch_norm(model)
    log.info(f"{entry.name}: {model.count_params():,} parameters; {summary(examples)}; on {devices.describe()}")
    return Assembled(recipe, examples, batches, validation, spec, model, loss)


def resolve_batch_size(recipe: Recipe, examples: Examples, devices: Devices) -> Recipe:
    """The recipe with its batch size in numbers. Raises RecipeError where data or devices do not allow it."""
    count = int(np.sum(examples.splits == "train"))
    recipe = check_against(recipe, count)
    check_replicas(recipe, devices.replicas)
    if recipe.training.epochs:
        size, drop = int(recipe.training.batch_size), recipe.training.drop_last
        devices.check_batches(batch_size=size, count=count, drop_last=drop)
        devices.evaluation_size(devices.whole_count(int(np.sum(examples.splits == "val"))), EVALUATED)
    return recipe


def momentum_for(steps: int) -> float:
    """Batch norm's momentum for an epoch of `steps`: max(1 - 10 / steps, 0.9), SimCLR's rule after Kornblith et al.

    Keras's 0.99 leaves moving statistics far behind on small data: 99.8 % on train, 11 % on validation.
    """
    return max(1 - 10 / max(steps, 1), 0.9)


def make_preprocessing(entry: Network | Backbone, recipe: Recipe, examples: Examples) -> Preprocessing:
    """The preprocessing for `entry`: the size asked for, or the arrays' own, or the network's default.

    Channels: those asked for, or the arrays' own, or the network's default. A backbone gets grey as three channels,
    copied, unless it is asked for by data.channels=1. Raises RecipeError for a number that the arrays cannot give.
    """
    height, width, channels = entry.input_shape
    if examples.pixels is not None:
        height, width, found = examples.pixels.shape[1:]
        if isinstance(entry, Network) or found not in (1, 3):
            channels = found
        if found not in (1, 3) and recipe.data.channels not in (None, found):
            raise RecipeError(f"data.channels={recipe.data.channels}: the arrays have {found} channels; leave it out")
    size = recipe.data.size
    resize = recipe.data.resize or "crop"
    height, width = (size, size) if size else (height, width)
    if isinstance(entry, Backbone):
        return entry.preprocessing(height, width, resize, recipe.data.channels or channels)
    return Preprocessing(height, width, recipe.data.channels or channels, resize=resize, scaling="unit")


def make_spec(
    entry: Network | Backbone, recipe: Recipe, preprocessing: Preprocessing, examples: Examples, **preferred: Any
) -> ModelSpec:
    """The model of a run, every argument resolved, so that a later default changes nothing.

    The recipe's own arguments come before `preferred` ones, these before the builder's defaults.
    """
    known = describe(entry.name)
    arguments = {name: value for name, value in known.items() if name != "weights"}
    arguments |= {name: value for name, value in preferred.items() if name in known}
    arguments |= recipe.model.arguments
    arguments |= {"input_shape": preprocessing.shape, "num_classes": len(examples.class_names)}
    spec = ModelSpec(entry.name, arguments, preprocessing, examples.class_names, examples.task)
    check_description(spec)  # what could not be loaded again is refused before it is trained
    return spec


def choose_loss(recipe: Recipe, examples: Examples, preferred: str | None = None) -> str:
    """The name of the recipe's loss, else the network's `preferred` one for classes, else the task's own.

    Raises ModelError where it does not go with the labels.
    """
    task = find_task(examples.task)
    loss = recipe.training.loss or task.preferred_loss(preferred)
    make_loss(recipe, examples.task, loss)
    return loss


def make_loss(recipe: Recipe, task: str, name: str) -> keras.losses.Loss:
    """The loss called `name` as `recipe` sets it, for a task. Raises ModelError where they do not go together."""
    part = recipe.training
    return find_task(task).make_loss(
        name, soft=augmentation_of(recipe).mixes, label_smoothing=part.label_smoothing, focal_gamma=part.focal_gamma
    )


def make_batches(
    recipe: Recipe, examples: Examples, preprocessing: Preprocessing, devices: Devices
) -> tuple[TrainingBatches, tf.data.Dataset]:
    """The training and the validation batches that `recipe` asks for, from a cache where it is worth it."""
    train, val, augmentation = examples.split("train"), examples.split("val"), augmentation_of(recipe)

    def stored(part: Examples) -> np.ndarray | None:
        return prepared(part, preprocessing, cache=recipe.data.cache, passes=recipe.training.epochs)

    batches = training_batches(
        train, preprocessing, batch_size=int(recipe.training.batch_size), seed=recipe.seed, augmentation=augmentation,
        balance=recipe.training.balance, drop_last=recipe.training.drop_last, stored=stored(train),
    )  # fmt: skip
    val = val.take(range(devices.whole_count(len(val))))
    size = devices.evaluation_size(len(val), EVALUATED)
    return batches, evaluation_batches(
        val, preprocessing, batch_size=size, stored=stored(val), one_hot=augmentation.mixes
    )


@contextmanager
def precision(recipe: Recipe) -> Iterator[None]:
    """Layers made within compute in the recipe's precision; what is evaluated and exported is float32 in any case."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.training.precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def set_seed(seed: int) -> None:
    """Seed Python, numpy and the backend, and ask TensorFlow for deterministic kernels."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def summary(examples: Examples) -> str:
    """One line: classes, and examples in each split."""
    parts = ", ".join(f"{int(np.sum(examples.splits == split)):,} {split}" for split in examples.split_names)
    units = find_task(examples.task).units
    return f"{len(examples.class_names)} {units}, {parts}{_left_out(examples)}{_split_like(examples)}"


def _split_like(examples: Examples) -> str:
    """Which classes may be splits that were put beside classes."""
    names = split_like_classes(examples)
    return f"; {', '.join(names)}, named like a split, is taken as a class" if names else ""


def _left_out(examples: Examples, limit: int = 5) -> str:
    """How many files take no part, which, and why; all of them stand in the run's data.json."""
    if not examples.left_out:
        return ""
    shown = [f"{one_line(key)} ({why})" for key, why in list(examples.left_out.items())[:limit]]
    more = f", and {len(examples.left_out) - limit} more" if len(examples.left_out) > limit else ""
    return f"; {len(examples.left_out)} left out: {', '.join(shown)}{more}"


def input_and_arguments(
    entry: Network | Backbone, recipe: Recipe, examples: Examples, source: Path | None
) -> tuple[Preprocessing, dict[str, object]]:
    """The preprocessing, and the builder arguments that stored weights were made with."""
    if source is None or not source.is_dir():
        return make_preprocessing(entry, recipe, examples), {}
    spec = load_spec(source)
    if spec.name != entry.name:
        raise WeightsError(f"the weights in {source} are of {spec.name}, not of {entry.name}")
    values = spec.preprocessing.to_json()
    found = 3 if examples.pixels is None else examples.pixels.shape[3]
    wanted = recipe.data.channels or (found if found not in (1, 3) else values["channels"])
    if wanted != values["channels"]:
        if isinstance(entry, Network) or values["channels"] != 3:
            raise RecipeError(
                f"the images have {wanted} channels (data.channels={recipe.data.channels}), but the weights in "
                f"{source} expect {values['channels']}; only backbone weights of 3 channels can be adapted"
            )
        values |= {"channels": wanted, "scaling": entry.scaling_of(wanted)}
    values |= {"resize": recipe.data.resize or values["resize"]}
    values |= {"height": recipe.data.size, "width": recipe.data.size} if recipe.data.size else {}
    return Preprocessing.from_json(values), dict(spec.arguments)
