"""The plan of a run: preprocessing, augmentation, loss and network, resolved once from a recipe and its data."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerazoo.errors import RecipeError, WeightsError
from kerazoo.models.backbone import Backbone
from kerazoo.models.description import ModelSpec, check_description
from kerazoo.models.hub.backbone import HubBackbone
from kerazoo.models.registry import Entry, Network, describe, find
from kerazoo.models.saved import DESCRIPTION, load_spec
from kerazoo.models.weights.sources import check_weights, weights_of
from kerazoo.pipelines.checks.once import check_and_prepare
from kerazoo.pipelines.data.examples import Examples, split_like_classes
from kerazoo.pipelines.data.file_names import one_line
from kerazoo.pipelines.data.load import load_examples
from kerazoo.pipelines.devices.devices import Devices
from kerazoo.pipelines.input.augmentation import Augmentation, augmentation_of
from kerazoo.pipelines.input.images import prepared
from kerazoo.preprocessing.preprocessing import Preprocessing
from kerazoo.recipes.checks import check_against, check_replicas, with_defaults
from kerazoo.recipes.parts import DataPart, TrainingPart
from kerazoo.recipes.presets import preset_values
from kerazoo.recipes.recipe import Recipe, make_recipe
from kerazoo.recipes.transfer_part import TransferPart
from kerazoo.tasks.base import Task
from kerazoo.tasks.task import find_task

EVALUATED = 64  # examples in a validation batch


@dataclass(frozen=True)
class Plan:
    """A recipe with its data, with every choice resolved. Training uses it, or parts of it.

    `recipe` has its batch size as a number; `steps` is the number of batches in an epoch. `source` is the file or
    folder of the initial weights, or None if they are random. Nothing is built yet, and no image is read before it is
    asked for; `opened` has the images of a split from then on, or None, and `known_logits` answers on validation (see
    `validation.py`).
    """

    entry: Entry
    recipe: Recipe
    examples: Examples
    augmentation: Augmentation
    preprocessing: Preprocessing
    loss: keras.losses.Loss
    task: Task
    spec: ModelSpec
    steps: int
    source: Path | None = None
    opened: dict[str, np.ndarray | None] = field(default_factory=dict, repr=False, compare=False)
    known_logits: dict[tuple[str, bool], np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def stored(self, split: str) -> np.ndarray | None:
        """(N, h, w, C) uint8: the resized images of `split`; None if they are neither in memory nor in a cache."""
        if split not in self.opened:
            part = self.examples.split(split)
            self.opened[split] = prepared(
                part, self.preprocessing, cache=self.recipe.data.cache, passes=self.passes(split)
            )
        return self.opened[split]

    def passes(self, split: str) -> int:
        """How often the images of `split` are read: by the check, in each epoch, for features, and for the result."""
        epochs: int = self.recipe.training.epochs
        return 1 + {"train": epochs, "val": epochs + 1}.get(split, 1) + (self.recipe.transfer is not None)

    def check_images(self) -> None:
        """Decode each image once, and keep it resized if it is read again. Raises DataError for those that are bad."""
        passes = {split: self.passes(split) for split in self.examples.split_names}
        self.opened.update(
            check_and_prepare(self.examples, self.preprocessing, cache=self.recipe.data.cache, passes=passes)
        )

    @property
    def soft(self) -> bool:
        """Whether the labels of training are shares of the classes: mixed, or the answers of a teacher."""
        return self.augmentation.mixes or self.recipe.training.teacher is not None

    @property
    def transfer(self) -> TransferPart:
        """The transfer part of the recipe, or its defaults."""
        return self.recipe.transfer or TransferPart()


def plan(recipe: Recipe, devices: Devices, *, examples: Examples | None = None) -> Plan:
    """The plan of `recipe` on `devices`; `examples` are those of its data, if they were already read.

    Weights that the recipe names are downloaded if they are not on this machine. Raises InputError if the recipe, its
    data or its weights are bad.
    """
    entry = find(recipe.model.name)
    augmentation = augmentation_of(recipe.augmentation)
    if examples is None:
        examples = load_examples(recipe.data)
    recipe = resolve_batch_size(recipe, examples, devices)
    task = find_task(examples.task)
    tuned = recipe.transfer is not None
    taught = recipe.training.teacher is not None
    preferred_loss = None if tuned or taught else entry.loss
    loss = choose_loss(recipe.training, task, preferred=preferred_loss, soft=augmentation.mixes or taught)
    source = None if recipe.transfer is None else weights_of(entry, recipe.transfer.weights)
    preprocessing, stored = input_and_arguments(entry, recipe.data, examples, source)
    count = int(np.sum(examples.splits == "train"))
    size = int(recipe.training.batch_size)
    steps = count // size if recipe.training.drop_last else math.ceil(count / size)
    preferred = stored
    if source is None:
        preferred = {"momentum": momentum_for(count // size if tuned else steps)}
    preferred = {**preferred, "synchronized": recipe.training.synchronized_batch_norm}
    spec = make_spec(entry, recipe.model.arguments, preprocessing, examples, preferred)
    return Plan(entry, recipe, examples, augmentation, preprocessing, loss, task, spec, steps, source)


def resolve_preset(recipe: Recipe) -> tuple[Recipe, Examples]:
    """`recipe` with the settings of its preset, which depend on the number of images; and its examples.

    Raises InputError if the recipe contradicts its preset, or if its weights or data do not exist.
    """
    entry = find(recipe.model.name)
    if recipe.transfer is None:
        recipe = make_recipe({**recipe.model_dump(exclude_unset=True), "transfer": {}})
    transfer = recipe.transfer or TransferPart()
    check_weights(entry, transfer.weights)
    examples = load_examples(recipe.data)
    if transfer.preset is None:
        return recipe, examples
    images = int(np.sum(examples.splits == "train"))
    whole = "unfreeze" in transfer.model_fields_set and not transfer.unfreeze
    values = preset_values(transfer.preset, images=images, stages=len(getattr(entry, "stages", ())), whole=whole)
    return with_defaults(recipe, values), examples


def for_candidate(recipe: Recipe, name: str, weights: str) -> Recipe:
    """`recipe` for another network and its weights."""
    values = recipe.model_dump(exclude_unset=True)
    values["model"] = values["model"] | {"name": name}
    values["transfer"] = values.get("transfer", {}) | {"weights": weights}
    return make_recipe(values)


def stem_of(recipe: Recipe) -> str:
    """The first part of the names of numbered runs: the network and the data."""
    entry = find(recipe.model.name)
    name = entry.label if isinstance(entry, HubBackbone) else entry.name
    return f"{name}-{Path(recipe.data.path).stem}"


def resolve_batch_size(recipe: Recipe, examples: Examples, devices: Devices) -> Recipe:
    """The recipe with its batch size as a number. Raises RecipeError if data or devices do not allow it."""
    count = int(np.sum(examples.splits == "train"))
    recipe = check_against(recipe, count)
    check_replicas(recipe, devices.replicas)
    if recipe.training.epochs:
        size = int(recipe.training.batch_size)
        devices.check_batches(batch_size=size, count=count, drop_last=recipe.training.drop_last)
        devices.evaluation_size(devices.whole_count(int(np.sum(examples.splits == "val"))), EVALUATED)
    return recipe


def momentum_for(steps: int) -> float:
    """The momentum of batch norm for an epoch of `steps`: max(1 - 10 / steps, 0.9).

    It is SimCLR's rule after Kornblith et al. With Keras's 0.99, moving statistics lag far behind on small data:
    99.8 % on train, 11 % on validation.
    """
    return max(1 - 10 / max(steps, 1), 0.9)


def make_preprocessing(entry: Entry, data: DataPart, examples: Examples) -> Preprocessing:
    """The preprocessing for `entry`, with the recipe's size, or the arrays' own, or the network's default.

    The channels are the recipe's, or the arrays' own, or the network's default. A backbone gets a gray image as three
    equal channels, unless data.channels=1. Raises RecipeError for a number of channels that the arrays do not allow.
    """
    height, width, channels = entry.input_shape
    if examples.pixels is not None:
        height, width, own_channels = examples.pixels.shape[1:]
        if isinstance(entry, Network) or own_channels not in (1, 3):
            channels = own_channels
        if own_channels not in (1, 3) and data.channels not in (None, own_channels):
            raise RecipeError(f"data.channels={data.channels}, but the arrays have {own_channels} channels; remove it")
    resize = data.resize or entry.resize
    height, width = (data.size, data.size) if data.size else (height, width)
    return entry.preprocessing(height, width, resize, data.channels or channels)


def make_spec(
    entry: Entry, own: Mapping[str, Any], preprocessing: Preprocessing, examples: Examples,
    preferred: Mapping[str, Any] = MappingProxyType({}),
) -> ModelSpec:  # fmt: skip
    """The model of a run, with every argument resolved, so that a later change of a default has no effect.

    The recipe's `own` arguments take precedence over `preferred` ones, and those over the builder's defaults.
    """
    known = describe(entry.name)
    arguments = {name: value for name, value in known.items() if name != "weights"}
    arguments |= {name: value for name, value in preferred.items() if name in known}
    arguments |= own
    arguments |= {"input_shape": preprocessing.shape, "num_classes": len(examples.class_names)}
    name = entry.stored_name if isinstance(entry, HubBackbone) else entry.name
    spec = ModelSpec(name, arguments, preprocessing, examples.class_names, examples.task)
    check_description(spec)  # refuse a model that could not be loaded again before it is trained
    return spec


def choose_loss(part: TrainingPart, task: Task, *, preferred: str | None, soft: bool) -> keras.losses.Loss:
    """The loss that `part` names, else the network's `preferred` one for classes, else the task's own.

    `soft` is for labels that are shares of classes. Raises ModelError if the loss does not fit the labels.
    """
    name = part.loss or task.preferred_loss(preferred)
    return task.make_loss(name, soft=soft, label_smoothing=part.label_smoothing, focal_gamma=part.focal_gamma)


@contextmanager
def precision(policy: str) -> Iterator[None]:
    """Inside, new layers have the precision `policy`. Evaluation and exports always use float32."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def set_seed(seed: int) -> None:
    """Seed Python, numpy and the backend, and ask TensorFlow for deterministic kernels."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def summary(examples: Examples) -> str:
    """One line with the classes, the examples in each split, and what was left out."""
    parts = ", ".join(f"{int(np.sum(examples.splits == split)):,} {split}" for split in examples.split_names)
    units = find_task(examples.task).units
    return f"{len(examples.class_names)} {units}, {parts}{_left_out(examples)}{_split_like(examples)}"


def _split_like(examples: Examples) -> str:
    """The classes that are named like splits, in words."""
    names = split_like_classes(examples)
    return f"; {', '.join(names)}, named like a split, is used as a class" if names else ""


def _left_out(examples: Examples, limit: int = 5) -> str:
    """The number of files left out, and the first of them with reasons; the run's data.json has all."""
    if not examples.left_out:
        return ""
    shown = [f"{one_line(key)} ({why})" for key, why in list(examples.left_out.items())[:limit]]
    more = f", and {len(examples.left_out) - limit} more" if len(examples.left_out) > limit else ""
    return f"; {len(examples.left_out)} left out: {', '.join(shown)}{more}"


