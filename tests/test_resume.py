"""Exact resume: a training that was cut off and resumed ends with the bits of one that never was."""

import errno
import json
import os
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import keras
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from resume_drill import drill

from kerazoo import files
from kerazoo.callbacks.checkpoints import newest_checkpoint, write_checkpoint
from kerazoo.callbacks.resume import Resume
from kerazoo.callbacks.stopping import StopOnNaN
from kerazoo.errors import Interrupted, RunError
from kerazoo.files import read_json
from kerazoo.pipelines.data.load import load_examples
from kerazoo.pipelines.input.augmentation import Augmentation
from kerazoo.pipelines.input.batches import evaluation_batches, training_batches
from kerazoo.preprocessing.preprocessing import Preprocessing
from kerazoo.recipes.recipe import make_recipe
from kerazoo.runs.begin import started
from kerazoo.runs.locks import run_lock
from kerazoo.runs.run import Run, unfinished
from kerazoo.training.plan import set_seed
from kerazoo.training.train import train

EPOCHS = 4
AUGMENTATION = Augmentation(flip=True, shift=0.1, mixup=0.2)


class Cut(Exception):
    pass


class CutOff(keras.callbacks.Callback):
    """Stands for the kill: `hook` of epoch and batch raises."""

    def __init__(self, hook, epoch, batch=0):
        super().__init__()
        self.hook, self.when, self.epoch = hook, (epoch, batch), -1

    def _look(self, hook, batch=0):
        if hook == self.hook and (self.epoch, batch) == self.when:
            raise Cut

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self._look("epoch_begin")

    def on_train_batch_begin(self, batch, logs=None):
        self._look("train_batch", batch)

    def on_test_batch_begin(self, batch, logs=None):
        self._look("test_batch", batch)

    def on_epoch_end(self, epoch, logs=None):
        self._look("epoch_end")

    def on_train_end(self, logs=None):
        self.epoch = EPOCHS
        self._look("train_end")


class Counted(keras.callbacks.Callback):
    """A user's callback with state of its own."""

    def __init__(self):
        super().__init__()
        self.seen, self.sums = 0, np.zeros(2)

    def on_epoch_end(self, epoch, logs=None):
        self.seen += 1
        self.sums = self.sums + [logs["loss"], logs["val_loss"]]

    def state(self):
        return {"seen": self.seen, "sums": self.sums}

    def restore(self, state):
        self.seen, self.sums = state["seen"], state["sums"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    draw = np.random.default_rng(0)
    labels = np.arange(56) % 2
    pixels = draw.integers(0, 196, (56, 16, 16, 3)) + 60 * labels[:, None, None, None]
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    np.savez(path, x_train=pixels.astype(np.uint8), y_train=labels)
    examples = load_examples(path, validation=0.25)
    preprocessing = Preprocessing(16, 16, scaling="unit")
    return examples, preprocessing


def training(data, folder, *, cut=None, rate=0.01, steps=1, patience=3, min_delta=0.0, **options):
    """One attempt; (model, history, callbacks). Everything that has state is on."""
    examples, preprocessing = data
    set_seed(0)
    batches = training_batches(
        examples.split("train"), preprocessing, batch_size=5, seed=0, augmentation=AUGMENTATION, drop_last=rate is None
    )
    validation = evaluation_batches(examples.split("val"), preprocessing, batch_size=4, one_hot=True)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, strides=2)(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.8)(x))
    x = keras.layers.Dropout(0.3)(keras.layers.Flatten()(x))
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    if rate is None:
        rate = keras.optimizers.schedules.CosineDecay(0.0, 20, warmup_target=0.01, warmup_steps=4)
        plateau = []
    else:
        plateau = [keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, cooldown=1, min_delta=0.05)]
    optimizer = keras.optimizers.AdamW(rate, use_ema=True, ema_momentum=0.9)
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    stop = keras.callbacks.EarlyStopping("val_loss", min_delta, patience, restore_best_weights=True)
    best = keras.callbacks.ModelCheckpoint(str(folder / "best.weights.h5"), save_best_only=True, save_weights_only=True)
    callbacks = [batches.clock(), *plateau, stop, best, Counted()]
    resume = Resume(folder / "states", position=batches.start.assign, steps=steps, **options)
    callbacks = resume.after(callbacks)
    # the cut comes before the others where they would have seen the hook, and is none of them
    callbacks = callbacks if cut is None else [CutOff(*cut), *callbacks]
    with resume.signals():
        history = model.fit(
            batches.dataset, validation_data=validation, epochs=EPOCHS, shuffle=False, verbose=0,
            initial_epoch=resume.initial_epoch(EPOCHS), callbacks=callbacks,
        )  # fmt: skip
    return model, history, callbacks


