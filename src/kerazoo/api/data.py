"""Data: reading it, and looking at every image before anything is trained on it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kerazoo.api.settings import PathLike, Settings, check_words, merged, recipe_without_model
from kerazoo.startup import start_tensorflow

if TYPE_CHECKING:
    from kerazoo.pipelines.checks.check import CheckReport as CheckReport
    from kerazoo.pipelines.data.examples import Examples


def load_examples(
    data: PathLike, *, validation: float = 0.1, test: float = 0.0, group: str | None = None, label: str | None = None,
    task: str | None = None,
) -> "Examples":  # fmt: skip
    """The table of what there is to learn from: keys, files or pixels, labels, splits.

    Args:
        data: An image folder, a table (.csv, .tsv, .parquet), an `.npz` file, or "tfds:NAME".
        validation: The share of the training images held out where the data has no validation split.
        test: The share held out as a test split where the data has none.
        group: A regular expression; file names in which it finds the same text stay in one split.
        label: The columns of a table that are learned, as in the recipe's `data.label`.
        task: "multiclass", "multilabel" or "regression"; None is what the data looks like.

    Returns:
        `Examples`, which do not change.

    Raises:
        DataError: if the data cannot be read or trained on.
        RecipeError: if a value is not allowed.

    Example:
    ```python
    examples = kerazoo.load_examples("photos", validation=0.2)
    examples.class_names, examples.counts("train")
    ```
    """
    from kerazoo.pipelines.data.load import load_examples as read

    return read(os.fspath(data), validation=validation, test=test, group=group, label=label, task=task)


def check(
    data: PathLike, *, write: bool = False, manifest: PathLike | None = None, group: str | None = None,
    validation: float | None = None, show_augmented: PathLike | None = None, policy: str = "standard",
    settings: Settings = (),
) -> "CheckReport":  # fmt: skip
    """Look at every image with the decoder of training.

    Args:
        data: As in `load_examples`.
        write: Write a manifest; training leaves out what it excludes.
        manifest: Where the manifest is kept. The default is kerazoo-manifest.json with the data.
        group: As in `load_examples`.
        validation: As in `load_examples`.
        show_augmented: A .png file to draw images to, as training with `policy` sees them.
        policy: The augmentation that is drawn: "none", "light", "standard" or "strong".
        settings: Other keys of the recipe.

    Returns:
        `CheckReport` with `findings`, `excluded`, and `spoiled`: what would spoil a result.

    Raises:
        DataError: if there is nothing to look at.
        RecipeError: if a key or a value is not allowed.

    Example:
    ```python
    report = kerazoo.check("photos")
    assert not report.spoiled, report.spoiled[0]
    ```
    """
    values = merged(settings, manifest=manifest, group=group, validation=validation)
    recipe = recipe_without_model({"data.path": data, "augmentation.policy": policy, **values})
    check_words(recipe)
    start_tensorflow()
    from kerazoo.pipelines.checks.check import check as look
    from kerazoo.pipelines.checks.preview import show_augmented_images
    from kerazoo.pipelines.input.augmentation import augmentation_of
    from kerazoo.terminal import progress_bar

    augmentation = augmentation_of(recipe.augmentation)
    with progress_bar() as progress:
        report = look(recipe.data, write=write, progress=progress)
    if show_augmented is not None:
        show_augmented_images(recipe.data, augmentation, report, Path(show_augmented), seed=recipe.seed)
    return report
