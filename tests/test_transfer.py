"""Fine-tuning in phases: the probe is the head, what does not help is dropped, and a stop anywhere changes nothing."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import as_arrays, make_images
from PIL import Image
from test_watchers import scalars_in

import kerazoo
from kerazoo.callbacks.feature_maps import last_of_each_size
from kerazoo.callbacks.stopping import StopOnNaN
from kerazoo.errors import DataError, InputError, Interrupted, ModelError, RecipeError, WeightsError
from kerazoo.exports.export import export_run
from kerazoo.exports.saved_model import ExportedModel
from kerazoo.files import read_json
from kerazoo.insight.grids import draw
from kerazoo.models import registry
from kerazoo.models.heads.classifier import feature_extractor
from kerazoo.models.keras_applications import BACKBONES
from kerazoo.models.saved import load_model, load_spec
from kerazoo.pipelines.data.load import load_examples
from kerazoo.pipelines.devices.opening import open_devices
from kerazoo.pipelines.input.batches import evaluation_batches
from kerazoo.recipes.checks import check_against, steps_of, with_defaults
from kerazoo.recipes.presets import PRESETS, preset_values
from kerazoo.recipes.recipe import Recipe, make_recipe, read_setting
from kerazoo.tasks.task import find_task
from kerazoo.training.plan import plan
from kerazoo.training.schedules import in_steps
from kerazoo.transfer import finetune as transfer
from kerazoo.transfer import head, refinement
from kerazoo.transfer.finetune import finetune
from kerazoo.transfer.outcome import transferred
from kerazoo.transfer.phases import Phase
from kerazoo.transfer.ranking import cached_backbones, rank
from kerazoo.transfer.unfreezing import layers_to_unfreeze

SLOW_LEARNER = {"learning_rate": 1e-3, "warmup": 0}


def asked(data, *settings, epochs=0, model="bottleneck_cnn", weights="mnist", **part):
    values = {
        "model": {"name": model}, "data": {"path": str(data), "size": 28, "validation": 0.25}, "log": [],
        "training": {"epochs": epochs, "batch_size": 16, "early_stopping": max(epochs, 1)}, "optimizer": SLOW_LEARNER,
        "transfer": {"weights": str(weights), "penalties": [0.1, 0.01], "folds": 2, **part},
    }  # fmt: skip
    return make_recipe(values, settings)


@pytest.fixture(scope="module")
def strokes(tmp_path_factory):
    """Two classes of 60 images each that a probe on MNIST's features does not tell apart without fail."""
    root = tmp_path_factory.mktemp("transfer") / "strokes"
    draw = np.random.default_rng(0)
    for name, angle in (("falling", 1), ("rising", -1)):
        (root / name).mkdir(parents=True)
        for number in range(60):
            pixels = draw.integers(0, 150, (28, 28))
            row, column = draw.integers(4, 14, 2)
            for i in range(9):
                pixels[row + i, column + (i if angle > 0 else 8 - i)] = 190
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number:02d}.png")
    return root


@pytest.fixture(scope="module")
def data(strokes):
    return as_arrays(strokes)


def lines_of(run_or_lines, start):
    return [line for line in run_or_lines if line.startswith(start)]


def phases_in(run):
    phases = read_json(run.folder / "phases.json")["phases"]
    return {re.sub(r",? \d.*", "", stage["name"]): stage for stage in phases}  # without shares and temperatures


def test_the_warm_head_gives_the_logits_of_the_probe(data, tmp_path, monkeypatch):
    seen = {}
    learn, fit = transfer.learn_head, transfer.fit

    def keep(*args, **kwargs):
        seen["probe"] = learn(*args, **kwargs)
        return seen["probe"]

    def before_the_first_step(model, *args, plan, **kwargs):
        inputs = evaluation_batches(plan.examples.split("train"), plan.preprocessing)
        seen["logits"] = model.predict(inputs, verbose=0)
        seen["expected"] = seen["probe"].logits(feature_extractor(model).predict(inputs, verbose=0))
        return fit(model, *args, plan=plan, **kwargs)

    monkeypatch.setattr(transfer, "learn_head", keep)
    monkeypatch.setattr(transfer, "fit", before_the_first_step)
    finetune(asked(data, epochs=1), root=tmp_path)
    assert np.abs(seen["expected"]).max() > 1
    np.testing.assert_allclose(seen["logits"], seen["expected"], atol=1e-5)