def input_and_arguments(
    entry: Entry, data: DataPart, examples: Examples, source: Path | None
) -> tuple[Preprocessing, dict[str, object]]:
    """The preprocessing, and the builder arguments of the stored weights."""
    if source is None or not (source / DESCRIPTION).is_file():
        return make_preprocessing(entry, data, examples), {}
    spec = load_spec(source)
    name = entry.stored_name if isinstance(entry, HubBackbone) else entry.name
    if spec.name != name:
        raise WeightsError(f"the weights in {source} must be for {name}, but they are for {spec.name}")
    values = spec.preprocessing.to_json()
    own_channels = 3 if examples.pixels is None else examples.pixels.shape[3]
    wanted = data.channels or (own_channels if own_channels not in (1, 3) else values["channels"])
    if wanted != values["channels"]:
        if not isinstance(entry, Backbone) or values["channels"] != 3:
            raise RecipeError(
                f"the images have {wanted} channels (data.channels={data.channels}), but the weights in "
                f"{source} expect {values['channels']}; only 3-channel backbone weights can be adapted"
            )
        values |= {"channels": wanted, "scaling": entry.scaling_of(wanted)}
    values |= {"resize": data.resize or values["resize"]}
    values |= {"height": data.size, "width": data.size} if data.size else {}
    return Preprocessing.from_json(values), dict(spec.arguments)
