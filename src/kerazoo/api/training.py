"""Making runs: train, fine-tune, and go on with what was stopped."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kerazoo.api.settings import PathLike, Settings, check_words, merged, path_of, recipe_to_train

if TYPE_CHECKING:
    import keras

    from kerazoo.api.run import Run
    from kerazoo.recipes.recipe import Recipe


def train(
    model: "PathLike | Recipe", data: PathLike | None = None, *, epochs: int | None = None,
    learning_rate: float | None = None, batch_size: int | str | None = None, size: int | None = None,
    seed: int | None = None, devices: str | None = None, log: Sequence[str] | None = None,
    log_every: int | str | None = None, to: Sequence[str] | None = None, teacher: "PathLike | Run | None" = None,
    settings: Settings = (), callbacks: "Sequence[keras.callbacks.Callback]" = (), name: str | None = None,
    overwrite: bool = False, root: PathLike = "runs", reported: bool = True,
) -> "Run":  # fmt: skip
    """Train a network from random weights, evaluate it, and keep all of it in a run folder.

    The same call, made again, goes on with a run that did not finish: its weights at the end are those of a run that
    was never stopped.

    Args:
        model: A name of `list_models()`, a recipe of the zoo ("fast"), a recipe file (.toml), or a `Recipe`.
        data: As in `load_examples`. A recipe names its own.
        epochs: Passes over the training images.
        learning_rate: The learning rate, its peak where it follows a schedule.
        batch_size: Images in a step, or "all".
        size: Height and width of the network's input, in pixels.
        seed: The seed of everything random.
        devices: "auto", "cpu", "gpu", "mirrored", "mirrored:N", "multiworker" or "tpu".
        log: The loggers: any of "gradients", "weights" and "feature_maps". Naming them adds histograms.
        log_every: How often they write: a number of steps, "epoch", or as "3 epochs".
        to: Trackers to write to as well: any of "tensorboard", "wandb", "trackio" and "mlflow".
        teacher: A run whose answers for the augmented images are learned in place of their labels. It must have the
            same data, splits and image size.
        settings: Other keys of the recipe, as a mapping (nested or dotted) or as "KEY=VALUE" strings.
        callbacks: Keras callbacks, called after those of the run.
        name: The run's folder below `root`. The default is numbered.
        overwrite: Take the place of a run of that name.
        root: The folder of the runs.
        reported: False leaves it to the caller to call `run.set_reported()` once the result was shown; until then, the
            same call returns the finished run.

    Returns:
        The finished `Run`.

    Raises:
        InputError: if a name, a value, or the data is bad; nothing is written then.
        Interrupted: if a signal asked to stop; the state is saved.
        KerazooError: if the training failed.

    Example:
    ```python
    run = kerazoo.train("mlp", "photos", epochs=1, size=16, name="first")
    run.results["val_accuracy"]
    ```
    """
    values = merged(
        settings, epochs=epochs, learning_rate=learning_rate, batch_size=batch_size, size=size, seed=seed,
        devices=devices, log=log, log_every=log_every, to=to, teacher=_teacher(teacher),
    )  # fmt: skip
    recipe = recipe_to_train(model, data, values)
    return _train(recipe, callbacks=callbacks, name=name, overwrite=overwrite, root=root, reported=reported)


def finetune(
    data: PathLike, backbone: str = "mobilenet_v2_100", *, weights: PathLike = "imagenet", preset: str = "light",
    folds: int | None = None, epochs: int | None = None, learning_rate: float | None = None,
    batch_size: int | str | None = None, size: int | None = None, seed: int | None = None, devices: str | None = None,
    log: Sequence[str] | None = None, log_every: int | str | None = None, to: Sequence[str] | None = None,
    teacher: "PathLike | Run | None" = None, settings: Settings = (),
    callbacks: "Sequence[keras.callbacks.Callback]" = (), name: str | None = None, overwrite: bool = False,
    root: PathLike = "runs", reported: bool = True,
) -> "Run":  # fmt: skip
    """Fine-tune a pretrained network on images: features, a probe on them, then the network from there on.

    Each phase is measured on the validation images, and is kept only if it helps. The same call, made again, goes on
    with a run that did not finish.

    Args:
        data: As in `load_examples`.
        backbone: A name of `list_models()`.
        weights: "imagenet" (downloaded once), the name of shipped weights, a weights file, a run, or "none".
        preset: "linear" (the probe alone), "light", "full", "norm", "lora" or "bit": how much learns, and how.
        folds: Train a network for each of this many folds of the training and validation images. The run is the
            ensemble of them, whose answers are their mean; `run.folds` has the result of each.
        epochs: Passes with the network unfrozen. The default is the preset's.
        learning_rate: The peak learning rate of the head; earlier stages have lower ones. The default is the preset's.
        batch_size: Images in a step, or "all". The default is the preset's.
        size: Height and width of the network's input, in pixels. The default is the backbone's own.
        seed: The seed of everything random.
        devices: "auto", "cpu", "gpu", "mirrored", "mirrored:N" or "tpu".
        log: The loggers: any of "gradients", "weights" and "feature_maps". Naming them adds histograms.
        log_every: How often they write: a number of steps, "epoch", or as "3 epochs".
        to: Trackers to write to as well: any of "tensorboard", "wandb", "trackio" and "mlflow".
        teacher: A run whose answers for the augmented images are learned in place of their labels. It must have the
            same data, splits and image size.
        settings: Other keys of the recipe, as a mapping (nested or dotted) or as "KEY=VALUE" strings.
        callbacks: Keras callbacks, called after those of the run, while the network is unfrozen.
        name: The run's folder below `root`. The default is numbered.
        overwrite: Take the place of a run of that name.
        root: The folder of the runs.
        reported: As in `train`.

    Returns:
        The finished `Run`.

    Raises:
        InputError: if a name, a value, the data or the weights are bad; nothing is written then.
        Interrupted: if a signal asked to stop; the state is saved.

    Example:
    ```python
    run = kerazoo.finetune("photos", "bottleneck_cnn", weights="mnist", preset="linear", name="tuned")
    ```
    """
    from kerazoo.recipes.recipe import Recipe

    values = merged(
        settings, data=os.fspath(data), folds=folds, epochs=epochs, learning_rate=learning_rate, batch_size=batch_size,
        size=size, seed=seed, devices=devices, log=log, log_every=log_every, to=to, teacher=_teacher(teacher),
    )  # fmt: skip
    recipe = Recipe.for_finetuning(backbone, data, weights=weights, preset=preset, **values)
    return _train(recipe, callbacks=callbacks, name=name, overwrite=overwrite, root=root, reported=reported)


def resume(
    run: "PathLike | Run", *, callbacks: "Sequence[keras.callbacks.Callback]" = (), reported: bool = True
) -> "Run":
    """Go on with a run that did not finish, by its own recipe; the weights are those of a run that was never stopped.

    Args:
        run: A run, its folder, or its name under runs/.
        callbacks: As in `train`; pass the same ones again.
        reported: As in `train`.

    Returns:
        The finished `Run`.

    Raises:
        RunError: if there is no such run, it is finished, or its recipe was changed.
        Interrupted: if a signal asked to stop; the state is saved.

    Example:
    ```python
    run = kerazoo.resume("stopped")
    ```
    """
    from kerazoo.runs.run import folder_of, unfinished

    opened = unfinished(folder_of(path_of(run)).resolve())
    return _train(opened.recipe, callbacks=callbacks, name=opened.name, root=opened.folder.parent, reported=reported)


def _teacher(teacher: "PathLike | Run | None") -> str | None:
    """The folder of the run `teacher`, as a recipe names it."""
    from kerazoo.runs.run import folder_of

    return None if teacher is None else str(folder_of(path_of(teacher)).absolute())


def _train(recipe: "Recipe", *, name: str | None = None, **arguments: Any) -> "Run":
    """Train or fine-tune by `recipe`, on the devices that it names."""
    check_words(recipe, name)
    from kerazoo.pipelines.devices.opening import open_devices

    devices = open_devices(recipe.devices)
    if recipe.transfer is not None:
        from kerazoo.transfer.finetune import finetune as make
    else:
        from kerazoo.training.train import train as make
    if recipe.data.folds is not None and recipe.data.fold is None:
        from kerazoo.training.folds import train_folds

        made = train_folds(recipe, make, devices=devices, name=name, **arguments)
    else:
        made = make(recipe, devices=devices, name=name, **arguments)
    if devices.is_chief:
        from kerazoo.api.reports import report_finished

        report_finished(made)
    from kerazoo.api.run import Run

    return Run(made.folder, is_chief=devices.is_chief)