def test_each_stage_says_what_it_gained_and_the_result_is_served(data, tmp_path, said):
    run = finetune(asked(data, epochs=4), name="run", root=tmp_path)
    phases, results = phases_in(run), read_json(run.folder / "run.json")["results"]
    assert list(phases)[:3] == ["features", "probe", "fine-tuning"]
    tuned = phases["fine-tuning"]
    assert tuned["gain"]["low"] <= tuned["gain"]["mean"] <= tuned["gain"]["high"]
    assert tuned["gain"]["mean"] == pytest.approx(tuned["score"] - phases["probe"]["score"])
    assert tuned["saved"]["mean"] == pytest.approx(phases["probe"]["loss"] - tuned["loss"])
    kept = [stage for stage in read_json(run.folder / "phases.json")["phases"] if stage["kept"] and stage["score"]]
    fitted = kept[-1]["name"].startswith(("average", "temperature"))  # judged by folds, shipped by all of val
    assert results["val_accuracy"] == pytest.approx(kept[-1]["score"], abs=0.1 if fitted else 1e-9)
    assert results["val_loss"] == pytest.approx(kept[-1]["loss"], rel=0.1 if fitted else 1e-4)
    assert tuned["choices"] == 4  # epochs that early stopping took the best of
    assert "best of 4 epochs; " in lines_of(said, "fine-tuning: val ")[0]
    assert 0 <= phases["temperature"]["ece_before"] <= 1
    assert lines_of(said, "temperature")[0].count("ECE ") == 1
    assert results["val_accuracy"] >= phases["probe"]["score"]
    assert "gain " in lines_of(said, "fine-tuning: val ")[0]
    drawn = (run.folder / "curves.svg").read_text()
    assert f">kept: {kept[-1]['name']} {kept[-1]['score']:.4f}</text>" in drawn
    assert re.search(rf">(kept: )?probe {phases['probe']['score']:.4f}</text>", drawn)
    assert ("(dropped)" in drawn) is not tuned["kept"]
    assert read_json(run.folder / "run.json")["phases"] == read_json(run.folder / "phases.json")["phases"]
    best_penalty = r"penalty \S+ \(best of \d+ by \d-fold cross-validation, accuracy [01]\.\d{4}\)"
    assert re.search(best_penalty, lines_of(said, "probe: ")[0])
    assert [phase["line"] for phase in run.phases] == [line for line in said if line in {p["line"] for p in run.phases}]
    name = re.escape(kept[-1]["name"])
    assert run.kept_phase == kept[-1]["name"]
    assert re.fullmatch(rf"Run \S+/run: finished, val_accuracy [01]\.\d{{4}}, kept {name}", str(run))
    penalties = read_json(run.folder / "phases.json")["penalties"]
    assert min(row["loss"] for row in penalties) > 0


@pytest.mark.slow  # half a minute: a fine-tuning and an export
def test_a_temperature_is_evaluated_stored_and_served(strokes, tmp_path, monkeypatch):
    """Logits times 15 behind the probe's back: a temperature of about 15 helps surely, and goes all the way."""
    learn = transfer.learn_head

    def too_sure(model, *args):
        probe = learn(model, *args)
        head = model.get_layer("logits")
        head.set_weights([15 * np.asarray(array) for array in head.get_weights()])
        return probe

    monkeypatch.setattr(transfer, "learn_head", too_sure)
    run = finetune(asked(strokes), name="hot", root=tmp_path)
    spec, model = load_model(run.folder)
    assert spec.temperature > 5
    examples = load_examples(asked(strokes).data).split("val")
    logits = model.predict(evaluation_batches(examples, spec.preprocessing), verbose=0)
    z = logits / spec.temperature
    expected = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    recorded = np.load(run.folder / "evaluation" / "val.npy")
    np.testing.assert_allclose(recorded, expected, atol=1e-6)
    assert read_json(run.folder / "run.json")["results"]["val_loss"] == pytest.approx(
        -np.log(expected[np.arange(len(expected)), examples.labels]).mean(), rel=1e-4
    )
    folder = export_run(run, root=tmp_path / "exports")
    served = ExportedModel(folder).file_probabilities([Path(path) for path in examples.paths])
    np.testing.assert_allclose(served, recorded, atol=1e-5)
    assert json.loads((folder / "assets.extra/passport.json").read_text())["temperature"] == spec.temperature


