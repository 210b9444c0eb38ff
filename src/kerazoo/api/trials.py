"""What is tried before a run: backbones, learning rates, one batch."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerazoo.api.settings import PathLike, Settings, check_words, merged, recipe_to_train, recipe_without_model
from kerazoo.errors import InputError, RecipeError
from kerazoo.models.hub.presets import PREFIX
from kerazoo.models.registry import find

if TYPE_CHECKING:
    from kerazoo.insight.findings.finding import Finding
    from kerazoo.recipes.recipe import Recipe
    from kerazoo.training.overfit import BatchTrial
    from kerazoo.training.rate_finder import RateTrial
    from kerazoo.transfer.ranking import Ranked


def rank(
    data: PathLike, backbones: Sequence[str] | None = None, *, size: int | None = None, seed: int | None = None,
    devices: str | None = None, settings: Settings = (),
) -> "list[Ranked]":  # fmt: skip
    """Rank backbones on images by a linear probe on each, and measure what each costs. No run is kept.

    Args:
        data: As in `load_examples`.
        backbones: "NAME" or "NAME=WEIGHTS" of each, or "hub:PRESET". The default is all of keras.applications whose
            ImageNet weights are on this machine.
        size: Height and width of the networks' input, in pixels. The default is each backbone's own.
        seed: The seed of everything random.
        devices: "auto", "cpu", "gpu", "mirrored" or "mirrored:N".
        settings: Other keys of the recipe, as a mapping (nested or dotted) or as "KEY=VALUE" strings.

    Returns:
        A `Ranked` for each, best first by cross-validation.

    Raises:
        InputError: if a name, a value, the data or the weights are bad.

    Example:
    ```python
    best = kerazoo.rank("photos", ["bottleneck_cnn=mnist", "mlp=none"], size=16)[0]
    best.backbone, best.score
    ```
    """
    from kerazoo.models.weights.sources import check_weights

    values = merged(settings, size=size, seed=seed, devices=devices)
    recipe = recipe_without_model({"data.path": data, "training.epochs": 0, "transfer": {}, **values})
    pairs = [backbone.partition("=") for backbone in backbones or ()]
    candidates = [
        (find(name).name, weights or ("preset" if name.startswith(PREFIX) else "imagenet"))
        for name, _, weights in pairs
    ]
    check_words(recipe)
    for name, weights in candidates:
        check_weights(find(name), weights)
    from kerazoo.pipelines.devices.opening import open_devices

    opened = open_devices(recipe.devices)
    from kerazoo.transfer.ranking import cached_backbones
    from kerazoo.transfer.ranking import rank as rank_candidates

    return rank_candidates(recipe, candidates or cached_backbones(), devices=opened)


def find_learning_rate(
    model: "PathLike | Recipe", data: PathLike | None = None, *, chart: PathLike, settings: Settings = (), **values: Any
) -> "RateTrial":
    """Suggest a learning rate for training `model`, and draw the losses to `chart`; no run is kept.

    `values` are the named arguments of `train`, such as `size`. Raises InputError.
    """
    recipe = recipe_to_train(model, data, merged(settings, **values))
    check_words(recipe)
    folder = Path(chart).absolute().parent
    if not folder.is_dir():
        raise RecipeError(f"the chart {chart} cannot be written: there is no folder {folder}; make it, or name another")
    from kerazoo.pipelines.devices.opening import open_devices

    devices = open_devices(recipe.devices)
    from kerazoo.training.trials import try_rates

    return try_rates(recipe, Path(chart), devices=devices)


def overfit_one_batch(
    model: "PathLike | Recipe", data: PathLike | None = None, *, settings: Settings = (), **values: Any
) -> "BatchTrial":
    """See whether `model` can learn one batch by heart; no run is kept. Arguments as in `find_learning_rate`."""
    recipe = recipe_to_train(model, data, merged(settings, **values))
    check_words(recipe)
    from kerazoo.pipelines.devices.opening import open_devices

    devices = open_devices(recipe.devices)
    from kerazoo.training.trials import try_one_batch

    return try_one_batch(recipe, devices=devices)


def diagnose(
    model: "PathLike | Recipe", data: PathLike | None = None, *, settings: Settings = (), **values: Any
) -> "list[Finding]":
    """Train for a short while, and tell what is wrong with the training, the worst first; no run is kept.

    A run also has `findings`, of its whole training.

    Args:
        model: As in `train`.
        data: As in `train`.
        settings: As in `train`.
        **values: Other named arguments of `train` that set keys of the recipe, such as `learning_rate`.

    Returns:
        The findings: `name`, `severity`, `where`, `evidence`, `meaning`, `change`.

    Raises:
        InputError: if a name, a value, or the data is bad.

    Example:
    ```python
    for finding in kerazoo.diagnose("mlp", "photos", size=16, learning_rate=10.0):
        print(finding.severity, finding.name, finding.change)
    ```
    """
    recipe = recipe_to_train(model, data, merged(settings, **values))
    check_words(recipe)
    from kerazoo.pipelines.devices.opening import open_devices

    devices = open_devices(recipe.devices)
    from kerazoo.training.diagnosis import diagnose as shortly

    return shortly(recipe, devices=devices)


def has_finding(findings: "Sequence[Finding]", severity: str) -> bool:
    """Whether one of `findings` is of that severity ("note", "warning", "serious"), or worse. Raises InputError."""
    from kerazoo.insight.findings.finding import SEVERITIES, reaches

    if severity not in SEVERITIES:
        raise InputError(f"the severity must be note, warning or serious, got {severity!r:.80}")
    return reaches(findings, severity)