def everything(model, history, folder):
    """All bits that must be the same."""
    with np.errstate(all="ignore"):
        best = keras.src.saving.saving_lib.H5IOStore(str(folder / "best.weights.h5"), mode="r").h5_file
        found = []
        best.visititems(lambda name, item: found.append(item[()]) if hasattr(item, "dtype") else None)
        best.close()
    state = newest_checkpoint(folder / "states")
    kept = [value for callback in state["callbacks"] if callback for value in callback.values()]
    flat = [np.asarray(x) for value in kept for x in (value if isinstance(value, list) else [value]) if x is not None]
    every = [v.numpy() for v in (*model.variables, *model.optimizer.variables)]
    return [*every, *found, *flat, np.array(list(history.history.values())), np.array(history.epoch)]


def same(one, other):
    return len(one) == len(other) and all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def undisturbed(request, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    rate = None if getattr(request, "param", "plateau") == "cosine" else 0.01
    model, history, _ = training(data, folder, rate=rate)
    assert len(history.epoch) == EPOCHS
    return rate, everything(model, history, folder)


SLOW = pytest.mark.slow  # trainings of several epochs like those beside it


@pytest.mark.parametrize(
    ("undisturbed", "cuts"),
    [
        pytest.param("plateau", [("train_batch", 0, 1)], marks=SLOW),
        pytest.param("plateau", [("train_batch", 1, 3), ("train_batch", 1, 4), ("train_batch", 2, 2)], marks=SLOW),
        pytest.param("plateau", [("test_batch", 1, 1), ("epoch_end", 1)], marks=SLOW),
        pytest.param("plateau", [("train_end", EPOCHS)], marks=SLOW),
        ("cosine", [("epoch_begin", 2), ("train_batch", 2, 0), ("train_batch", 3, 5)]),
    ],
    indirect=["undisturbed"],
)
def test_cut_off_anywhere_it_ends_with_the_same_bits(undisturbed, data, tmp_path, cuts):
    rate, wanted = undisturbed
    for cut in cuts:
        with pytest.raises(Cut):
            training(data, tmp_path, cut=cut, rate=rate)
    model, history, _ = training(data, tmp_path, rate=rate)
    assert same(everything(model, history, tmp_path), wanted)


def test_writing_states_or_not_the_bits_are_the_same(undisturbed, data, tmp_path):
    rate, wanted = undisturbed
    model, history, _ = training(data, tmp_path, rate=rate, steps=None, seconds=1e9)
    assert same(everything(model, history, tmp_path), wanted)


@pytest.mark.slow  # three trainings; test_optimizers.py stops early, too
def test_what_stopped_early_is_not_trained_on(data, tmp_path):
    options = {"patience": 1, "min_delta": 10.0}  # no epoch is so much better
    model, history, _ = training(data, tmp_path / "a", **options)
    assert len(history.epoch) < EPOCHS
    with pytest.raises(Cut):
        training(data, tmp_path / "b", cut=("train_end", EPOCHS), **options)
    other, again, _ = training(data, tmp_path / "b", **options)
    assert again.epoch == history.epoch
    assert same(everything(other, again, tmp_path / "b"), everything(model, history, tmp_path / "a"))


@pytest.mark.slow  # several trainings; test_user_callbacks.py resumes a run with callbacks
def test_a_user_s_callbacks_go_on(data, tmp_path):
    with pytest.raises(Cut):
        training(data, tmp_path, cut=("train_batch", 3, 1))
    _, history, callbacks = training(data, tmp_path)
    [counted] = [callback for callback in callbacks if isinstance(callback, Counted)]
    assert counted.seen == EPOCHS
    np.testing.assert_allclose(counted.sums[0], np.sum(history.history["loss"]), rtol=1e-6)


def test_a_state_of_another_network_is_refused(data, tmp_path):
    with pytest.raises(Cut):
        training(data, tmp_path, cut=("train_batch", 1, 1))
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(), "mse")
    with pytest.raises(RunError, match="another network or optimizer"):
        model.fit(np.zeros((4, 3)), np.zeros((4, 2)), verbose=0, callbacks=[Resume(tmp_path / "states")])