@pytest.mark.slow  # a whole fine-tuning each; test_afterwards.py simulates the choice of phases
@pytest.mark.parametrize("count", [30, 5])
def test_where_tuning_cannot_help_the_result_is_the_probe(tmp_path, count, said):
    """Labels by lot: of 60 images, and of 10."""
    draw = np.random.default_rng(count)
    pixels = draw.integers(0, 255, (2 * count, 28, 28)).astype(np.uint8)
    np.savez(tmp_path / "lots.npz", x_train=pixels, y_train=np.arange(2 * count) % 2)
    logs = ('log=["gradients", "weights", "feature_maps"]', 'log_to=["tensorboard"]')
    recipe = asked(tmp_path / "lots.npz", "training.batch_size=4", *logs, epochs=3)
    tuned = finetune(recipe, name="tuned", root=tmp_path)
    probe = finetune(asked(tmp_path / "lots.npz", "training.batch_size=4"), name="probe", root=tmp_path)
    (line,) = lines_of(said, "fine-tuning: ")
    assert "dropped: " in line
    assert re.search(r"may be chance|its accuracy .* is lower|its loss .* is higher", line)
    assert not phases_in(tuned)["fine-tuning"]["kept"]
    for a, b in zip(load_model(tuned.folder)[1].get_weights(), load_model(probe.folder)[1].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert_shows_the_probe(tuned, probe)


@pytest.mark.parametrize(
    ("kept", "lines", "epoch"),
    [
        (("fine-tuning", "average"), ["probe", "kept: average"], None),
        (("fine-tuning",), ["probe", "kept: fine-tuning"], 2.0),
        (("temperature",), ["probe", "kept: temperature"], None),
        ((), ["probe", "kept: probe"], None),
    ],
)
def test_curves_show_the_probe_beside_what_was_kept(kept, lines, epoch):
    scores = {"probe": 0.8, "fine-tuning": 0.9, "average": 0.95, "temperature": 0.96}
    phases = [Phase("features", 1.0)]
    for name, score in scores.items():
        phases.append(Phase(name, 1.0, score=score, loss=1 - score, kept=name in ("probe", *kept)))
    history = [{"epoch": 1.0, "val_loss": 0.3}, {"epoch": 2.0, "val_loss": 0.1}, {"epoch": 3.0, "val_loss": 0.2}]
    outcome = transferred(history, phases, asked("x", epochs=3).training, find_task("multiclass"))
    assert list(outcome.levels) == lines
    for name, values in outcome.levels.items():
        score = scores[name.removeprefix("kept: ")]
        assert values == {"loss": 1 - score, "accuracy": score}
    assert outcome.dropped == ("fine-tuning" not in kept)
    assert outcome.epoch == epoch


def assert_shows_the_probe(tuned, probe):
    """Curves, TensorBoard and feature maps of `tuned`, whose fine-tuning was dropped."""
    results = read_json(tuned.folder / "run.json")["results"]
    drawn = (tuned.folder / "curves.svg").read_text()
    for name in ("loss", "accuracy"):
        assert re.search(rf">kept: [^<]* {results[f'val_{name}']:.4f}</text>", drawn)
    assert "validation (dropped)" in drawn
    assert "best: " not in drawn
    epochs = len((tuned.folder / "history.csv").read_text().splitlines()) - 1
    board = tuned.folder / "tensorboard"
    assert scalars_in(board / "kept")["epoch_accuracy"] == [
        (step, pytest.approx(results["val_accuracy"])) for step in (0, epochs)
    ]
    assert scalars_in(board / "probe")["epoch_accuracy"] == scalars_in(board / "kept")["epoch_accuracy"]
    assert len(scalars_in(board / "validation")["epoch_accuracy"]) == epochs
    model = load_model(probe.folder)[1]
    lines = [json.loads(line) for line in (tuned.folder / "watch.jsonl").read_text().splitlines()]
    pixels = next(
        iter(
            evaluation_batches(
                load_examples(tuned.recipe.data).split("val").take([0]), load_spec(tuned.folder).preprocessing
            )
        )
    )[0]
    steps = max(line["step"] for line in lines if line["tag"].startswith("weights/"))
    for tap in last_of_each_size(model, pixels):
        maps = keras.Model(model.input, model.get_layer(tap).output)(pixels, training=False).numpy()[0]
        np.testing.assert_array_equal(np.array(Image.open(tuned.folder / "feature_maps" / f"{tap}.png")), draw(maps))
        last = [line for line in lines if line["tag"] == f"feature_maps/{tap}/mean"][-1]
        assert last == {"step": steps + 1, "tag": last["tag"], "value": pytest.approx(maps.mean(), rel=1e-5)}


def keep_all(monkeypatch):
    """Every stage is kept, whatever it gained."""
    keep_if_better = transfer.Phases.keep_if_better
    monkeypatch.setattr(
        transfer.Phases, "keep_if_better", lambda *args, **options: (keep_if_better(*args, **options), True)[1]
    )


@pytest.fixture(scope="module")
def start(data, tmp_path_factory):
    """The probe alone."""
    return finetune(asked(data), name="start", root=tmp_path_factory.mktemp("start"))


@pytest.mark.parametrize("policy", ["frozen", "train", pytest.param("stats", marks=pytest.mark.slow)])
def test_batch_norm_moves_by_its_policy_only(data, start, tmp_path, monkeypatch, policy):
    keep_all(monkeypatch)
    run = finetune(asked(data, epochs=2, batch_norm=policy, average=False), name="run", root=tmp_path)
    old, new = (load_model(made.folder)[1] for made in (start, run))
    moved = set()
    for layer in old.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            for a, b in zip(layer.weights, new.get_layer(layer.name).weights, strict=True):
                moved |= set() if np.array_equal(a, b) else {a.name}
    statistics = {"moving_mean", "moving_variance"}
    assert moved == {"frozen": set(), "stats": statistics, "train": statistics | {"gamma", "beta"}}[policy]
    kernels = [w.path for w in old.trainable_weights if "kernel" in w.path and "logits" not in w.path]
    weights = [{w.path: np.array(w) for w in model.weights} for model in (old, new)]
    assert kernels
    assert not any(np.array_equal(weights[0][path], weights[1][path]) for path in kernels)
    assert ("batch norm again" in phases_in(run)) is (policy != "frozen")


def test_views_and_one_penalty(data, tmp_path, said):
    recipe = asked(data, "augmentation.policy=light", views=3, penalties=[0.01])
    run = finetune(recipe, name="views", root=tmp_path)
    train, val = (len(load_examples(recipe.data).split(name)) for name in ("train", "val"))
    assert lines_of(said, f"features of {3 * train + val} images: ")
    assert read_json(run.folder / "phases.json")["penalties"] == []
    for none in ("augmentation.policy=none", "augmentation.mixup=0.2"):  # a mixture is no view
        with pytest.raises(RecipeError, match="transfer.views=3 needs an augmentation; set"):
            finetune(asked(data, none, views=3), root=tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(RecipeError, match=r"penalties=\[0.01, 0.0\] must all be in \[1e-12, 1e12\]"):
        asked(data, penalties=[0.01, 0.0])


MLP = {"model": {"name": "mlp"}, "data": {"path": "x"}}


def test_presets_are_recipes_that_can_be_changed(data, tmp_path):
    for name, values in PRESETS.items():
        asked_for = {"model": {"name": "mobilenet_025"}, "data": {"path": "x"}, "transfer": {"preset": name}}
        made = make_recipe(asked_for, defaults=values)
        assert made.training.epochs == values["training"]["epochs"], name
    few, some, many = (preset_values("bit", images=count, stages=5) for count in (640, 30_000, 600_000))
    assert few["training"] == {"epochs": 100, "batch_size": 128}
    assert (few["optimizer"]["milestones"], few["optimizer"]["warmup"]) == ([0.4, 0.6, 0.8], 0.2)
    assert "mixup" not in few["augmentation"]
    assert some["augmentation"]["mixup"] == 0.1
    for values, epochs, per_epoch, milestones in (
        (some, 43, 234, [3000, 6000, 9000]),
        (many, 5, 4687, [6000, 12_000, 18_000]),
    ):
        assert values["training"]["epochs"] == epochs
        assert [in_steps(share, epochs * per_epoch) for share in values["optimizer"]["milestones"]] == milestones
        assert in_steps(values["optimizer"]["warmup"], epochs * per_epoch) == 500
    for count in (129, 200, 2934, 20_001):  # where an epoch's last batch is dropped
        planned = preset_values("bit", images=count, stages=0)
        recipe = make_recipe({**MLP, "transfer": {"preset": "bit"}}, defaults=planned)
        steps, wanted = steps_of(recipe, count, 128), 500 if count < 20_000 else 10_000
        assert wanted <= steps < wanted + count // 128
        assert in_steps(recipe.optimizer.milestones[-1], steps) == (400 if count < 20_000 else 9000)
    short = make_recipe({**MLP, "transfer": {"preset": "bit"}, "training": {"epochs": 1}}, defaults=few)
    check_against(short, 640)  # the whole of it within one epoch
    assert preset_values("bit", images=50, stages=5)["training"] == {"epochs": 500, "batch_size": 50}
    light = [preset_values("light", images=9, stages=stages) for stages in (0, 1, 2, 5)]
    assert [(one["transfer"]["unfreeze"], one["training"]["epochs"]) for one in light] == [
        (0, 8), (0, 8), (1, 24), (1, 24),
    ]  # fmt: skip

    values = asked(data).model_dump(exclude_unset=True)
    values["transfer"] |= {"preset": "light", "unfreeze": 0}
    values["training"] = {"epochs": 1}
    run = finetune(make_recipe(values), name="light", root=tmp_path)
    made = run.recipe
    assert (made.training.epochs, made.transfer.unfreeze, made.transfer.preset) == (1, 0, "light")
    assert (made.training.batch_size, made.augmentation.policy) == (32, "light")


def of_preset(preset, *settings):
    return make_recipe(
        {"model": {"name": "mobilenet_025"}, "data": {"path": "x"}, "transfer": {"preset": preset}}, settings
    )


@pytest.mark.parametrize(
    ("preset", "setting", "reason"),
    [
        ("linear", "training.epochs=2", "training.epochs=2 contradicts transfer.preset='linear', which"),
        ("linear", "training.epochs=15", "training.epochs=15 contradicts"),  # the default without a preset
        ("linear", "transfer.unfreeze=2", "transfer.unfreeze=2 contradicts"),
        ("linear", "transfer.decay=0.5", "transfer.decay=0.5 contradicts"),
        ("linear", "transfer.batch_norm=train", "transfer.batch_norm='train' contradicts"),
        ("linear", "optimizer.learning_rate=0.1", "optimizer.learning_rate=0.1 contradicts"),
        ("linear", "optimizer.name=sgd", "optimizer.name='sgd' contradicts"),
        ("linear", "training.early_stopping=3", "training.early_stopping=3 contradicts"),
        ("linear", "training.label_smoothing=0.1", "training.label_smoothing=0.1 contradicts"),
        ("linear", "augmentation.policy=light", "augmentation needs transfer.views above 1"),
        ("full", "transfer.unfreeze=2", "transfer.unfreeze=2 contradicts transfer.preset='full', which unfreezes"),
        ("bit", "transfer.unfreeze=2", "transfer.unfreeze=2 contradicts transfer.preset='bit', which unfreezes"),
        (
            "bit",
            "transfer.decay=0.4",
            "transfer.decay=0.4 contradicts transfer.preset='bit': the BiT-HyperRule has 1.0",
        ),
        ("bit", "optimizer.name=adamw", "optimizer.name='adamw' contradicts"),
        ("bit", "optimizer.schedule=cosine", "optimizer.schedule='cosine' contradicts"),
        ("light", "optimizer.name=sgd", "has a learning rate for adamw, not for optimizer.name='sgd'; set"),
        ("full", "optimizer.name=lion", "has a learning rate for adamw, not for optimizer.name='lion'; set"),
    ],
)
def test_what_contradicts_a_preset_is_refused_when_the_recipe_is_read(tmp_path, preset, setting, reason):
    key, value = read_setting(setting)
    path = tmp_path / "recipe.toml"
    path.write_text(f'model.name = "mobilenet_025"\ndata.path = "x"\ntransfer.preset = "{preset}"\n')
    for make in (
        lambda: of_preset(preset, setting),
        lambda: Recipe.for_finetuning("mobilenet_025", "x", preset=preset, **{key: value}),
        lambda: Recipe.read(path, **{key: value}),
        lambda: Recipe.read(path).override(key, value),
    ):
        with pytest.raises(RecipeError, match=re.escape(reason)):
            make()


@pytest.mark.parametrize("parts", [{}, {"transfer": {}}, {"transfer": {"unfreeze": 2}, "training": {"epochs": 3}}])
def test_fine_tuning_without_a_preset_takes_a_learning_rate_of_its_own(tmp_path, parts):
    """The default rate is for random weights: pretrained ones come to nothing by it."""
    values = {"model": {"name": "mobilenet_025"}, "data": {"path": "x"}, **parts}
    with pytest.raises(RecipeError, match=r"transfer.preset must be set, or optimizer.learning_rate: 0.01, the rate"):
        finetune(make_recipe(values), root=tmp_path / "runs")  # a recipe for training is refused by finetune
    assert not (tmp_path / "runs").exists()
    for setting in ("optimizer.learning_rate=0.001", "optimizer.learning_rate=0.01", "training.epochs=0"):
        make_recipe({**values, "transfer": {}}, [setting])


@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        ("light", ["training.epochs=20"]),
        ("light", ["training.epochs=0"]),
        ("light", ["transfer.unfreeze=3", "transfer.decay=0.7", "optimizer.learning_rate=0.001"]),
        ("light", ["optimizer.name=sgd", "optimizer.learning_rate=0.01"]),
        ("light", ["augmentation.policy=strong", "transfer.batch_norm=stats"]),
        ("full", ["training.early_stopping=3", "optimizer.schedule=constant"]),
        ("bit", ["training.epochs=3", "optimizer.learning_rate=0.003", "augmentation.mixup=0.1"]),
        ("linear", ["training.epochs=0", "transfer.penalties=[0.1, 0.01]"]),
        ("linear", ["augmentation.policy=light", "transfer.views=3"]),
    ],
)
def test_what_a_preset_can_be_changed_in(preset, settings):
    """And the resolved recipe that a run keeps can be given again, though it has every key."""
    recipe = of_preset(preset, *settings)
    resolved = with_defaults(recipe, preset_values(preset, images=640, stages=5))
    again = make_recipe(tomllib.loads(resolved.to_toml()))
    assert again.model_dump() == resolved.model_dump()


