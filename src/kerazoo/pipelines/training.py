"""Training: a recipe and examples in, a finished run out. Keras's own `fit` is the loop."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerazoo.callbacks import MetricsWriter, Progress, Resume
from kerazoo.callbacks.checkpoints import prune
from kerazoo.errors import KerazooError, RecipeError
from kerazoo.models.backbones import Backbone
from kerazoo.models.description import check_description
from kerazoo.models.heads import find_head
from kerazoo.models.preprocessing import Preprocessing
from kerazoo.models.registry import Network, describe, find
from kerazoo.models.stored import ModelSpec, load_model, save_model
from kerazoo.pipelines.augmentation import POLICIES, Augmentation
from kerazoo.pipelines.batches import TrainingBatches, evaluation_batches, training_batches
from kerazoo.pipelines.causes import true_causes
from kerazoo.pipelines.devices import Devices, open_devices
from kerazoo.pipelines.digests import digests_of
from kerazoo.pipelines.evaluation import evaluate_model
from kerazoo.pipelines.examples import Examples, load_examples, split_like_classes
from kerazoo.pipelines.image_folder import one_line
from kerazoo.pipelines.optimizers import make_optimizer, steering
from kerazoo.pipelines.outcome import Outcome, trained
from kerazoo.pipelines.pictures import prepared
from kerazoo.pipelines.preflight import check_pictures
from kerazoo.pipelines.recipe import Recipe
from kerazoo.pipelines.recipe_checks import check_against, check_replicas
from kerazoo.pipelines.runs import RUNS, Run, begun, claim, finished
from kerazoo.pipelines.watching import watch_kept, watchers

Say = Callable[[str], None]
EVALUATED = 64  # examples in a batch of validation


def train(
    recipe: Recipe, *, name: str | None = None, root: str | Path = RUNS, overwrite: bool = False,
    devices: Devices | None = None, say: Say = print, reported: bool = True,
) -> Run:  # fmt: skip
    """Train a network of the registry from random weights; the finished run, evaluated on val and test.

    A run that was begun by the same recipe and not finished goes on from its newest checkpoint (see `runs.claim`).
    With `reported` False the caller calls `run.set_reported()` once it has told the result; a run that finished and was
    never reported (its process was killed) is what the next call with the same recipe returns.
    `devices` are those that the recipe asks for, opened; `say` takes one line of progress. Of several workers only the
    first writes and evaluates. Raises InputError before anything is written where recipe or data are bad; Interrupted
    where a signal asked to stop.
    """
    start = time.perf_counter()
    recipe = recipe.anchored()
    devices = devices or open_devices(recipe.devices, say)
    worker = devices.worker if devices.workers > 1 else None
    stem = f"{find(recipe.model.name).name}-{Path(recipe.data.path).stem}"
    folder = claim(recipe, stem, name=name, root=root, overwrite=overwrite, worker=worker)
    if finished(folder) and not overwrite:
        return Run(folder)
    with true_causes(recipe):
        made = assemble(recipe, devices, say)
    recipe, spec, examples = made.recipe, made.spec, made.examples
    writes, on = devices.is_chief, devices.describe()
    with (
        true_causes(recipe, examples, spec.preprocessing),
        begun(
            folder, recipe, examples, say=say, writes=writes, overwrite=overwrite, numbered=name is None, devices=on
        ) as run,
    ):
        history = fit(
            made.model, made.batches, made.validation, run=run, recipe=recipe, spec=spec, examples=examples,
            loss=made.loss, devices=devices, say=say,
        )  # fmt: skip
        if reason := diverged(history, recipe):
            raise KerazooError(reason)
        if not devices.is_chief:
            return run
        return close_run(run, recipe, spec, made.model, examples, history, start, say, reported=reported)


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


def assemble(recipe: Recipe, devices: Devices, say: Say) -> Assembled:
    """What `recipe` describes, seeded. Raises InputError where it, or its data, is bad."""
    entry = find(recipe.model.name)
    augmentation_of(recipe)  # refuses what it does not know before any data is read
    examples = load_examples(recipe.data)
    recipe = fitting(recipe, examples, devices)
    loss = loss_of(recipe, examples, entry.loss)
    preprocessing = input_of(entry, recipe, examples)
    check_pictures(examples)
    reproducible(recipe.seed)
    batches, validation = batches_of(recipe, examples, preprocessing, devices, say)
    preferred = {"momentum": momentum_for(batches.steps), "synchronised": recipe.training.synchronised_batch_norm}
    spec = spec_of(entry, recipe, preprocessing, examples, **preferred)
    with devices.building(), devices.scope(), precision(recipe):
        model = spec.build()
    devices.check_batch_norm(model)
    say(f"{entry.name}: {model.count_params():,} parameters; {summary(examples)}; on {devices.describe()}")
    return Assembled(recipe, examples, batches, validation, spec, model, loss)


def fitting(recipe: Recipe, examples: Examples, devices: Devices) -> Recipe:
    """The recipe with its batch size in numbers. Raises RecipeError where data or devices do not allow it."""
    count = int(np.sum(examples.splits == "train"))
    recipe = check_against(recipe, count)
    check_replicas(recipe, devices.replicas)
    if recipe.training.epochs:
        size, drop = int(recipe.training.batch_size), recipe.training.drop_last
        devices.check_batches(batch_size=size, count=count, drop_last=drop)
        devices.evaluation_size(devices.whole_count(int(np.sum(examples.splits == "val"))), EVALUATED)
    return recipe


def fit(
    model: keras.Model,
    batches: TrainingBatches,
    validation: tf.data.Dataset,
    *,
    run: Run,
    recipe: Recipe,
    spec: ModelSpec,
    examples: Examples,
    loss: str,
    devices: Devices,
    factors: Mapping[str, float] | None = None,
    say: Say,
) -> list[dict[str, float]]:
    """Compile and fit `model` by `recipe`; the rows of losses and metrics, one an epoch.

    `factors` of the learning rate are by the variables' paths. Goes on from the newest checkpoint of the run. Ends
    after an epoch whose loss is not finite (see `diverged`). Raises Interrupted where a signal stopped it.
    """
    epochs, pictures = recipe.training.epochs, batches.steps * int(recipe.training.batch_size)
    compile_model(model, recipe, spec, loss, devices, steps=batches.steps * epochs, factors=factors)
    resume = Resume(
        run.checkpoints, position=batches.start.assign, say=say, write=devices.is_chief,
        epochs_only=devices.workers > 1, made_by={"recipe": run.recipe_sha256}, **recipe.checkpoint.model_dump(),
    )  # fmt: skip
    epoch, step = resume.found or (0, 0)
    if resume.found is not None:
        say(f"{run.folder} goes on from epoch {epoch + 1}, step {step}")
    metrics = None
    with ExitStack() as stack:
        callbacks = [batches.clock(), *steering(recipe), StopOnNaN()]
        if devices.is_chief:
            watch = stack.enter_context(watchers(run, recipe, examples, spec.preprocessing, epochs=epoch, say=say))
            metrics = MetricsWriter(run.folder, pictures, say=say)
            progress = stack.enter_context(Progress(say, pictures, start_step=step))
            callbacks += [progress, *watch(model), metrics]
        stack.enter_context(resume.signals())
        stack.enter_context(devices.training())
        devices.check_same(0 if resume.found is None else epoch + 1, f"the checkpoints in {run.checkpoints}")
        model.fit(
            devices.distribute(batches.dataset), validation_data=devices.distribute(validation), epochs=epochs,
            shuffle=False, verbose=0, initial_epoch=resume.initial_epoch(epochs), callbacks=resume.after(callbacks),
        )  # fmt: skip
    if metrics is None:
        return [{**row, "epoch": row["epoch"] + 1} for row in resume.rows]
    metrics.settle()  # what a full disk did not take; it raises that now
    return metrics.rows


def diverged(rows: list[dict[str, float]], recipe: Recipe) -> str:
    """What to say of a training whose last loss is not finite; "" of any other."""
    if not rows or np.isfinite(rows[-1]["loss"]):
        return ""
    return (
        f"the loss became {rows[-1]['loss']} in epoch {int(rows[-1]['epoch'])}; lower optimizer.learning_rate "
        f"(it was {recipe.optimizer.learning_rate}) or look at watch.jsonl in the run"
    )


def compile_model(
    model: keras.Model, recipe: Recipe, spec: ModelSpec, loss: str, devices: Devices, *, steps: int,
    factors: Mapping[str, float] | None = None,
) -> None:  # fmt: skip
    """Give `model` the optimizer, the loss and the metric of `recipe`, its rate planned over `steps`."""
    metric = find_head(spec.head).make_metric
    with devices.building(), devices.scope():
        model.compile(
            optimizer=make_optimizer(recipe.optimizer, steps=steps, factors=factors),
            loss=devices.weigh(make_loss(recipe, spec.head, loss)),
            metrics=[metric(soft=augmentation_of(recipe).mixes)],
            jit_compile=devices.jit_compile,
        )


class StopOnNaN(keras.callbacks.Callback):  # type: ignore[misc]
    """Stops after an epoch whose loss is not finite. Keras's TerminateOnNaN makes every step wait for Python."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Look at the epoch's mean loss."""
        self.model.stop_training |= not np.isfinite((logs or {}).get("loss", 0.0))


def momentum_for(steps: int) -> float:
    """Batch norm's momentum for an epoch of `steps`: max(1 - 10 / steps, 0.9), SimCLR's rule after Kornblith et al.

    Keras's 0.99 leaves moving statistics far behind on small data: 99.8 % on train, 11 % on validation.
    """
    return max(1 - 10 / max(steps, 1), 0.9)


def input_of(entry: Network | Backbone, recipe: Recipe, examples: Examples) -> Preprocessing:
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
    size, fit = recipe.data.size, recipe.data.fit or "crop"
    height, width = (size, size) if size else (height, width)
    if isinstance(entry, Backbone):
        return entry.preprocessing(height, width, fit, recipe.data.channels or channels)
    return Preprocessing(height, width, recipe.data.channels or channels, fit=fit, scaling="unit")


def spec_of(
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


def loss_of(recipe: Recipe, examples: Examples, preferred: str | None = None) -> str:
    """The name of the recipe's loss, else the network's `preferred` one for classes, else the head's own.

    Raises ModelError where it does not go with the labels.
    """
    head = find_head(examples.task)
    loss = recipe.training.loss or (preferred if examples.task == "multiclass" and preferred else head.loss)
    make_loss(recipe, examples.task, loss)
    return loss


def make_loss(recipe: Recipe, head: str, name: str) -> keras.losses.Loss:
    """The loss called `name` as `recipe` sets it, for a head of a kind. Raises ModelError where they do not go."""
    part = recipe.training
    return find_head(head).make_loss(
        name, soft=augmentation_of(recipe).mixes, label_smoothing=part.label_smoothing, focal_gamma=part.focal_gamma
    )


def augmentation_of(recipe: Recipe) -> Augmentation:
    """The named policy, with the parts that the recipe sets otherwise. Raises RecipeError."""
    parts = recipe.augmentation.model_dump(exclude_none=True)
    return replace(POLICIES[parts.pop("policy")], **parts)


def batches_of(
    recipe: Recipe, examples: Examples, preprocessing: Preprocessing, devices: Devices, say: Say
) -> tuple[TrainingBatches, tf.data.Dataset]:
    """The training and the validation batches that `recipe` asks for, from a cache where it is worth it."""
    train, val, augmentation = examples.split("train"), examples.split("val"), augmentation_of(recipe)

    def stored(part: Examples) -> np.ndarray | None:
        return prepared(part, preprocessing, cache=recipe.data.cache, passes=recipe.training.epochs, say=say)

    batches = training_batches(
        train, preprocessing, batch_size=int(recipe.training.batch_size), seed=recipe.seed, augmentation=augmentation,
        balance=recipe.training.balance, drop_last=recipe.training.drop_last, stored=stored(train),
    )  # fmt: skip
    val = val.take(range(devices.whole_count(len(val))))
    size = devices.evaluation_size(len(val), EVALUATED)
    return batches, evaluation_batches(
        val, preprocessing, batch_size=size, stored=stored(val), one_hot=augmentation.mixes
    )


def close_run(
    run: Run, recipe: Recipe, spec: ModelSpec, model: keras.Model, examples: Examples,
    history: list[dict[str, float]], start: float, say: Say, *, outcome: Outcome | None = None, **known: Any,
) -> Run:  # fmt: skip
    """Save, draw, evaluate on val and test, mark finished; `outcome` is by default that of a plain training.

    `known` goes into `run.json`. Feature maps are drawn once more, of what was kept, as of one epoch more.
    """
    outcome, epochs = outcome or trained(history, recipe), len(history)
    outcome.draw(history, run.folder, say)
    save_model(run.folder, spec, model)
    stored = load_model(run.folder)[1]  # what is evaluated is what anyone will load
    watch_kept(stored, outcome.levels, run, recipe, examples, spec.preprocessing, epochs=epochs, say=say)
    results: dict[str, Any] = {}
    for split in examples.split_names[1:]:
        result = evaluate_model(stored, spec, examples.split(split), run.folder / "evaluation", split)
        results |= result.summary()
        say(result.line())
    prune(run.checkpoints, keep=1)
    seconds = round(time.perf_counter() - start, 1)
    run.set_status("finished", seconds=seconds, results=results, digests=digests_of(run.folder), **known)
    return run


@contextmanager
def precision(recipe: Recipe) -> Iterator[None]:
    """Layers made within compute in the recipe's precision; what is evaluated and exported is float32 in any case."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.training.precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def reproducible(seed: int) -> None:
    """Seed Python, numpy and the backend, and ask TensorFlow for deterministic kernels."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def summary(examples: Examples) -> str:
    """One line: classes, and examples in each split."""
    parts = ", ".join(f"{int(np.sum(examples.splits == split)):,} {split}" for split in examples.split_names)
    what = {"multiclass": "classes", "multilabel": "labels", "regression": "numbers to predict"}[examples.task]
    return f"{len(examples.class_names)} {what}, {parts}{_left_out(examples)}{_split_like(examples)}"


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
