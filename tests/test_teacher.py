"""A teacher: its answers for the very pixels that the student sees are the labels, and a resumed run has the same."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from conftest import make_images

import kerazoo
from kerazoo.errors import Interrupted, RecipeError, RunError
from kerazoo.files import read_json
from kerazoo.models.description import Member
from kerazoo.models.saved import DESCRIPTION, load_network
from kerazoo.pipelines.devices.opening import open_devices
from kerazoo.recipes.recipe import make_recipe
from kerazoo.tasks.losses import perfect_loss
from kerazoo.training.fit import make_batches
from kerazoo.training.plan import plan
from kerazoo.training.teacher import load_teacher

WORDS = {"epochs": 3, "batch_size": 4, "size": 12, "seed": 3}
AUGMENTED = {"augmentation.flip": True, "augmentation.shift": 0.2}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    make_images(folder / "photos", count=10, size=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def teacher(here):
    return kerazoo.train("mlp", "photos", **WORDS, name="teacher")


@pytest.fixture(scope="module")
def student(teacher):
    """A run that was never stopped."""
    return taught(teacher, "whole")


def taught(teacher, name, **words):
    settings = {"model.arguments.units": [8], "model.arguments.dropout": 0.2, **AUGMENTED}
    return kerazoo.train("mlp", "photos", **WORDS, name=name, teacher=teacher, settings=settings, **words)


def recipe_of(teacher, **parts):
    values = {
        "model": {"name": "mlp"}, "data": {"path": "photos", "size": 12},
        "training": {"epochs": 1, "batch_size": 4, "teacher": str(teacher.folder)}, "augmentation": {"flip": True},
    }  # fmt: skip
    return make_recipe({**values, **{key: {**values.get(key, {}), **part} for key, part in parts.items()}})


def test_the_labels_are_the_answers_for_the_same_pixels(teacher):
    augmentation = {"flip": True, "shift": 0.2, "mixup": 1.0}
    recipe = recipe_of(teacher, augmentation=augmentation, training={"drop_last": False})
    made = plan(recipe, open_devices("cpu"))
    batches, validation = make_batches(made, open_devices("cpu"))
    spec, network = load_network(teacher.folder)
    clock = batches.clock()
    seen = []
    for epoch in (0, 1):
        clock.on_epoch_begin(epoch)
        labels = []
        for pixels, answers in batches.dataset.as_numpy_iterator():
            wanted = spec.answers(keras.ops.convert_to_tensor(network.predict_on_batch(pixels)))
            np.testing.assert_allclose(answers, wanted, atol=1e-5)
            labels.append(answers)
        assert sum(map(len, labels)) == len(made.examples.split("train"))
        later = [answers for _, answers in batches.at(epoch, 2).as_numpy_iterator()]
        np.testing.assert_array_equal(np.concatenate(later), np.concatenate(labels[2:]))
        batches.start.assign(1)
        first = next(iter(batches.dataset.as_numpy_iterator()))[1]
        batches.start.assign(0)
        np.testing.assert_array_equal(first, labels[1])
        seen.append(np.concatenate(labels))
    assert np.abs(seen[0] - seen[1]).max() > 1e-3
    _, shares = next(iter(validation.as_numpy_iterator()))
    assert set(np.unique(shares)) == {0.0, 1.0}  # validation has the true labels
    assert perfect_loss(made.loss, seen[0], 2) > 0


def test_the_run_records_its_teacher_and_resumes_to_the_same_bits(student, teacher, here):
    recorded = read_json(teacher.folder / DESCRIPTION)["weights_sha256"]
    assert read_json(student.folder / "run.json")["teacher"] == recorded

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 6:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        taught(teacher, "stopped", callbacks=[Stop()])
    unfinished = here / "runs" / "stopped"
    spare = here / "spare"
    shutil.copytree(unfinished, spare)
    same_run(kerazoo.resume(unfinished), student)
    shutil.rmtree(unfinished)
    spare.rename(unfinished)
    state = read_json(unfinished / "run.json")
    (unfinished / "run.json").write_text(json.dumps({**state, "teacher": "another"}))
    with pytest.raises(RunError, match=r"cannot be resumed: its teacher was another and is now "):
        kerazoo.resume(unfinished)


def same_run(one, other):
    weights = [load_network(run.folder)[1].get_weights() for run in (one, other)]
    assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))
    assert one.history == other.history
    assert one.results == other.results


def test_a_student_of_labels_is_another(student, teacher):
    settings = {"model.arguments.units": [8], "model.arguments.dropout": 0.2, **AUGMENTED}
    plain = kerazoo.train("mlp", "photos", **WORDS, name="plain", settings=settings)
    assert plain.history["loss"] != student.history["loss"]
    assert "teacher" not in read_json(plain.folder / "run.json")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"data": {"size": 16}}, r"must be prepared as those of .* which are 16 x 16 x 1 by crop .*got 12"),
        ({"data": {"resize": "pad"}}, r"must be prepared as those of .* which are 12 x 12 x 1 by pad and "),
        ({"data": {"validation": 0.4}}, r"was trained on other data or other splits, so it may have seen images"),
        ({"data": {"path": "others"}}, r"the classes of .*teacher \(circle, square\) must be those of the data .c"),
        ({"training": {"label_smoothing": 0.1}}, r"training.label_smoothing=0.1 cannot be combined with a teacher"),
        ({"training": {"loss": "focal"}}, r"training.loss='focal' cannot be combined with a teacher; use cross_"),
        ({"training": {"epochs": 0}}, r"training.teacher has no effect with epochs=0; remove it, or set epochs"),
        ({"training": {"teacher": "nowhere"}}, r"training.teacher: there is no run nowhere; give a folder"),
    ],
)  # fmt: skip
def test_what_is_no_teacher_for_the_data_is_refused(teacher, here, parts, message):
    if not (here / "others").exists():
        make_images(here / "others", classes=("circle", "triangle"), count=4, size=16)
    with pytest.raises(RecipeError, match=message):
        make_batches(plan(recipe_of(teacher, **parts), open_devices("cpu")), open_devices("cpu"))
    assert not list((here / "runs").glob("mlp-*"))


def test_an_ensemble_or_a_changed_run_is_no_teacher(teacher, here, monkeypatch):
    made = plan(recipe_of(teacher), open_devices("cpu"))
    _, validation = make_batches(made, open_devices("cpu"))
    assert next(iter(validation.as_numpy_iterator()))[1].shape[1:] == (2,)  # shares, as the answers are
    monkeypatch.setattr(
        "kerazoo.models.saved._members", lambda values: (Member(), Member())
    )  # fmt: skip
    with pytest.raises(RecipeError, match=r"is an ensemble, whose networks have seen the images of val; use one"):
        load_teacher(made)
    monkeypatch.undo()
    monkeypatch.chdir(here)
    path = teacher.folder / "evaluation" / "val.json"
    kept = path.read_bytes()
    path.write_bytes(kept + b" ")
    with pytest.raises(RecipeError, match=r"training.teacher: .*val.json was changed after the run finished"):
        load_teacher(made)
    path.write_bytes(kept)


@pytest.mark.slow  # a fine-tuning and its teacher
def test_fine_tuning_has_teachers_too(here):
    words = {"weights": "mnist", "epochs": 1, "batch_size": 4, "size": 20, "settings": {"transfer.penalties": [0.1]}}
    first = kerazoo.finetune("photos", "bottleneck_cnn", name="tuned", **words)
    second = kerazoo.finetune("photos", "bottleneck_cnn", name="taught", teacher=first, **words)
    assert second.history["loss"] != first.history["loss"]
    lines = [[phase["line"].rpartition(";")[0] for phase in run.phases[1:2]] for run in (first, second)]
    assert lines[0] == lines[1]  # the probe is of the labels


@pytest.mark.slow  # processes that are killed until the run is finished
def test_killed_at_any_moment_it_ends_with_the_same_bits(student, here):
    command = [
        sys.executable, "-m", "kerazoo", "train", "mlp", "--data", "photos", "--epochs", "3", "--batch-size", "4",
        "--size", "12", "--seed", "3", "--name", "killed", "--teacher", "teacher", "--set", "model.arguments.units=[8]",
        "--set", "model.arguments.dropout=0.2", "--set", "augmentation.flip=true", "--set", "augmentation.shift=0.2",
        "--set", "log=[]", "--set", "findings=false", "--set", "checkpoint.steps=1",
    ]  # fmt: skip
    checkpoints = here / "runs" / "killed" / "checkpoints"
    for _ in range(2):
        process = subprocess.Popen(command, cwd=here, stderr=subprocess.DEVNULL)
        before = set(checkpoints.glob("*")) if checkpoints.exists() else set()
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            now = set(checkpoints.glob("*")) if checkpoints.exists() else set()
            if len(now - before) >= 2:
                break
            time.sleep(0.005)
        process.kill()
        process.wait()
    subprocess.run(command, cwd=here, check=True, timeout=200, stderr=subprocess.DEVNULL)
    same_run(kerazoo.open_run(here / "runs" / "killed"), student)