def test_bad_stages_and_taps_are_named(data, tmp_path):
    recipe = asked(data, epochs=1, unfreeze=2)
    with pytest.raises(ModelError, match="transfer.unfreeze=2: bottleneck_cnn has 0 stages to unfreeze"):
        finetune(recipe, root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow  # four MobileNets and a fine-tuning
def test_taps_are_pooled_beside_the_last_stage(shared, tmp_path):
    """MobileNet's own weights: the features are those of the plain network, with the means of two stages before."""
    weights = shared / "weights" / "mobilenet_2_5_224_tf_no_top.h5"
    shape = {"input_shape": (64, 64, 3), "num_classes": 2, "weights": weights}
    taps = ("conv_pw_5_relu", "conv_pw_11_relu")
    plain, tapped = kerazoo.build("mobilenet_025", **shape), kerazoo.build("mobilenet_025", **shape, taps=taps)
    x = np.random.default_rng(0).uniform(-1, 1, (3, 64, 64, 3)).astype(np.float32)
    found = feature_extractor(tapped).predict(x, verbose=0)
    maps = [keras.Model(plain.input, plain.get_layer(tap).output).predict(x, verbose=0) for tap in taps]
    parts = [*(each.mean(axis=(1, 2)) for each in maps), feature_extractor(plain).predict(x, verbose=0)]
    np.testing.assert_allclose(found, np.concatenate(parts, axis=1), atol=1e-5)
    entry = registry.find("mobilenet_025")
    chosen = [layers_to_unfreeze(model, entry, 1) for model in (plain, tapped)]
    known = {layer.name for layer in plain.layers}
    assert all("pooling" in name for name in chosen[0] - chosen[1])  # Keras numbers these
    assert not (chosen[1] - chosen[0]) & known
    with pytest.raises(ModelError, match="'conv_pw_4' must be one of conv_pw_1_relu, conv_pw_3_relu"):
        kerazoo.build("mobilenet_025", **shape, taps=["conv_pw_4"])
    for odd in ("conv_pw_1_relu", ["conv_pw_1_relu", "conv_pw_1_relu"]):
        with pytest.raises(ModelError, match="must be a list of different stages"):
            kerazoo.build("mobilenet_025", **shape, taps=odd)

    images = make_images(tmp_path / "data", size=64)
    recipe = asked(images, "data.size=64", "training.batch_size=4", model="mobilenet_025", weights=weights)
    values = recipe.model_dump(exclude_unset=True)
    values["model"] = {"name": "mobilenet_025", "arguments": {"taps": list(taps)}}
    run = finetune(make_recipe(values), name="run", root=tmp_path)
    assert load_model(run.folder)[1].get_layer("features").output.shape[1] == 64 + 128 + 256


def test_what_the_probe_would_fail_at_is_refused_before_any_work(data, strokes, tmp_path):
    def refusal(recipe):
        with pytest.raises(InputError) as caught:
            finetune(recipe, root=tmp_path / "runs")
        assert not (tmp_path / "runs").exists()
        return str(caught.value)

    few = make_images(tmp_path / "few", count=4)
    for path in sorted((few / "circle").iterdir())[1:]:
        target = few / "val" / "circle" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    (few / "train").mkdir()
    for name in ("circle", "square"):
        (few / name).rename(few / "train" / name)
    one = asked(few, "training.batch_size=2")
    assert re.search("class 'circle' has 1 image to train on, but cross-validation needs at least 2", refusal(one))
    table = tmp_path / "table.csv"
    rows = [f"{path},{number}" for number, path in enumerate(sorted(strokes.glob("*/*.png")))]
    table.write_text("\n".join(["path,target", *rows]))
    balanced = asked(table, "training.balance=weights")
    assert "training.balance='weights' applies only to one class per image, but this data is regression" in refusal(
        balanced
    )


@pytest.mark.parametrize("name", ["adamw", None])
def test_naming_the_default_optimizer_changes_nothing(name):
    values = {"model": {"name": "mlp"}, "data": {"path": "x"}, "optimizer": {} if name is None else {"name": name}}
    assert make_recipe(values, defaults=PRESETS["light"]).optimizer.learning_rate == 2e-3
    values["optimizer"] = {"name": "sgd"}
    assert make_recipe(values, defaults=PRESETS["light"]).optimizer.learning_rate == 0.01


@pytest.mark.parametrize(("preset", "schedule"), [("light", "plateau"), ("full", "step"), ("light", "cosine")])
def test_a_schedule_of_ones_own_takes_nothing_of_the_presets(preset, schedule):
    values = {**MLP, "transfer": {"preset": preset}, "optimizer": {"schedule": schedule}}
    made = make_recipe(values, defaults=preset_values(preset, images=640, stages=5)).optimizer
    assert (made.schedule, made.milestones) == (schedule, [0.5, 0.75] if schedule == "step" else None)
    assert made.warmup == {"plateau": 0, "step": 0, "cosine": 0.1}[schedule]
    assert made.learning_rate == (0.001 if preset == "full" else 2e-3)  # the rest of the preset stays


@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        ("bit", ["optimizer.milestones=[0.3, 0.6]"]),
        ("bit", ["optimizer.factor=0.2"]),
        ("bit", ["optimizer.nesterov=true"]),
        ("full", ["optimizer.schedule=plateau", "optimizer.patience=5"]),
        ("linear", []),
    ],
)
def test_what_is_set_is_judged_beside_the_preset(preset, settings):
    values = {**MLP, "transfer": {"preset": preset}}
    made = make_recipe(values, settings)
    assert (made.training.epochs == 0) == (preset == "linear")
    epochs = 0 if preset == "linear" else 3
    assert make_recipe({**values, "training": {"epochs": epochs}}).training.epochs == epochs
    assert "epochs" not in made.training.model_fields_set  # the data has its say yet
    for bad in ("optimizer.milestones=[0.3]", "optimizer.factor=0.2"):
        with pytest.raises(RecipeError, match="applies only to schedule='step'"):
            make_recipe({**values, "transfer": {"preset": "light"}, "optimizer": {}}, [bad])


