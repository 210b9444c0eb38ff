"""A full disk: a run ends with one true line and exit code 1, and the same command goes on once there is room."""

import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager

import h5py
import keras
import numpy as np
import pytest
from conftest import as_arrays, make_images

from kerazoo.callbacks.metrics import MetricsWriter
from kerazoo.callbacks.resume import Resume
from kerazoo.callbacks.stopping import StopOnNaN
from kerazoo.callbacks.writers.folder import FolderWriter
from kerazoo.callbacks.writers.tensorboard import TensorBoardWriter
from kerazoo.callbacks.writers.writer import GuardedWriter
from kerazoo.errors import KerazooError, WeightsError
from kerazoo.files import read_json
from kerazoo.models.description import ModelSpec
from kerazoo.models.saved import save_model
from kerazoo.models.weights.weights_file import copy_of
from kerazoo.preprocessing.preprocessing import Preprocessing
from kerazoo.recipes.recipe import make_recipe
from kerazoo.runs import run as runs
from kerazoo.training import train as training

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a small file system is mounted")


@contextmanager
def mounted(folder, size):
    """A file system of `size` in `folder`; skips where none can be mounted."""
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True
    ).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small(tmp_path):
    with mounted(tmp_path / "small", "1m") as folder:
        yield folder


def fill(folder, leave=0):
    """Take all room of `folder` but `leave` bytes (in pages of 4 kB); the file that takes it."""
    ballast = folder / "ballast"
    free = os.statvfs(folder)
    ballast.write_bytes(bytes(max(0, free.f_bavail * free.f_bsize - leave)))
    return ballast


