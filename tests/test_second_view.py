"""Answers from an image and its mirror image: only where training mirrors images, and the same wherever it answers."""

import re

import keras
import numpy as np
import pytest
from conftest import make_images

from kerazoo.errors import GateError, RecipeError, RunError
from kerazoo.evaluation.evaluate import evaluate
from kerazoo.exports.export import export_run, verify_export
from kerazoo.exports.layout import CLASSIFY, DEFAULT, FEATURES, SERVE_PREPARED
from kerazoo.exports.saved_model import ExportedModel
from kerazoo.exports.signatures import write_saved_model
from kerazoo.files import read_json
from kerazoo.insight.grad_cam import grad_cam
from kerazoo.models.answering import with_mirror_image
from kerazoo.models.heads.classifier import logits_and_features
from kerazoo.models.registry import construct
from kerazoo.models.saved import DESCRIPTION, load_model, load_network
from kerazoo.recipes.recipe import make_recipe
from kerazoo.runs.run import Run
from kerazoo.serving.looking import _looker
from kerazoo.serving.predict import predict
from kerazoo.tasks.scores import Measured
from kerazoo.tasks.task import find_task
from kerazoo.training.second_view import COST
from kerazoo.training.train import train
from kerazoo.transfer.finetune import finetune
from kerazoo.transfer.phases import Phases

BLACK = np.zeros((4, 4, 3), np.uint8)


def recipe_of(images, **parts):
    values = {
        "model": {"name": "bottleneck_cnn"}, "data": {"path": str(images), "size": 24, "validation": 0.5},
        "training": {"epochs": 1, "batch_size": 4}, "augmentation": {"flip": True}, "evaluation": {"flip": "always"},
    }  # fmt: skip
    return make_recipe(values | parts)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"), classes=("circle", "square", "disc"), count=8, size=40)


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    return train(recipe_of(images), name="mirrored", root=tmp_path_factory.mktemp("runs"))


def mean_of_views(network, x):
    views = [network.predict(view, verbose=0) for view in (x, x[:, :, ::-1])]
    assert np.abs(views[0] - views[1]).max() > 1e-3
    return (views[0] + views[1]) / 2


@pytest.mark.parametrize("name", ["mlp", "resnet20", "nested"])
def test_logits_and_features_are_means_over_both_images(name):
    shape = (16, 16, 3)
    if name == "nested":  # a network of another package may have any layers
        inputs = keras.Input(shape)
        network = keras.Model(inputs, keras.layers.Dense(3, activation="relu")(keras.layers.Flatten()(inputs)))
    else:
        network = construct(name, input_shape=shape, num_classes=3, **({"dropout": 0.5} if name == "mlp" else {}))
    x = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
    both = with_mirror_image(network)
    np.testing.assert_allclose(both.predict(x, verbose=0), mean_of_views(network, x), atol=1e-5, rtol=1e-5)
    found = logits_and_features(both, x)
    assert ("features" in found) is (name != "nested")
    if "features" in found:
        kernel, bias = network.get_layer("logits").get_weights()
        expected = np.array(found["features"]) @ kernel + bias
        np.testing.assert_allclose(found["logits"], expected, atol=1e-5, rtol=1e-5)


def test_all_that_answers_answers_from_both(run, images, tmp_path):
    spec, network = load_network(run.folder)
    assert spec.flip
    x = np.random.default_rng(0).random((3, *spec.preprocessing.shape)).astype(np.float32)
    np.testing.assert_allclose(load_model(run.folder)[1].predict(x, verbose=0), mean_of_views(network, x), atol=1e-5)
    (result,) = evaluate(run)  # compares with what training recorded
    paths = [images / key for key in result.keys]
    prepared = np.stack([spec.preprocessing(path.read_bytes()).numpy() for path in paths])
    logits = mean_of_views(network, prepared)
    wanted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(result.probabilities, wanted, atol=1e-5)
    answers = [dict(prediction.top) for prediction in predict(run.folder, paths)]
    by_name = [[answer[name] for name in spec.class_names] for answer in answers]
    np.testing.assert_allclose(by_name, wanted, atol=1e-5)
    write_saved_model(tmp_path / "model", *load_model(run.folder))
    (tmp_path / "model" / "assets.extra").mkdir(exist_ok=True)
    (tmp_path / "model" / "assets.extra" / "passport.json").write_text((run.folder / DESCRIPTION).read_text())
    served = ExportedModel(tmp_path / "model")
    contents = [path.read_bytes() for path in paths]
    assert {DEFAULT, "serve_images", "serve_pixels", SERVE_PREPARED, FEATURES, CLASSIFY} < set(served.signatures)
    np.testing.assert_allclose(served.ask(DEFAULT, contents)["probabilities"], wanted, atol=1e-5)
    np.testing.assert_allclose(served.ask(SERVE_PREPARED, prepared)["probabilities"], wanted, atol=1e-5)
    kernel, bias = network.get_layer("logits").get_weights()
    np.testing.assert_allclose(served.ask(FEATURES, contents)["features"] @ kernel + bias, logits, atol=1e-4)