def test_names_of_weights_come_before_folders_of_that_name(tmp_path, monkeypatch):
    """A data set of MNIST may well lie in a folder called mnist."""
    monkeypatch.chdir(tmp_path)
    for name in ("mnist", "none", "imagenet"):
        Path(name).mkdir()
    for model, name in (("bottleneck_cnn", "mnist"), ("bottleneck_cnn", "none"), ("mobilenet_025", "imagenet")):
        assert asked(tmp_path, model=model, weights=name).anchored().transfer.weights == name
    for model, path in (("bottleneck_cnn", "./mnist"), ("mobilenet_025", "mnist")):  # what is no name is a path
        assert asked(tmp_path, model=model, weights=path).anchored().transfer.weights == str(tmp_path / "mnist")


@pytest.mark.parametrize("where", [None, 0])
def test_weights_that_are_not_finite_are_refused(data, tmp_path, where):
    """Before anything is written; also where inference would hide them."""
    model = kerazoo.build("bottleneck_cnn")
    weights = [w if where not in (None, i) else np.full_like(w, np.nan) for i, w in enumerate(model.get_weights())]
    model.set_weights(weights)
    feature_extractor(model).save_weights(tmp_path / "nan.weights.h5")
    recipe = asked(data, "data.channels=1", weights=tmp_path / "nan.weights.h5")
    with pytest.raises(WeightsError, match=r"nan.weights.h5 are not finite in .*kernel"):
        finetune(recipe, root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("epochs_before", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_fine_tuning_that_diverges_is_a_stage_that_is_dropped(data, start, tmp_path, epochs_before, said):
    """Not the end of the run. Where an epoch before it was sound, that one is what is judged."""
    recipe = asked(data, "optimizer.learning_rate=1e-4", epochs=3)

    def spoil(self, epoch, logs=None):
        if epoch == epochs_before:
            kernel = next(w for w in self.model.trainable_variables if "logits" in w.path and "kernel" in w.path)
            kernel.assign(np.full(kernel.shape, np.nan))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopOnNaN, "on_epoch_begin", spoil)
        run = finetune(recipe, name="run", root=tmp_path)
    (ended,) = lines_of(said, "fine-tuning ended early: the loss became nan in epoch")
    assert f"in epoch {epochs_before + 1}; lower optimizer.learning_rate (it was 0.0001)" in ended
    tuned = phases_in(run)["fine-tuning"]
    assert np.isfinite(read_json(run.folder / "run.json")["results"]["val_loss"])
    assert ("average" in phases_in(run)) is (epochs_before == 1)
    if not epochs_before:
        assert not tuned["kept"]
        assert tuned["loss"] is None
        assert "is not finite" in tuned["why"]
        weights = [load_model(made.folder)[1].get_weights() for made in (run, start)]
        for a, b in zip(*weights, strict=True):
            np.testing.assert_array_equal(a, b)


def test_random_features_are_normed_by_the_data_before_the_probe(data, tmp_path):
    """What training makes of a batch is then what the probe was learned on, and the first epoch goes on from there."""
    run = finetune(asked(data, epochs=1, weights="none"), name="run", root=tmp_path)
    probe, tuned = phases_in(run)["probe"], phases_in(run)["fine-tuning"]
    assert probe["loss"] < 1
    first = json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] < 2 * probe["loss"] + 0.5
    assert tuned["loss"] < 10