def line(rate=0.1, **options):
    """A `fit` of three epochs."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(rate), "mse")
    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    model.fit(x, x[:, :1], batch_size=8, epochs=3, verbose=0, **options)
    return model


def test_watchers_say_once_that_they_stopped(small, said):
    fill(small)
    writer = GuardedWriter([FolderWriter(small), TensorBoardWriter(small / "tensorboard")])
    for step in range(1, 6):
        writer.scalar("norm", 1.0, step)
        writer.image("maps", np.zeros((8, 8), np.uint8), step)
    GuardedWriter(writer).flush()  # as another logger does
    writer.finish()
    assert [text.partition(" ")[0] for text in sorted(said)] == ["FolderWriter", "TensorBoardWriter"]
    assert all(str(small) in text and "No space left on device" in text for text in said)


def test_the_history_is_written_once_there_is_room(small, said):
    writer = MetricsWriter(small, 32)
    room = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: fill(small) if epoch == 0 else (small / "ballast").unlink(missing_ok=True)
    )
    line(callbacks=[room, writer])
    assert len(said) == 1
    assert "No space left on device; training goes on and tries again" in said[0]
    assert [row["epoch"] for row in writer.rows] == [1, 2, 3]
    assert len((small / "metrics.jsonl").read_text().splitlines()) == 3
    assert len((small / "history.csv").read_text().splitlines()) == 4


def test_no_checkpoint_is_promised_that_is_not_there(small, said):
    fill(small)
    resume = Resume(small / "states", steps=1)
    line(callbacks=[resume], initial_epoch=resume.initial_epoch(3))
    assert said
    assert all("No space left" in text and "there is no checkpoint yet" in text for text in said)


def test_a_model_is_written_whole_or_not_at_all(small):
    """HDF5 cannot close a file on a full disk: the interpreter ended by SIGSEGV as it left."""
    model = line()
    spec = ModelSpec("mlp", {}, Preprocessing(8, 8, scaling="unit"), ("a", "b"))
    fill(small, leave=4096)
    with pytest.raises(OSError, match="No space left") as caught:
        save_model(small, spec, model)
    assert caught.value.filename == str(small / "model.weights.h5")
    assert [path.name for path in small.iterdir()] == ["ballast"]
    (small / "ballast").unlink()
    digest = save_model(small, spec, model)
    assert read_json(small / "model.json")["weights_sha256"] == digest
    other = line(rate=0.2)
    other.load_weights(small / "model.weights.h5")
    assert all(np.array_equal(a, b) for a, b in zip(other.get_weights(), model.get_weights(), strict=True))


def test_a_copy_of_weights_that_found_no_room_is_no_damaged_file(small, tmp_path, monkeypatch):
    """A compressed file takes less room than its copy."""
    path = tmp_path / "zeros.weights.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("layers/dense/vars/0", data=np.zeros((1000, 1000), np.float32), compression="gzip")
    monkeypatch.setattr(tempfile, "tempdir", str(small))
    with pytest.raises(WeightsError, match="free some disk space, or set TMPDIR"), copy_of(path, 10**6):
        pass


RECIPE = {"model": {"name": "bottleneck_cnn"}, "training": {"epochs": 2, "batch_size": 8}}
RESULTS = ("history.csv", "evaluation/val.npy", "evaluation/val.csv")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return as_arrays(make_images(tmp_path_factory.mktemp("data") / "shapes", count=8, size=16))


@pytest.fixture(scope="module")
def recipe(data):
    return make_recipe({**RECIPE, "data": {"path": str(data)}}, ["checkpoint.steps=1", "data.size=16"])


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """What a run on a disk with room gives."""
    run = training.train(recipe, name="whole", root=tmp_path_factory.mktemp("whole"))
    return [(run.folder / name).read_bytes() for name in RESULTS]


def goes_on(recipe, root, whole):
    """Make room, give the same command again, and compare."""
    (root.parent / "ballast").unlink(missing_ok=True)
    run = training.train(recipe, name="one", root=root)
    assert [(run.folder / name).read_bytes() for name in RESULTS] == whole
    assert not list(root.rglob("*.tmp"))
    assert [path.name for path in root.iterdir()] == ["one"]


SLOW = pytest.mark.slow  # each is a training and a half


@pytest.mark.parametrize(
    "when",
    [
        "second epoch", pytest.param("evaluation", marks=SLOW), pytest.param("begin", marks=SLOW),
        pytest.param("model", marks=SLOW),
        pytest.param("end", marks=SLOW),
    ],
)  # fmt: skip
def test_a_run_on_a_full_disk_goes_on_once_there_is_room(recipe, whole, small, monkeypatch, when, said):
    where = {
        "second epoch": (StopOnNaN, "on_epoch_begin"),
        "model": (training, "save_model"),
        "evaluation": (training, "evaluate_model"),
        "end": (runs.Run, "set_status"),
    }

    def filled(*arguments, **options):
        if when != "second epoch" or arguments[1] == 1:
            fill(small)
        return usual(*arguments, **options)

    with monkeypatch.context() as patch:
        if when == "begin":
            fill(small)
        else:
            usual = getattr(*where[when])
            patch.setattr(*where[when], filled)
        with pytest.raises(KerazooError, match="cannot be written: No space left on device; free some") as caught:
            training.train(recipe, name="one", root=small / "runs")
    assert caught.value.exit_code == 1
    ends = {"begin": "starts again", "second epoch": "epoch 2, step 0"}
    assert str(caught.value).endswith(ends.get(when, "epoch 3, step 0"))
    goes_on(recipe, small / "runs", whole)


@pytest.mark.slow  # a training and a half for each of 40 sizes
@pytest.mark.parametrize("pages", range(0, 160, 4))
def test_whatever_room_there_was_the_same_command_goes_on(recipe, whole, small, pages):
    fill(small, leave=pages * 4096)
    ended = None
    try:
        training.train(recipe, name="one", root=small / "runs")
    except KerazooError as error:
        ended = error
    if ended is None:
        pytest.skip("it had room enough")
    assert ended.exit_code == 1
    assert "No space left on device; free some disk space and run the same command again" in str(ended)
    goes_on(recipe, small / "runs", whole)


@pytest.mark.slow  # a command of its own: TensorFlow starts twice
def test_the_command_ends_with_one_line_and_exit_code_1(data, small):
    """The interpreter was ended by SIGSEGV."""
    command = [sys.executable, "-m", "kerazoo", "train", "bottleneck_cnn", "--data", str(data), "--epochs", "1"]
    command += ["--name", "one", "--set", "data.size=16"]
    fill(small, leave=40 * 1024)
    first = subprocess.run(command, cwd=small, capture_output=True, text=True)
    assert first.returncode == 1
    assert "Traceback" not in first.stderr
    assert first.stderr.splitlines()[-1].startswith("kerazoo: ")
    assert "No space left on device; free some disk space and run the same command again" in first.stderr
    (small / "ballast").unlink()
    again = subprocess.run(command, cwd=small, capture_output=True, text=True, check=True)
    assert again.stdout.startswith("runs/one is finished")
