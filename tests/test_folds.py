"""Folds: equal parts that keep groups whole, a run for each, an interval that holds, and the ensemble of all."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import make_images
from scipy.stats import norm

import kerazoo
from kerazoo.errors import DataError, Interrupted, RecipeError, RunError, WeightsError
from kerazoo.exports.export import export_run, verify_export
from kerazoo.files import read_json
from kerazoo.models.answering import answering_network, trained_networks
from kerazoo.models.description import Member, ModelSpec
from kerazoo.models.saved import DESCRIPTION, load_model, load_network, load_spec, save_model
from kerazoo.pipelines.data.examples import Examples
from kerazoo.pipelines.data.folds import folds_of, with_fold
from kerazoo.preprocessing.preprocessing import Preprocessing
from kerazoo.recipes.recipe import Recipe, make_recipe
from kerazoo.runs.run import Run
from kerazoo.tasks.measures import interval, mean_interval
from kerazoo.tasks.task import find_task

# -- the folds --------------------------------------------------------------------------------------------------------


def table(labels, groups=None, splits="train", task="multiclass", hashes=None):
    labels = np.asarray(labels)
    keys = tuple(f"{number:03d}" for number in range(len(labels)))
    names = tuple("abcdefgh"[: int(labels.max()) + 1]) if labels.ndim == 1 else ("one", "two")
    known = tuple(np.random.default_rng(0).permutation(10**6)[: len(labels)].astype(str)) if hashes is None else hashes
    return Examples(
        "here", keys, labels, np.broadcast_to(splits, len(labels)).copy(), names, task, paths=keys, known_hashes=known,
        groups=None if groups is None else tuple(map(str, groups)),
    )  # fmt: skip


@pytest.mark.parametrize("folds", [2, 5, 7])
def test_each_class_is_spread_evenly_and_each_image_is_in_one_fold(folds):
    labels = np.repeat([0, 1, 2], [40, 23, 7])
    examples = table(labels)
    numbers = folds_of(examples, folds)
    for rows in (labels == 0, labels == 1, labels == 2, labels >= 0):
        counts = np.bincount(numbers[rows], minlength=folds + 1)[1:]
        assert counts.max() - counts.min() <= 1
    seen = [set(with_fold(examples, folds, fold).split("val").keys) for fold in range(1, folds + 1)]
    assert set.union(*seen) == set(examples.keys)
    assert sum(map(len, seen)) == len(examples)
    order = np.random.default_rng(1).permutation(len(labels))
    np.testing.assert_array_equal(folds_of(examples.take(order), folds), numbers[order])


def test_groups_and_copies_stay_in_one_fold_and_test_stays_test():
    labels = np.arange(60) % 3
    groups = np.arange(60) // 6
    numbers = folds_of(table(labels, groups), 5)
    assert all(len(set(numbers[groups == group])) == 1 for group in range(10))
    assert np.bincount(numbers)[1:].tolist() == [12] * 5
    uneven = folds_of(table(np.repeat([0, 1, 1], [4, 3, 2]), np.repeat([0, 1, 2], [4, 3, 2])), 2)
    assert set(uneven[4:]) == {1, 2}  # the smaller class is in both, although one fold is then larger
    copies = tuple(str(number // 2) for number in range(60))
    numbers = folds_of(table(labels, hashes=copies), 5)
    assert (numbers[::2] == numbers[1::2]).all()
    mixed = table(labels, splits=np.tile(["train", "val", "test"], 20))
    folded = with_fold(mixed, 4, 3)
    assert ((folded.splits == "test") == (mixed.splits == "test")).all()
    assert (folded.splits == "val").sum() == 10
    with pytest.raises(DataError, match=r"data.folds=11: here has only 10 images or groups to deal; use fewer folds"):
        folds_of(table(labels, groups), 11)


def test_a_fold_needs_its_folds():
    for data in ({"fold": 2}, {"folds": 3, "fold": 4}):
        with pytest.raises(RecipeError, match=r"fold=\d must be at most folds, got folds="):
            make_recipe({"model": {"name": "mlp"}, "data": {"path": "x", **data}})
    with pytest.raises(RecipeError, match=r"data.folds must be a whole number in \[2, inf\), got 1"):
        make_recipe({"model": {"name": "mlp"}, "data": {"path": "x", "folds": 1}})


def test_what_is_bad_is_refused_before_anything_is_written(tmp_path):
    make_images(tmp_path / "photos", count=4, size=16)
    make_images(tmp_path / "photos", classes=("one",), count=1, size=16)
    words = {"settings": {"data.folds": 2}, "size": 8, "root": tmp_path / "runs"}
    with pytest.raises(DataError, match=r"class 'one' in .* has one image to train on; it needs at least two"):
        kerazoo.train("mlp", tmp_path / "photos", **words)
    (tmp_path / "photos" / "one" / "00.png").unlink()
    (tmp_path / "photos" / "one").rmdir()
    with pytest.raises(
        RecipeError, match=r"training.teacher cannot be combined with data.folds, because a teacher has"
    ):
        kerazoo.train("mlp", tmp_path / "photos", teacher="any", **words)
    words["settings"]["training.batch_size"] = 5
    with pytest.raises(RecipeError, match=r"training.batch_size=5 is larger than the number of training examples, 4"):
        kerazoo.train("mlp", tmp_path / "photos", **words)
    assert not (tmp_path / "runs").exists()


# -- the interval -----------------------------------------------------------------------------------------------------


def covered(count, features, distance, *, group=0, folds=5, draws=400):
    """The shares of draws in which Wilson's interval, and that over groups, hold the mean accuracy of the models.

    Two classes of normal features, and the rule of the nearest mean, whose accuracy is known in closed form. Images of
    a group have their class and most of their features in common.
    """
    draw = np.random.default_rng(0)
    center = np.zeros(features)
    center[0] = distance / 2
    found = []
    for _ in range(draws):
        groups = np.arange(count) // group if group else np.arange(count)
        y = (groups % 2 == 1)[:, None]
        common = draw.normal(size=(groups[-1] + 1, features))[groups] if group else 0.0
        x = np.sqrt(0.5 if group else 1.0) * draw.normal(size=(count, features)) + np.sqrt(0.5) * common
        x += np.where(y, center, -center)
        fold = (draw.permutation(groups[-1] + 1) % folds)[groups]
        right, accuracies = np.empty(count), []
        for one in range(folds):
            train = fold != one
            means = [x[train & (y[:, 0] == label)].mean(axis=0) for label in (False, True)]
            w = means[1] - means[0]
            bias = -w @ (means[0] + means[1]) / 2
            right[~train] = (x[~train] @ w + bias > 0) == y[~train, 0]
            length = np.linalg.norm(w)
            accuracies.append(norm.cdf((w @ center + bias) / length) / 2 + norm.cdf((w @ center - bias) / length) / 2)
        truth = float(np.mean(accuracies))
        ends = interval(float(right.mean()), count), mean_interval(right, tuple(map(str, groups)))
        found.append([low <= truth <= high for low, high in ends])
    return np.mean(found, axis=0)


def test_the_interval_of_out_of_fold_answers_holds_the_mean_accuracy_of_the_models():
    assert covered(200, 5, 2.0).min() >= 0.92
    assert covered(60, 50, 2.0)[0] >= 0.91
    assert covered(200, 100, 1.0)[0] >= 0.87  # models that hardly learn, and differ from fold to fold


def test_images_that_belong_together_make_the_interval_wider():
    of_images, of_groups = covered(300, 5, 2.0, group=10)
    assert of_images < 0.8
    assert of_groups >= 0.9
    values = np.random.default_rng(0).normal(size=50)
    alone = mean_interval(values)
    half = 2.0095752344892093 * values.std(ddof=1) / np.sqrt(50)  # Student's 97.5 % point with 49 degrees of freedom
    np.testing.assert_allclose(alone, (values.mean() - half, values.mean() + half), rtol=1e-7)
    assert mean_interval(values, ("one",) * 50) == (-np.inf, np.inf)


# -- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
def test_the_answers_of_an_ensemble_are_the_means_of_its_members(task, tmp_path):
    arguments = {"input_shape": (8, 8, 3), "num_classes": 3, "units": (16,)}
    warm = task != "regression"
    members = (Member(2.0 if warm else 1.0), Member(), Member(0.5 if warm else 1.0, flip=True))
    spec = ModelSpec("mlp", arguments, Preprocessing(8, 8), ("a", "b", "c"), task, members=members)
    save_model(tmp_path, spec, spec.build())
    assert load_spec(tmp_path) == spec
    x = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype(np.float32) * 3
    _, network = load_network(tmp_path)
    each = []
    for member, (one, flip) in zip(members, trained_networks(spec, network), strict=True):
        logits = one.predict(x, verbose=0)
        if flip:
            logits = (logits + one.predict(x[:, :, ::-1], verbose=0)) / 2
        each.append(keras.ops.convert_to_numpy(find_task(task).answers(logits / member.temperature)))
    found = keras.ops.convert_to_numpy(spec.answers(load_model(tmp_path)[1].predict(x, verbose=0)))
    np.testing.assert_allclose(found, np.mean(each, axis=0), atol=2e-6)
    assert np.ptp(each, axis=0).max() > 0.1
    sure = np.array([[200.0, -200.0, 0.0]], np.float32)  # float32 has no probability as small
    logits = keras.ops.convert_to_numpy(find_task(task).pooled([sure, sure]))
    assert np.isfinite(logits).all()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "members must be a list, got {}"),
        ([1], "members must each have a temperature and a flip, got 1"),
        ([{"temperature": 1.0}], "members must each have a temperature and a flip"),
        ([{"temperature": 0.0, "flip": False}], "temperature must be a number from 0.001 to 1000, got 0.0"),
        ([{"temperature": 1.0, "flip": 1}], "flip must be true or false, got 1"),
        ([{"temperature": 1.0, "flip": False}] * 101, "members must be at most 100, got 101"),
        ([{"temperature": 1.0, "flip": False}] * 99, "arguments describe 309,078 weights of 4 bytes each, but"),
    ],
    ids=range(7),
)
def test_bad_members_are_refused(tmp_path, members, message):
    arguments = {"input_shape": (8, 8, 3), "num_classes": 2, "units": (16,)}
    spec = ModelSpec("mlp", arguments, Preprocessing(8, 8), ("a", "b"))
    save_model(tmp_path, spec, spec.build())
    values = read_json(tmp_path / DESCRIPTION)
    (tmp_path / DESCRIPTION).write_text(json.dumps({**values, "members": members}))
    with pytest.raises(RunError, match=message):
        load_model(tmp_path)


# -- the runs ---------------------------------------------------------------------------------------------------------

WORDS = {"epochs": 1, "batch_size": 8, "size": 20, "seed": 1}
SETTINGS = {"data.test": 0.25, "augmentation.flip": True, "evaluation.flip": "auto"}


def trained(folder, name, **words):
    settings = {"data.folds": 2, **SETTINGS}
    return kerazoo.train("mlp", folder / "photos", name=name, settings=settings, root=folder / "runs", **WORDS, **words)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folds")
    make_images(folder / "photos", count=16, size=24)
    return folder


@pytest.fixture(scope="module")
def ensemble(here):
    return trained(here, "whole")


def folds_in(run):
    return [Run(Path(row["run"])) for row in run.folds]


def test_every_image_is_answered_by_the_network_that_did_not_see_it(ensemble, here):
    members = folds_in(ensemble)
    examples = kerazoo.load_examples(here / "photos", test=0.25)
    keys = [key for key, split in zip(examples.keys, examples.splits, strict=True) if split != "test"]
    found = kerazoo.evaluate(ensemble)
    assert list(found) == ["folds", "test"]
    assert list(found["folds"].keys) == keys
    rows = {}
    for number, member in enumerate(members, 1):
        assert member.recipe.data.fold == number
        answers = np.load(member.folder / "evaluation" / "val.npy")
        seen = load_keys(member, "val")
        assert load_keys(member, "test") == load_keys(ensemble, "test")
        rows |= dict(zip(seen, answers, strict=True))
    np.testing.assert_array_equal(found["folds"].probabilities, [rows[key] for key in keys])
    each = [np.load(member.folder / "evaluation" / "test.npy") for member in members]
    np.testing.assert_allclose(found["test"].probabilities, np.mean(each, axis=0), atol=1e-5)
    assert not [name for name in ensemble.results if name.startswith("val")]
    scores = [row["score"] for row in ensemble.folds]
    assert ensemble.results["folds_accuracy_mean"] == pytest.approx(np.mean(scores))
    assert ensemble.results["folds_accuracy_spread"] == pytest.approx(np.std(scores, ddof=1))
    assert ensemble.results["folds_accuracy"] == found["folds"].accuracy
    assert [row["kept"] for row in ensemble.folds] == [None] * 2
    images = [row["images"] for row in ensemble.folds]
    assert sum(images) == len(keys)
    assert max(images) - min(images) <= 1
    assert isinstance(members[0].recipe, Recipe)


def load_keys(run, split):
    lines = (run.folder / "evaluation" / f"{split}.csv").read_text().splitlines()
    return [line.partition(",")[0] for line in lines[1:]]


def test_an_ensemble_is_asked_like_any_run(ensemble, here):
    spec = load_spec(ensemble.folder)
    assert len(spec.members) == 2
    file = here / "photos" / "circle" / "00.png"
    (prediction,) = kerazoo.predict(ensemble, file)
    x = spec.preprocessing(file.read_bytes()).numpy()[None]
    each = []
    for run in folds_in(ensemble):
        one, network = load_network(run.folder)
        each.append(keras.ops.convert_to_numpy(one.answers(answering_network(one, network).predict(x, verbose=0))))
    wanted = dict(zip(spec.class_names, np.mean(each, axis=0)[0].tolist(), strict=True))
    assert dict(prediction.top) == pytest.approx(wanted, abs=1e-5)
    with pytest.raises(WeightsError, match=r"has the weights of 2 networks; use one of its folds"):
        kerazoo.build("mlp", input_shape=(20, 20, 3), weights=str(ensemble.folder))
    csv = ensemble.folder / "evaluation" / "folds.csv"
    kept = csv.read_bytes()
    csv.write_text("changed")
    with pytest.raises(RunError, match=r"folds.csv was changed after the run finished"):
        kerazoo.evaluate(ensemble)
    csv.write_bytes(kept)


@pytest.mark.slow  # an export in four formats, each tried in a process of its own
def test_an_ensemble_passes_the_gate_in_every_format(ensemble, tmp_path):
    folder = export_run(ensemble, formats=("onnx", "onnx-int8", "litert", "litert-dynamic"), root=tmp_path)
    passport = read_json(folder / "assets.extra" / "passport.json")
    assert len(passport["members"]) == 2
    assert passport["metrics"]["folds_accuracy"] == ensemble.results["folds_accuracy"]
    assert not [name for name in passport["metrics"] if name.startswith("val")]
    verify_export(folder, ensemble)
    with pytest.raises(kerazoo.KerazooError):
        verify_export(folder, folds_in(ensemble)[0])


class Stop(keras.callbacks.Callback):
    """Asks for a stop in the second fold."""

    fits = 0

    def on_train_begin(self, logs=None):
        self.fits += 1

    def on_train_batch_end(self, batch, logs=None):
        if self.fits == 2:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow  # two more trainings; the test below kills one
def test_a_stopped_ensemble_goes_on_with_the_fold_that_was_stopped(ensemble, here):
    with pytest.raises(Interrupted):
        trained(here, "stopped", callbacks=[Stop()])
    first = here / "runs" / "stopped" / "folds" / "1"
    written = (first / "run.json").stat().st_mtime_ns
    assert Run(first.parent / "2").status == "interrupted"
    run = kerazoo.resume(here / "runs" / "stopped")
    assert (first / "run.json").stat().st_mtime_ns == written
    same_ensemble(run, ensemble)


def same_ensemble(one, other):
    for pair in zip((one, *folds_in(one)), (other, *folds_in(other)), strict=True):
        weights = [load_network(run.folder)[1].get_weights() for run in pair]
        assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))
        assert pair[0].results == pair[1].results
    for split in ("folds", "val", "test"):
        answers = [np.load(run.folder / "evaluation" / f"{split}.npy") for run in (one, other)]
        np.testing.assert_array_equal(*answers)


@pytest.mark.slow  # nine fine-tunings, some in processes of their own
def test_a_killed_ensemble_ends_with_the_same_bits(here):
    """kill -9 in the third fold; the command line gives what the library gives."""
    settings = {"transfer.penalties": [0.1], **SETTINGS}
    whole = kerazoo.finetune(
        here / "photos", "bottleneck_cnn", weights="mnist", folds=3, name="tuned", settings=settings,
        root=here / "runs", **WORDS,
    )  # fmt: skip
    computed = [phase["computed"] for run in folds_in(whole) for phase in run.phases if phase["name"] == "features"]
    assert computed == [sum(row["images"] for row in whole.folds), 0, 0]  # the others were in the cache
    words = [f"--set={key}={json.dumps(value)}" for key, value in settings.items()]
    command = [
        sys.executable, "-m", "kerazoo", "finetune", "photos", "--backbone", "bottleneck_cnn", "--weights", "mnist",
        "--epochs", "1", "--batch-size", "8", "--size", "20", "--seed", "1", "--folds", "3", "--name", "killed",
        "--set", "log=[]", "--set", "findings=false", *words,
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=here, stderr=subprocess.PIPE, text=True)
    third = here / "runs" / "killed" / "folds" / "3"
    deadline = time.monotonic() + 240
    while not third.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert Run(third).status == "running"
    stamps = [(third.parent / fold / "run.json").stat().st_mtime_ns for fold in "12"]
    again = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True, timeout=240)
    assert again.stderr.count("is finished") == 2
    assert [(third.parent / fold / "run.json").stat().st_mtime_ns for fold in "12"] == stamps
    same_ensemble(kerazoo.open_run(here / "runs" / "killed"), whole)