@pytest.mark.parametrize(("cut", "given"), [(("train_batch", 2, 3), 0), (("epoch_end", 2), 1)])
def test_in_anybody_s_fit_no_epoch_and_no_batch_comes_twice(tmp_path, cut, given):
    """Arrays, no `position`, `initial_epoch` forgotten or wrong, folders as text: the same bits as if never cut off."""
    x, y = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32), np.arange(24) % 3

    def fit(folder, cut=None, **where):
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [keras.Input((5,)), keras.layers.Dense(4), keras.layers.Dropout(0.3), keras.layers.Dense(3)]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
        resume = Resume(str(folder), steps=1)
        callbacks = [*([CutOff(*cut)] if cut else []), *resume.after([])]
        history = model.fit(x, y, batch_size=4, epochs=3, shuffle=False, verbose=0, callbacks=callbacks, **where)
        return [v.numpy() for v in model.variables] + [np.array(list(history.history.values())), history.epoch], model

    whole, _ = fit(tmp_path / "whole")
    with pytest.raises(Cut):
        fit(tmp_path / "cut", cut)
    again, model = fit(tmp_path / "cut", initial_epoch=given)
    for one, other in zip(again, whole, strict=True):
        np.testing.assert_array_equal(one, other)
    # a training after that begins as it is told to
    assert model.fit(x, y, epochs=2, verbose=0).epoch == [0, 1]


def test_what_resume_cannot_put_right_it_refuses(tmp_path):
    x = np.zeros((4, 3), np.float32)

    def fit(model, *callbacks, **options):
        model.compile("sgd", "mse")
        callbacks = [*callbacks, Resume(tmp_path, steps=1)]
        model.fit(x, x, batch_size=1, epochs=2, verbose=0, callbacks=callbacks, **options)

    with pytest.raises(Cut):
        fit(keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)]), CutOff("train_batch", 0, 2))
    with pytest.raises(RunError, match=r"goes on from epoch 0, .*begins with 1; give it initial_epoch=0"):
        fit(keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)]), initial_epoch=1)
    with pytest.raises(RunError, match=r"has no weights yet .* build the model, or call it on a batch, before `fit`"):
        fit(keras.Sequential([keras.layers.Dense(3)]))


@pytest.mark.parametrize(
    "harm", ["cut short", *(pytest.param(harm, marks=SLOW) for harm in ("bit", "missing", "empty"))]
)
def test_a_damaged_newest_gives_way_to_the_one_before(undisturbed, data, tmp_path, harm, said):
    rate, wanted = undisturbed
    with pytest.raises(Cut):
        training(data, tmp_path, cut=("train_batch", 2, 3), rate=rate)
    *_, newest = sorted((tmp_path / "states").glob("*.ckpt"))
    contents = newest.read_bytes()
    if harm == "missing":
        newest.unlink()
    else:
        damaged = {
            "cut short": contents[:-7],
            "bit": contents[:-9] + bytes([contents[-9] ^ 4]) + contents[-8:],
            "empty": b"",
        }
        newest.write_bytes(damaged[harm])
    said.clear()
    model, history, _ = training(data, tmp_path, rate=rate)
    assert same(everything(model, history, tmp_path), wanted)
    assert [line for line in said if newest.name in line and "damaged" in line] == said
    # it is out of the way of those to come
    assert len(list((tmp_path / "states").glob("*.damaged"))) == (harm != "missing")
    assert len(said) == (harm != "missing")


def test_no_whole_checkpoint_is_a_beginning(data, tmp_path, said):
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / f"000001-00000002-{'0' * 32}.ckpt").write_bytes(b"nothing")
    said.clear()
    _, history, _ = training(data, tmp_path)
    assert len(history.epoch) == EPOCHS
    assert said[-1] == "no checkpoint is whole: training starts from the beginning"


@pytest.mark.slow  # three trainings; test_full_disk.py fills a disk, too
def test_a_full_disk_costs_no_checkpoint(data, tmp_path, monkeypatch, said):
    """What cannot be written is said, and training goes on to the same end; the last one stays whole."""
    with pytest.raises(Cut):
        training(data, tmp_path, cut=("train_batch", 1, 1))
    kept = sorted((tmp_path / "states").iterdir())

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    said.clear()
    _, history, _ = training(data, tmp_path)
    assert len(history.epoch) == EPOCHS
    assert sorted((tmp_path / "states").iterdir()) == kept
    assert said
    assert all("No space left on device" in line for line in said)
    assert newest_checkpoint(tmp_path / "states")["epoch"] == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system is mounted")