def test_the_map_of_grad_cam_is_of_both(run, images, monkeypatch):
    spec, network = load_network(run.folder)
    content = next((images / "disc").glob("*.png")).read_bytes()
    seen = {}
    monkeypatch.setattr("kerazoo.insight.grad_cam.overlay", lambda pixels, heat: seen.update(heat=heat) or BLACK)
    _looker(run.folder)(content)
    x = spec.preprocessing(content).numpy()[None]
    best = int(mean_of_views(network, x).argmax())
    maps = [grad_cam(network, view, classes=best)[0] for view in (x, x[:, :, ::-1])]
    np.testing.assert_allclose(seen["heat"], (maps[0] + maps[1][:, ::-1]) / 2, atol=1e-5)


@pytest.mark.slow  # an export in all formats, each tried in a process of its own
def test_it_passes_the_gate_in_every_format(run, tmp_path):
    folder = export_run(run, formats=("onnx", "onnx-int8", "litert", "litert-dynamic", "litert-int8"), root=tmp_path)
    assert read_json(folder / "assets.extra" / "passport.json")["flip"] is True
    verify_export(folder, run)
    description = run.folder / DESCRIPTION
    kept = description.read_text()
    try:
        description.write_text(kept.replace('"flip": true', '"flip": false'))
        with pytest.raises((GateError, RunError)):
            verify_export(folder, run)
    finally:
        description.write_text(kept)


def test_mirror_images_are_not_tried_where_training_does_not_mirror(images, tmp_path, said):
    values = {"augmentation": {"shift": 0.1}, "training": {"epochs": 0, "batch_size": 4}}
    recipe = recipe_of(images, **values, evaluation={"flip": "auto"}, transfer={"weights": "none", "penalties": [0.1]})
    run = finetune(recipe, root=tmp_path)
    assert not load_network(run.folder)[0].flip
    lines = [line for line in said if line.startswith("mirror images")]
    assert lines == ["mirror images: dropped: training does not mirror images (augmentation.flip); 0.0 s"]
    with pytest.raises(RecipeError, match=r"evaluation.flip='always' needs augmentation.flip=true: .*; set it, or "):
        recipe_of(images, **values)


@pytest.mark.parametrize("flip", ["always", pytest.param("auto", marks=pytest.mark.slow)])  # ten seconds
def test_fine_tuning_calibrates_what_answers(images, tmp_path, said, flip):
    """Of random features of both views, the temperature is that of the mean logits, and the results are, too."""
    training = {"epochs": 0 if flip == "always" else 1, "batch_size": 4}
    transfer = {"weights": "none", "penalties": [0.1], "batch_norm": "train"}
    recipe = recipe_of(images, evaluation={"flip": flip}, training=training, transfer=transfer)
    run = finetune(recipe, name=flip, root=tmp_path)
    phases = {phase["name"]: phase for phase in run.phases}
    assert phases["mirror images"]["line"] in said
    spec, network = load_network(run.folder)
    assert spec.flip is phases["mirror images"]["kept"]
    assert spec.flip or flip == "auto"
    assert (COST in phases["mirror images"]["line"]) is spec.flip
    (result,) = evaluate(Run(run.folder))
    if flip == "always":
        assert run.kept_phase == "mirror images" or run.kept_phase.startswith("temperature")
        prepared = np.stack([spec.preprocessing((images / key).read_bytes()).numpy() for key in result.keys])
        measured = Measured.of(mean_of_views(network, prepared), result.labels, find_task(spec.task))
        assert phases["mirror images"]["loss"] == pytest.approx(measured.losses.mean(), rel=1e-4)
        before = next(phase for name, phase in phases.items() if name.startswith("temperature"))["ece_before"]
        logits = mean_of_views(network, prepared)
        assert before == pytest.approx(find_task(spec.task).calibration_error(logits, result.labels), abs=1e-4)


def test_a_view_that_helps_is_kept_and_another_is_not(said):
    draw = np.random.default_rng(0)
    labels = draw.integers(3, size=400)
    true = np.eye(3)[labels] * 2
    views = [true + draw.normal(size=true.shape) * 2 for _ in range(2)]
    task = find_task("multiclass")
    one, both, worse = (Measured.of(z, labels, task) for z in (views[0], sum(views) / 2, views[0] + 0.1))
    for measured, kept in ((both, True), (worse, False)):
        phases = Phases(task)
        phases.best = one
        assert phases.mirror_images(measured, 0.1) is kept
        assert phases.best is (measured if kept else one)
        assert bool(re.search(f"kept; {COST}", said[-1])) is kept
        assert phases.mirror_images(worse, 0.1, always=True)