@pytest.mark.slow  # two fine-tunings
def test_in_16_bits_the_probe_is_measured_as_it_is_served(data, tmp_path):
    exact = finetune(asked(data), name="exact", root=tmp_path)
    mixed = asked(data, "training.precision=mixed_bfloat16", epochs=1)
    run = finetune(mixed, name="mixed", root=tmp_path)
    assert phases_in(run)["probe"]["loss"] == phases_in(exact)["probe"]["loss"]


def state_of(folder):
    """All that must come out the same, to the last bit."""
    weights = load_model(folder)[1].get_weights()
    spared = ("seconds", "computed", "line")  # what was in the cache differs
    phases = [{k: v for k, v in s.items() if k not in spared} for s in read_json(folder / "phases.json")["phases"]]
    for stage in phases:
        stage["why"] = "" if stage["name"] == "features" else stage["why"]
    return [w.tobytes() for w in weights], phases, (folder / "history.csv").read_bytes()


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that nothing disturbed."""
    recipe = asked(data, "checkpoint.steps=1", "augmentation.policy=light", epochs=2)
    return finetune(recipe, name="whole", root=tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(
    "when", ["fit", *(pytest.param(when, marks=pytest.mark.slow) for when in ("probe", "average", "finish_run"))]
)
def test_a_stop_in_any_stage_changes_nothing(whole, tmp_path, monkeypatch, when):
    recipe = whole.recipe

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if when == "fit":
            count = [0]

            def late(self, batch, logs=None):
                count[0] += 1
                if count[0] == 8:
                    os.kill(os.getpid(), signal.SIGTERM)

            patch.setattr(keras.callbacks.Callback, "on_train_batch_end", late)
        else:
            module, name = {
                "probe": (head, "learn_probe"), "average": (refinement, "best_average"),
                "finish_run": (transfer, "finish_run"),
            }[when]  # fmt: skip
            patch.setattr(module, name, stop)
            if when == "average":
                keep_all(patch)
        with pytest.raises((KeyboardInterrupt, Interrupted)):
            finetune(recipe, name="cut", root=tmp_path)
    assert read_json(tmp_path / "cut" / "run.json")["status"] == "interrupted"
    run = finetune(recipe, name="cut", root=tmp_path)
    assert state_of(run.folder) == state_of(whole.folder)


@pytest.mark.slow  # two fine-tunings of random weights; test_a_stop_in_any_stage_changes_nothing stops one
def test_random_weights_go_on_where_they_were_stopped(data, tmp_path, monkeypatch):
    """Batch norm's statistics are made anew from the same images, and the run is known as the one that was begun."""
    recipe = asked(data, "checkpoint.steps=1", weights="none", epochs=2)
    whole = finetune(recipe, name="whole", root=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(StopOnNaN, "on_epoch_begin", lambda *args: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            finetune(recipe, name="cut", root=tmp_path)
    run = finetune(recipe, name="cut", root=tmp_path)
    assert state_of(run.folder) == state_of(whole.folder)


def test_an_image_that_vanishes_before_random_features_is_said(strokes, tmp_path):
    copy = shutil.copytree(strokes, tmp_path / "copy")
    recipe = asked(copy, "data.cache=never", weights="none")
    made = plan(recipe, open_devices(recipe.devices))
    shutil.rmtree(copy / "rising")
    with pytest.raises(DataError, match=r"rising/.* in .*copy cannot be read or decoded: .*No such file"):
        transfer.norm_by_data(made.spec.build(), made)


@pytest.mark.slow  # each kill is a process of its own: a minute or two
def test_kills_at_any_moment_change_nothing(data, tmp_path):
    """kill -9, nine times, at moments spread over what is left of the run."""
    base = [sys.executable, "-m", "kerazoo.cli.app", "finetune", str(data), "--backbone", "bottleneck_cnn"]
    base += ["--weights", "mnist", "--epochs", "3", "--set", "data.size=28", "--set", "checkpoint.steps=1"]
    base += ["--set", "transfer.unfreeze=0", "--set", "data.validation=0.25"]
    environment = {**os.environ, "KERAZOO_CACHE": str(tmp_path / "cache")}

    def start(name):
        return subprocess.Popen(
            [*base, "--name", name], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )

    first = start("whole")
    assert first.communicate()[1] is not None
    assert first.returncode == 0
    draw, killed = np.random.default_rng(0), 0
    while True:
        process = start("killed")
        if killed < 9:
            process.stderr.readline()  # it has come as far as its first line
            time.sleep(draw.uniform(0, 4))
            process.kill()
        process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        killed += 1
    assert killed
    assert state_of(tmp_path / "runs" / "killed") == state_of(tmp_path / "runs" / "whole")


@pytest.mark.slow  # three processes of their own, in one of which JAX compiles
def test_replicas_and_jax_give_what_one_device_gives(data, tmp_path):
    """Features and probe to the same numbers, the tuned network but for rounding in its steps."""
    pytest.importorskip("jax")
    command = [sys.executable, "-m", "kerazoo.cli.app", "finetune", str(data), "--backbone", "bottleneck_cnn", "--json"]
    command += ["--weights", "mnist", "--epochs", "2"]
    for setting in ("data.size=28", "data.validation=0.25", "log=[]", "optimizer.learning_rate=0.001"):
        command += ["--set", setting]
    found = []
    for devices, backend in (("cpu", "tensorflow"), ("mirrored:2", "tensorflow"), ("cpu", "jax")):
        environment = {**os.environ, "KERAS_BACKEND": backend, "KERAZOO_CACHE": str(tmp_path / backend)}
        done = subprocess.run(
            [*command, "--devices", devices, "--name", f"{backend}-{devices[-1]}"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found.append({stage["name"]: stage for stage in json.loads(done.stdout)["phases"]})
    ranking = [*command[:3], "rank", str(data), "--backbone", "bottleneck_cnn=mnist", "--devices", "mirrored:2"]
    done = subprocess.run(
        [*ranking, "--json", "--set", "data.size=28"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for other in found[1:]:
        assert other["probe"]["loss"] == pytest.approx(found[0]["probe"]["loss"], rel=1e-4)
        assert other["fine-tuning"]["loss"] == pytest.approx(found[0]["fine-tuning"]["loss"], rel=2e-2)
        assert other["fine-tuning"]["loss"] != other["probe"]["loss"]


@pytest.mark.slow  # 50 networks, many of them large: half an hour
@pytest.mark.parametrize("name", [entry.name for entry in BACKBONES])
def test_every_backbone_goes_through_all_stages(name, tmp_path):
    """Random weights, a handful of images, the last stage unfrozen: what is frozen stays bit-equal."""
    entry = registry.find(name)
    images = make_images(tmp_path / "data", count=6, size=48)
    recipe = asked(
        images, f"data.size={max(entry.smallest, 32)}", epochs=1, model=name, weights="none", unfreeze=1,
        batch_norm="frozen",
    )  # fmt: skip
    recipe = make_recipe(recipe.model_dump(exclude_unset=True), ["training.batch_size=4", "data.cache=never"])
    starts, frozen = [], set()
    fit = transfer.fit

    def weights_of(model):  # by position: some networks number their layers anew each time they are built
        return [[bits(weight) for weight in layer.weights] for layer in model.layers]

    def bits(weight):  # the large networks have gigabytes of them
        return hashlib.sha256(np.array(weight)).hexdigest()

    def assert_frozen(model):
        found = weights_of(model)
        assert any(found[index] for index in frozen)
        for index in frozen:
            assert found[index] == starts[0][index], model.layers[index].name

    def keep(model, *args, **kwargs):
        starts.append(weights_of(model))
        before = {w.path: bits(w) for w in model.trainable_weights}
        history = fit(model, *args, **kwargs)
        chosen = layers_to_unfreeze(model, entry, 1)
        norms = [layer.name for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
        frozen.update(i for i, layer in enumerate(model.layers) if layer.name not in chosen or layer.name in norms)
        assert_frozen(model)
        moved = [w.path for w in model.trainable_weights if bits(w) != before[w.path]]
        assert any(path.startswith("logits") for path in moved)
        assert any(not path.startswith("logits") for path in moved)
        return history

    transfer.fit = keep
    try:
        run = finetune(recipe, name="run", root=tmp_path)
    finally:
        transfer.fit = fit
    phases = {"features", "probe", "fine-tuning", "average", "temperature"}
    if phases_in(run)["fine-tuning"]["loss"] is None:  # random weights may diverge: then there is nothing to average
        phases -= {"average"}
    assert set(phases_in(run)) == phases
    assert_frozen(load_model(run.folder)[1])
    keras.backend.clear_session()


def test_backbones_are_ranked_by_cross_validation(data, tmp_path, monkeypatch, said):
    monkeypatch.chdir(tmp_path)
    recipe = make_recipe(asked(data).model_dump(exclude_unset=True), ["data.channels=1"])
    ranked = rank(recipe, [("mlp", "none"), ("bottleneck_cnn", "mnist")])
    assert sorted(row.backbone for row in ranked) == ["bottleneck_cnn", "mlp"]
    assert ranked[0].cross_validated >= ranked[1].cross_validated
    by_name = {row.backbone: row for row in ranked}
    run = finetune(asked(data, "data.channels=1"), root=tmp_path / "runs")
    assert by_name["bottleneck_cnn"].score == pytest.approx(phases_in(run)["probe"]["score"])
    for row in ranked:
        assert row.milliseconds > 0
        assert row.parameters == registry.find(row.backbone).parameters
        assert len(row.line()) >= len(row.backbone) + 40
        assert json.dumps(row.to_json())
    assert lines_of(said, "mlp: probe: val ")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]  # nothing but features is kept
    with pytest.raises(WeightsError, match="there are no weights 'cifar' for mlp"):
        rank(recipe, [("bottleneck_cnn", "mnist"), ("mlp", "cifar")])
    kerazoo.build("bottleneck_cnn").save_weights(tmp_path / "other.weights.h5")
    said.clear()
    with pytest.raises(WeightsError, match="other.weights.h5 do not fit mlp"):  # before any pass
        rank(recipe, [("bottleneck_cnn", "mnist"), ("mlp", str(tmp_path / "other.weights.h5"))])
    assert not said
    monkeypatch.setenv("KERAZOO_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "empty"))
    with pytest.raises(WeightsError, match="no ImageNet weights are on this machine; fetch some with `kerazoo weights"):
        cached_backbones()