def test_a_full_file_system(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        state = {"values": np.zeros(20_000, np.float32)}
        write_checkpoint(small, 0, 1, state, keep=9)

        def fill():
            for step in range(2, 9):
                write_checkpoint(small, 0, step, state, keep=9)

        with pytest.raises(OSError, match="No space left") as caught:
            fill()
        assert caught.value.errno == errno.ENOSPC
        assert newest_checkpoint(small)["values"].shape == (20_000,)
        assert not list(small.glob("*.tmp"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_checkpoint_gives_back_what_it_was_given(tmp_path):
    import ml_dtypes

    state = {
        "none": None, "text": "a", "nan": float("nan"), "numbers": [1, 2.5, True], "scalar": np.float32(0.1),
        "arrays": {"a": np.arange(6).reshape(2, 3), "b": np.ones(3, ml_dtypes.bfloat16), "c": np.array(7, np.uint32)},
    }  # fmt: skip
    for step in range(4):
        write_checkpoint(tmp_path, 0, step, state, keep=2)
    assert len(list(tmp_path.iterdir())) == 2
    found = newest_checkpoint(tmp_path)
    assert np.isnan(found.pop("nan"))
    for name, array in state["arrays"].items():
        assert (found["arrays"][name].dtype, found["arrays"][name].shape) == (array.dtype, array.shape)
        assert found["arrays"][name].tobytes() == array.tobytes()
    assert found["scalar"] == float(np.float32(0.1))
    assert [found[name] for name in ("none", "text", "numbers")] == [None, "a", [1, 2.5, True]]


SIGNALS = [
    ("train_batch", 1, 2),
    *(pytest.param(when, marks=SLOW) for when in (("test_batch", 1, 0), ("train_batch", 0, 0))),
]


@pytest.mark.parametrize("when", SIGNALS, ids=str)
def test_a_signal_saves_and_leaves(undisturbed, data, tmp_path, when):
    """Also before the first step, in which `fit` would build the optimizer."""
    rate, wanted = undisturbed

    class Asked(CutOff):
        def _look(self, hook, batch=0):
            if hook == self.hook and (self.epoch, batch) == self.when:
                os.kill(os.getpid(), signal.SIGTERM)

    original, globals()["CutOff"] = CutOff, Asked
    try:
        with pytest.raises(Interrupted, match="SIGTERM") as caught:
            training(data, tmp_path, cut=when, rate=rate, steps=None, seconds=1e9)
    finally:
        globals()["CutOff"] = original
    assert caught.value.exit_code == 143
    assert len(list((tmp_path / "states").iterdir())) == 1
    model, history, _ = training(data, tmp_path, rate=rate)
    assert same(everything(model, history, tmp_path), wanted)


@pytest.mark.slow  # each kill costs a start of TensorFlow: two minutes and more for each kind of devices
@pytest.mark.parametrize(("devices", "backend"), [("cpu", "tensorflow"), ("mirrored:2", "tensorflow"), ("cpu", "jax")])
def test_killed_processes_end_with_the_same_bits(tmp_path, monkeypatch, devices, backend):
    """The drill of benchmarks/resume_drill.py, in short: three kills -9 of the real command."""
    pytest.importorskip(backend)
    monkeypatch.setenv("KERAS_BACKEND", backend)
    killed, found = drill(tmp_path, kills=3, devices=devices)
    assert (killed, found) == (3, [])


def recipe_for(data, **training):
    values = {"model": {"name": "mlp"}, "data": {"path": str(data)}, "training": {"batch_size": 8, **training}}
    return make_recipe(values, ["log=[]"])


def interrupted(recipe, root, monkeypatch, **options):
    """A run that was asked to stop in its second epoch."""

    def asked(self, epoch, logs=None):
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(StopOnNaN, "on_epoch_begin", asked)
        with pytest.raises(Interrupted, match="the same command or call goes on") as caught:
            train(recipe, root=root, **options)
    assert caught.value.exit_code == 130


def test_the_same_command_goes_on_with_its_run_and_no_other(arrays, tmp_path, monkeypatch, said):
    root, recipe = tmp_path / "runs", recipe_for(arrays, epochs=3)
    interrupted(recipe, root, monkeypatch)
    assert read_json(root / "mlp-images-1" / "run.json")["status"] == "interrupted"
    other = train(recipe_for(arrays, epochs=1), root=root)
    assert other.name == "mlp-images-2"
    run = train(recipe, root=root)
    assert run.name == "mlp-images-1"
    assert any("goes on from epoch 2, step 0" in line for line in said)
    whole = train(recipe, root=tmp_path / "whole")
    for name in ("history.csv", "evaluation/val.npy"):
        assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert [row["epoch"] for row in map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines())] == [
        1,
        2,
        3,
    ]
    assert train(recipe, root=root).name == "mlp-images-3"  # both are finished


def test_what_an_unfinished_run_was_begun_with_must_be_the_same(images, tmp_path, monkeypatch):
    recipe = recipe_for(images, epochs=2)
    interrupted(recipe, tmp_path / "runs", monkeypatch, name="one")
    options = {"name": "one", "root": tmp_path / "runs"}
    with pytest.raises(RunError, match=r"another recipe \(training.epochs: 2 -> 3\)"):
        train(recipe_for(images, epochs=3), **options)
    with run_lock(tmp_path / "runs" / "one"), pytest.raises(RunError, match="is being trained by another process"):
        train(recipe, **options)
    first = next((images / "circle").iterdir())
    first.rename(first.with_name("renamed.png"))
    first.with_name("renamed.png").write_bytes(next((images / "square").iterdir()).read_bytes())
    with pytest.raises(RunError, match="cannot be resumed: its data was"):
        train(recipe, **options)
    assert train(recipe, overwrite=True, **options).status == "finished"  # other data: a new run in its place
    run = Run(tmp_path / "runs" / "one")
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4]
    (tmp_path / "runs" / "notes").mkdir()
    with pytest.raises(RunError, match="exists but is not a run"):
        train(recipe, overwrite=True, **{**options, "name": "notes"})
    with pytest.raises(RunError, match="is finished"):
        unfinished(run.folder)
    # one that finished while another process was still reading its data
    with (
        pytest.raises(RunError, match="cannot be resumed: it is finished"),
        started(run.folder, run.recipe, load_examples(images)),
    ):
        pytest.fail("it was opened again")
    # a finished run is never in the way of another, nor lost
    before = (run.folder / "run.json").read_bytes()
    with pytest.raises(RunError, match="exists and is finished"):
        train(recipe, **options)
    assert (run.folder / "run.json").read_bytes() == before


def test_a_signal_after_the_last_step_leaves_an_interrupted_run(arrays, tmp_path, monkeypatch):
    recipe = recipe_for(arrays, epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr(
            StopOnNaN, "on_epoch_end", lambda self, epoch, logs=None: epoch and os.kill(os.getpid(), signal.SIGTERM)
        )
        with pytest.raises(Interrupted, match="stopped by SIGTERM after training"):
            train(recipe, root=tmp_path, name="late")
    assert Run(tmp_path / "late").status == "interrupted"
    assert train(recipe, root=tmp_path, name="late").status == "finished"


def test_a_run_that_goes_on_elsewhere_says_so(arrays, tmp_path, monkeypatch, said):
    """Another version, or another count of CPUs, may give other last bits."""
    lines = {}
    for name, versions in (("here", {}), ("elsewhere", {"tensorflow": "2.20.0"})):
        interrupted(recipe_for(arrays, epochs=2), tmp_path, monkeypatch, name=name)
        place = tmp_path / name / "environment.json"
        known = json.loads(place.read_text())
        known["versions"] |= versions
        place.write_text(json.dumps(known))
        said.clear()
        train(recipe_for(arrays, epochs=2), root=tmp_path, name=name)
        lines[name] = list(said)
    assert not [line for line in lines["here"] if "environment has changed" in line]
    told = [line for line in lines["elsewhere"] if line.startswith("the environment has changed (")]
    assert len(told) == 1
    assert f"(tensorflow: 2.20.0 -> {metadata.version('tensorflow')}); results may differ in the last bits" in told[0]


def test_a_batch_size_is_not_changed_on_the_way(arrays, tmp_path, monkeypatch):
    interrupted(recipe_for(arrays, epochs=2), tmp_path, monkeypatch, name="one")
    values = {"model": {"name": "mlp"}, "data": {"path": str(arrays)}, "training": {"epochs": 2}}
    with pytest.raises(RunError, match="training.batch_size: 8 -> 22"):
        train(make_recipe(values, ["log=[]"]), root=tmp_path, name="one")
