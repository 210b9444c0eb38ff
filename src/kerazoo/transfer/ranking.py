"""Rank backbones for a data set by the cross-validated score of a probe on each, and measure their cost."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import keras
import numpy as np

from kerazoo.errors import RecipeError, WeightsError
from kerazoo.models.keras_applications import BACKBONES
from kerazoo.models.registry import find, weight_names
from kerazoo.models.weights.download import find_cached
from kerazoo.models.weights.published import published
from kerazoo.models.weights.sources import check_weights
from kerazoo.pipelines.checks.check import check_images
from kerazoo.pipelines.data.load import load_examples
from kerazoo.pipelines.devices.devices import Devices
from kerazoo.pipelines.devices.opening import open_devices
from kerazoo.pipelines.input.causes import true_causes
from kerazoo.recipes.recipe import Recipe
from kerazoo.training.plan import Plan, for_candidate, plan, set_seed
from kerazoo.transfer.batch_norm import norm_by_data
from kerazoo.transfer.head import build_with, check_probe, learn_head
from kerazoo.transfer.phases import Phases

log = logging.getLogger("kerazoo")

TIMED = 8  # images in the batch that is timed


@dataclass(frozen=True)
class Ranked:
    """The result of a probe on one backbone, and its cost.

    `cross_validated` is the mean score over the folds of train; `score` and `loss` are on val (see `tasks/scores.py`).
    `seconds` is the time for features and probe, and `computed` the number of features that were not in the cache.
    `milliseconds` is the time of the network alone for an image, in batches of 8. `parameters` does not count the head.
    """

    backbone: str
    weights: str
    cross_validated: float
    score: float
    loss: float
    seconds: float
    computed: int
    milliseconds: float
    parameters: int
    features: int

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    @staticmethod
    def title() -> str:
        """The column titles of `line`."""
        return f"{'backbone':<24}  folds   val     loss    ms/image  parameters   features   s"

    def line(self) -> str:
        """One row of the table."""
        return (
            f"{self.backbone:<24}  {self.cross_validated:.4f}  {self.score:.4f}  {self.loss:.4f}  "
            f"{self.milliseconds:>10.1f}  {self.parameters:>11,}  {self.features:>8}  {self.seconds:>4.0f}"
        )


def cached_backbones() -> list[tuple[str, str]]:
    """All backbones whose ImageNet weights are in a cache. Raises WeightsError if there are none."""
    backbones = [(entry.name, "imagenet") for entry in BACKBONES if find_cached(published(entry.name)) is not None]
    if not backbones:
        raise WeightsError(
            "no ImageNet weights are on this machine; fetch some with `kerazoo weights fetch NAME...`, or name "
            "backbones as NAME=PATH (--backbone NAME=PATH)"
        )
    return backbones


def rank(recipe: Recipe, candidates: Sequence[tuple[str, str]], *, devices: Devices | None = None) -> list[Ranked]:
    """The candidates, (name of the registry, weights), best first by cross-validation on the recipe's data.

    The model and the weights in `recipe` are replaced. Raises InputError as `finetune` does, and before the first pass
    if a name or weights are bad.
    """
    penalties = None if recipe.transfer is None else recipe.transfer.penalties
    if penalties is not None and len(penalties) < 2:
        raise RecipeError(f"transfer.penalties must have at least two values to rank backbones, got {penalties}")
    devices = devices or open_devices(recipe.devices)
    for name, weights in candidates:
        check_weights(find(name), weights)
    examples = load_examples(recipe.data)
    check_images(examples)
    plans = [plan(for_candidate(recipe, *candidate), devices, examples=examples) for candidate in candidates]
    for candidate_plan in plans:
        check_probe(candidate_plan)
        if candidate_plan.transfer.weights not in weight_names(candidate_plan.entry):  # a user's file may not fit
            with true_causes(candidate_plan.recipe.training.batch_size):
                build_with(candidate_plan.spec, candidate_plan.source, candidate_plan.transfer.scaling)
    ranked = []
    for candidate_plan in plans:
        with true_causes(candidate_plan.recipe.training.batch_size, examples, candidate_plan.preprocessing):
            ranked.append(_one(candidate_plan))
    return sorted(ranked, key=_order)


def _order(row: Ranked) -> tuple[float, float]:
    return -row.cross_validated, row.milliseconds


def _one(plan: Plan) -> Ranked:
    begin = time.perf_counter()
    plan = replace(plan, opened={"train": None, "val": None})  # each image is read once, so a cache would not pay
    set_seed(plan.recipe.seed)
    model = build_with(plan.spec, plan.source, plan.transfer.scaling)
    if plan.source is None:
        norm_by_data(model, plan)
    phases = Phases(plan.task, title=f"{plan.entry.name}: ")
    probe = learn_head(model, plan, phases)
    first, last = phases.phases
    assert first.computed is not None
    assert last.score is not None
    assert last.loss is not None
    assert probe.score is not None
    return Ranked(
        backbone=plan.entry.name,
        weights=plan.transfer.weights,
        cross_validated=probe.score,
        score=last.score,
        loss=last.loss,
        seconds=time.perf_counter() - begin,
        computed=first.computed,
        milliseconds=_milliseconds(model),
        parameters=plan.entry.parameters or model.count_params() - model.get_layer("logits").count_params(),
        features=int(model.get_layer("features").output.shape[-1]),
    )


def _milliseconds(model: keras.Model, rounds: int = 5) -> float:
    """The time of the network alone for an image: the median of a few batches, after one that builds the graph."""
    pixels = np.zeros((TIMED, *model.input_shape[1:]), np.float32)
    model.predict_on_batch(pixels)
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        model.predict_on_batch(pixels)
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds)) / TIMED * 1000
