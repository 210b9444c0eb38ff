"""Training: a recipe and examples in, a finished run out. Keras's own `fit` is the loop."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerazoo.callbacks import FeatureMaps, GradientNorms, MetricsWriter, Progress, Resume, RunWriter, WeightNorms
from kerazoo.callbacks.checkpoints import prune
from kerazoo.callbacks.curves import curves_of
from kerazoo.callbacks.feature_maps import default_taps
from kerazoo.errors import Interrupted, KerazooError, RecipeError
from kerazoo.models.backbones import Backbone
from kerazoo.models.heads import find_head
from kerazoo.models.preprocessing import Preprocessing
from kerazoo.models.registry import Network, describe, find
from kerazoo.models.stored import ModelSpec, load_model, save_model
from kerazoo.pipelines.augmentation import POLICIES, Augmentation
from kerazoo.pipelines.batches import TrainingBatches, evaluation_batches, training_batches
from kerazoo.pipelines.evaluation import evaluate_model
from kerazoo.pipelines.examples import Examples, load_examples
from kerazoo.pipelines.image_folder import one_line
from kerazoo.pipelines.optimizers import make_optimizer, steering
from kerazoo.pipelines.pictures import prepared
from kerazoo.pipelines.preflight import check_pictures
from kerazoo.pipelines.recipe import Recipe
from kerazoo.pipelines.runs import RUNS, Run, begin, claim, held

Say = Callable[[str], None]


def train(
    recipe: Recipe, *, name: str | None = None, root: Path = RUNS, overwrite: bool = False, say: Say = print
) -> Run:
    """Train a network of the registry from random weights; the finished run, evaluated on val and test.

    A run that was begun by the same recipe and not finished goes on from its newest checkpoint (see `runs.claim`).
    `say` takes one line of progress. Raises InputError before anything is written where recipe or data are bad;
    Interrupted where a signal asked to stop.
    """
    start = time.perf_counter()
    entry, recipe = find(recipe.model.name), recipe.anchored()
    folder = claim(recipe, f"{entry.name}-{Path(recipe.data.path).stem}", name=name, root=root, overwrite=overwrite)
    augmentation_of(recipe)  # refuses what it does not know before any data is read
    examples = load_examples(recipe.data)
    loss = loss_of(recipe, examples, entry.loss)
    preprocessing = input_of(entry, recipe, examples)
    check_pictures(examples)
    reproducible(recipe.seed)

    batches, validation = batches_of(recipe, examples, preprocessing, say)
    spec = spec_of(entry, recipe, preprocessing, examples, momentum=momentum_for(batches.steps))
    model = spec.build()
    say(f"{entry.name}: {model.count_params():,} parameters; {summary(examples)}")

    run = begin(folder, recipe, examples, overwrite=overwrite)
    with held(run.folder):
        history = fit(model, batches, validation, run=run, spec=spec, examples=examples, loss=loss, say=say)
        return close_run(run, spec, model, examples, history, start, say)


def fit(
    model: keras.Model,
    batches: TrainingBatches,
    validation: tf.data.Dataset,
    *,
    run: Run,
    spec: ModelSpec,
    examples: Examples,
    loss: str,
    before: list[dict[str, float]] | None = None,
    say: Say,
) -> list[dict[str, float]]:
    """Compile and fit `model` by the recipe of `run`; the rows of losses and metrics `before`, then one an epoch.

    Goes on from the newest checkpoint of the run. Raises KerazooError on NaN, Interrupted where a signal stopped it.
    """
    recipe, kind = run.recipe(), find_head(spec.head)
    training, soft, epochs = recipe.training, augmentation_of(recipe).mixes, recipe.training.epochs
    pictures = batches.steps * training.batch_size
    model.compile(
        optimizer=make_optimizer(recipe.optimizer, steps=batches.steps * epochs),
        loss=kind.make_loss(
            loss, soft=soft, label_smoothing=training.label_smoothing, focal_gamma=training.focal_gamma
        ),
        metrics=[kind.make_metric(soft=soft)],
    )
    with ExitStack() as stack:
        resume = Resume(run.checkpoints, position=batches.start.assign, say=say, **recipe.checkpoint.model_dump())
        epoch, step = resume.found or (0, 0)
        if resume.found is not None:
            say(f"{run.folder} goes on from epoch {epoch + 1}, step {step}")
        watch = stack.enter_context(watchers(run, recipe, examples, spec.preprocessing, epochs=epoch))
        metrics = MetricsWriter(run.folder, pictures, history=before or ())
        progress = stack.enter_context(Progress(say, pictures, start_step=step))
        callbacks = [batches.clock(), *steering(recipe), StopOnNaN(), progress, *watch(model), metrics]
        stack.enter_context(resume.signals())
        try:
            model.fit(
                batches.dataset, validation_data=validation, epochs=epochs, shuffle=False, verbose=0,
                initial_epoch=resume.initial_epoch(epochs), callbacks=resume.after(callbacks),
            )  # fmt: skip
        except Interrupted:
            run.set_status("interrupted")
            raise
        except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError, tf.errors.PermissionDeniedError) as error:
            raise KerazooError(
                f"training stopped at a picture or batch that could not be made: {str(error.message).splitlines()[0]}; "
                f"look whether {recipe.data.path} changed by `kerazoo check {recipe.data.path}`"
            ) from error
    if metrics.rows and not np.isfinite(metrics.rows[-1]["loss"]):
        raise KerazooError(
            f"the loss became {metrics.rows[-1]['loss']} in epoch {len(metrics.rows)}; lower optimizer.learning_rate "
            f"(it was {recipe.optimizer.learning_rate}) or look at watch.jsonl in the run"
        )
    return metrics.rows


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
    """The preprocessing for `entry`: the size asked for, or the arrays' own, or the network's default."""
    height, width, channels = entry.input_shape
    if examples.pixels is not None:
        height, width = examples.pixels.shape[1:3]
        if isinstance(entry, Network):
            channels = examples.pixels.shape[3]
    size, fit = recipe.data.size, recipe.data.fit or "crop"
    height, width = (size, size) if size else (height, width)
    if isinstance(entry, Backbone):
        if recipe.data.channels not in (None, 3):
            raise RecipeError(f"data.channels={recipe.data.channels}: {entry.name} takes 3; leave it out")
        return entry.preprocessing(height, width, fit)
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
    return ModelSpec(entry.name, arguments, preprocessing, examples.class_names, examples.task)


def loss_of(recipe: Recipe, examples: Examples, preferred: str | None = None) -> str:
    """The name of the recipe's loss, else the network's `preferred` one for classes, else the head's own.

    Raises ModelError where it does not go with the labels.
    """
    head = find_head(examples.task)
    loss = recipe.training.loss or (preferred if examples.task == "multiclass" and preferred else head.loss)
    head.make_loss(loss, soft=augmentation_of(recipe).mixes)
    return loss


def augmentation_of(recipe: Recipe) -> Augmentation:
    """The named policy, with the parts that the recipe sets otherwise. Raises RecipeError."""
    parts = recipe.augmentation.model_dump(exclude_none=True)
    policy = parts.pop("policy")
    if policy not in POLICIES:
        raise RecipeError(f"augmentation.policy={policy!r} is not one of {', '.join(POLICIES)}")
    return replace(POLICIES[policy], **parts)


def batches_of(
    recipe: Recipe, examples: Examples, preprocessing: Preprocessing, say: Say
) -> tuple[TrainingBatches, tf.data.Dataset]:
    """The training and the validation batches that `recipe` asks for, from a cache where it is worth it."""
    train, val, augmentation = examples.split("train"), examples.split("val"), augmentation_of(recipe)

    def stored(part: Examples) -> np.ndarray | None:
        return prepared(part, preprocessing, cache=recipe.data.cache, passes=recipe.training.epochs, say=say)

    batches = training_batches(
        train, preprocessing, batch_size=recipe.training.batch_size, seed=recipe.seed, augmentation=augmentation,
        balance=recipe.training.balance, drop_last=recipe.training.drop_last, stored=stored(train),
    )  # fmt: skip
    return batches, evaluation_batches(val, preprocessing, stored=stored(val), one_hot=augmentation.mixes)


@contextmanager
def watchers(
    run: Run, recipe: Recipe, examples: Examples, preprocessing: Preprocessing, *, epochs: int = 0
) -> Iterator[Callable[[keras.Model], list[keras.callbacks.Callback]]]:
    """Gives a function model -> the watchers of a run, which write into its folder until the context ends.

    What they wrote of the first `epochs` is kept. A model without feature maps of its own (a head alone) gets no probe.
    """
    if not recipe.watch:
        yield lambda model: []
        return
    batch = evaluation_batches(examples.split("val").take([0]), preprocessing)
    probe = next(iter(batch.as_numpy_iterator()))[0]
    entry = find(recipe.model.name)

    def watch(model: keras.Model) -> list[keras.callbacks.Callback]:
        known = {layer.name for layer in model.layers}
        taps = default_taps(model) if isinstance(entry, Network) else [s for s in entry.stages if s in known]
        return [GradientNorms(writer), WeightNorms(writer), FeatureMaps(writer, probe, taps)]

    with RunWriter(run.folder, epochs=epochs) as writer:
        yield watch


def close_run(
    run: Run, spec: ModelSpec, model: keras.Model, examples: Examples, history: list[dict[str, float]], start: float,
    say: Say,
) -> Run:  # fmt: skip
    """Save, evaluate on val and test, mark finished."""
    for ending in ("svg", "png"):
        curves_of(history, run.folder / f"curves.{ending}")
    save_model(run.folder, spec, model)
    stored = load_model(run.folder)[1]  # what is evaluated is what anyone will load
    results: dict[str, Any] = {}
    for split in examples.split_names[1:]:
        result = evaluate_model(stored, spec, examples.split(split), run.folder / "evaluation", split)
        results |= result.summary()
        say(result.line())
    prune(run.checkpoints, keep=1)
    run.set_status("finished", seconds=round(time.perf_counter() - start, 1), results=results)
    return run


def reproducible(seed: int) -> None:
    """Seed Python, numpy and the backend, and ask TensorFlow for deterministic kernels."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def summary(examples: Examples) -> str:
    """One line: classes, and examples in each split."""
    parts = ", ".join(f"{int(np.sum(examples.splits == split)):,} {split}" for split in examples.split_names)
    what = {"multiclass": "classes", "multilabel": "labels", "regression": "numbers to predict"}[examples.task]
    return f"{len(examples.class_names)} {what}, {parts}{_left_out(examples)}"


def _left_out(examples: Examples, limit: int = 5) -> str:
    """How many files take no part, which, and why; all of them stand in the run's data.json."""
    if not examples.left_out:
        return ""
    shown = [f"{one_line(key)} ({why})" for key, why in list(examples.left_out.items())[:limit]]
    more = f", and {len(examples.left_out) - limit} more" if len(examples.left_out) > limit else ""
    return f"; {len(examples.left_out)} left out: {', '.join(shown)}{more}"
