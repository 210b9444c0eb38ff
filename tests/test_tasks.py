"""Several labels, numbers, mixed and weighted labels: the whole path, from a table to an export that agrees."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from kerazoo.errors import ModelError, RecipeError
from kerazoo.evaluation.answers import Evaluation
from kerazoo.evaluation.evaluate import evaluate
from kerazoo.exports.export import export_run
from kerazoo.exports.saved_model import ExportedModel
from kerazoo.files import read_json
from kerazoo.models.saved import load_model, load_spec
from kerazoo.recipes.recipe import make_recipe
from kerazoo.serving.predict import predict
from kerazoo.tasks.task import find_task
from kerazoo.training.train import train
from kerazoo.transfer.finetune import finetune


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """60 images, red by chance and bright by chance; tables of both as labels, and of the brightness."""
    folder = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)
    labels, numbers = [], []
    for number in range(60):
        red, bright = rng.integers(0, 2, 2)
        level = int(rng.integers(150, 250) if bright else rng.integers(20, 100))
        pixels = np.full((24, 24, 3), level, np.uint8)
        pixels[..., 1:] = 0 if red else level
        pixels += rng.integers(0, 5, pixels.shape).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        words = "|".join(name for name, on in (("red", red), ("bright", bright)) if on)
        split = "val" if number % 4 == 0 else "train"
        labels.append([f"{number}.png", words, split])
        numbers.append([f"{number}.png", level, split])
    for name, head, rows in (("labels", "labels", labels), ("numbers", "target", numbers)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["path", head, "split"], *rows])
    return folder


def recipe(path, **parts):
    values = {
        "model": {"name": "cnn"},
        "data": {"path": str(path), "size": 16, "channels": 3},
        "training": {"epochs": 30, "batch_size": 15},
        "optimizer": {"learning_rate": 0.01},
        "log": [],
    }
    for name, part in parts.items():
        values[name] = {**values.get(name, {}), **part} if isinstance(part, dict) else part
    return make_recipe(values)


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.slow  # half a minute: a training, an export, a prediction
def test_several_labels_all_the_way(images, tmp_path):
    run = train(recipe(images / "labels.csv"), name="labels", root=tmp_path)
    assert load_spec(run.folder).task == "multilabel"
    results = read_json(run.folder / "run.json")["results"]
    assert results["val_accuracy"] >= 0.9
    assert results["val_mean_average_precision"] >= 0.95
    history = rows_of(run.folder / "history.csv")
    assert results["val_loss"] == pytest.approx(float(history[-1]["val_loss"]), rel=1e-4)
    low, high = results["val_exact_match_interval"]
    assert low <= results["val_exact_match"] <= high
    row = rows_of(run.folder / "evaluation" / "val.csv")[0]
    assert list(row) == ["key", "labels", "predicted", "bright", "red"]
    assert [result.split for result in evaluate(run)] == ["val"]
    export = export_run(run, root=tmp_path / "exports")
    model = ExportedModel(export)
    files = [images / f"{number}.png" for number in range(0, 60, 4)]
    answers = np.stack([answer for _, answer in model.predict_files(files)])
    np.testing.assert_allclose(answers, np.load(run.folder / "evaluation" / "val.npy"), atol=1e-5)
    assert (answers.sum(axis=1) > 1.2).any()  # the labels do not share one unit of probability
    (prediction,) = predict(run.folder, files[:1], top=2)
    assert {name for name, _ in prediction.top} == {"red", "bright"}


@pytest.mark.slow  # a training and an export, as with several labels
def test_numbers_all_the_way(images, tmp_path):
    run = finetune(
        recipe(images / "numbers.csv", model={"name": "bottleneck_cnn"}, training={"epochs": 0}, data={"size": 28},
               transfer={"weights": "none"}),
        name="numbers", root=tmp_path,
    )  # fmt: skip
    results = read_json(run.folder / "run.json")["results"]
    assert set(results) == {"val_mae", "val_rmse", "val_r2", "val_loss", "val_examples"}
    assert results["val_r2"] >= 0.9
    assert results["val_loss"] == pytest.approx(results["val_rmse"] ** 2, rel=1e-5)
    row = rows_of(run.folder / "evaluation" / "val.csv")[3]
    assert list(row) == ["key", "target", "predicted_target"]
    export = export_run(run, root=tmp_path / "exports")
    assert json.loads((export / "assets.extra" / "passport.json").read_text())["task"] == "regression"
    (from_export,) = predict(export, [images / row["key"]])
    (from_run,) = predict(run.folder, [images / row["key"]])
    assert from_export.to_json()["values"]["target"] == pytest.approx(float(row["predicted_target"]), rel=1e-4)
    assert from_run.to_json()["values"]["target"] == pytest.approx(float(row["predicted_target"]), rel=1e-4)


def test_metrics_of_several_labels_and_of_numbers_by_hand():
    labels = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], np.float32)
    answers = np.array([[0.9, 0.2], [0.8, 0.4], [0.6, 0.1], [0.1, 0.7]], np.float32)
    found = Evaluation("val", tuple("abcd"), labels, answers, ("x", "y"), 0.0, "multilabel").metrics()
    assert found["accuracy"] == 6 / 8
    assert found["exact_match"] == 2 / 4
    assert found["mean_average_precision"] == 1.0
    numbers, said = np.array([[1.0], [2], [3]], np.float32), np.array([[1.0], [2], [5]], np.float32)
    found = Evaluation("val", tuple("abc"), numbers, said, ("x",), 0.0, "regression").metrics()
    assert found == {"mae": pytest.approx(2 / 3), "rmse": pytest.approx((4 / 3) ** 0.5), "r2": -1.0}


def test_answers_agree_within_the_tolerance_of_their_size():
    one = np.array([[1000.0], [0.5], [np.nan]])
    assert find_task("regression").agree(one, one + [[0.05], [0.00005], [0]]).tolist() == [True, True, False]
    assert find_task("regression").agree(one, one + [[0.2], [0.0002], [0]]).tolist() == [False, False, False]


@pytest.fixture(scope="module")
def classes(images):
    """The same images as three classes of unlike sizes."""
    rows = [["path", "label", "split"]]
    for row in rows_of(images / "numbers.csv"):
        level = float(row["target"])
        rows.append([row["path"], "dark" if level < 100 else "light" if level < 235 else "white", row["split"]])
    with (images / "classes.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return images / "classes.csv"


@pytest.mark.parametrize(
    ("balance", "policy"),
    [("sampling", "none"), *(pytest.param(way, "strong", marks=pytest.mark.slow) for way in ("none", "weights"))],
)
def test_mixed_and_balanced_labels_train(classes, tmp_path, balance, policy):
    made = recipe(
        classes, augmentation={"policy": policy}, training={"balance": balance, "epochs": 3, "drop_last": False}
    )
    run = train(made, name="run", root=tmp_path)
    history = rows_of(run.folder / "history.csv")
    assert len(history) == 3
    assert all(0 <= float(row["val_accuracy"]) <= 1 and np.isfinite(float(row["loss"])) for row in history)
    # the accuracy that fit saw last is what evaluation found: one-hot labels and class numbers mean the same
    results = read_json(run.folder / "run.json")["results"]
    assert float(history[-1]["val_accuracy"]) == pytest.approx(results["val_accuracy"])
    if balance != "weights":
        assert float(history[-1]["val_loss"]) == pytest.approx(results["val_loss"], rel=1e-4)


def test_what_does_not_go_together_is_refused_before_any_work(classes, tmp_path):
    mixed = {"policy": "strong"}
    with pytest.raises(ModelError, match="loss='perceptron' does not allow mixed labels; remove mixup and cutmix"):
        train(recipe(classes, model={"name": "perceptron"}, augmentation=mixed), root=tmp_path)
    with pytest.raises(RecipeError, match=r"augmentation.policy must be 'none', 'light'"):
        train(recipe(classes, augmentation={"policy": "wild"}), root=tmp_path)
    with pytest.raises(RecipeError, match=r"augmentation.hue must be a number in \[0, 0.5\], got 0.7"):
        train(recipe(classes, augmentation={"hue": 0.7}), root=tmp_path)
    with pytest.raises(ModelError, match="loss='mse' cannot be used for a multiclass task"):
        train(recipe(classes, training={"loss": "mse"}), root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_policy_can_be_changed_in_part():
    from kerazoo.pipelines.input.augmentation import Augmentation, augmentation_of

    made = augmentation_of(recipe("x", augmentation={"policy": "standard", "flip": False, "hue": 0.1}).augmentation)
    assert (made.flip, made.hue, made.crop) == (False, 0.1, Augmentation(policy="standard").crop)


@pytest.mark.slow  # two trainings; test_batches.py compares the epochs of both
def test_the_same_recipe_with_and_without_a_cache_gives_the_same_bits(classes, tmp_path):
    found = []
    for cache in ("never", "always"):
        made = recipe(classes, data={"cache": cache}, training={"epochs": 2}, augmentation={"policy": "strong"})
        found.append(load_model(train(made, name=cache, root=tmp_path).folder)[1].get_weights())
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
