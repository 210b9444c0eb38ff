"""A full disk: a run ends with one true line and exit code 1, and the same command goes on once there is room."""

import os
import subprocess
from contextlib import contextmanager

import keras
import numpy as np
import pytest

from kerazoo.callbacks import MetricsWriter, Resume, RunWriter
from kerazoo.files import read_json
from kerazoo.models.preprocessing import Preprocessing
from kerazoo.models.stored import ModelSpec, save_model

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


def test_watchers_say_once_that_they_stopped(small):
    fill(small)
    said = []
    with RunWriter(small, say=said.append) as writer:
        for step in range(1, 400):
            writer.scalar("norm", 1.0, step)
            writer.image("maps", np.zeros((8, 8), np.uint8), step)
    assert {text.split(" cannot be written any more")[0] for text in said} <= {
        str(small / what) for what in ("watch.jsonl", "tensorboard", "feature_maps")
    }
    assert len(said) == len(set(said)) >= 2
    assert all("No space left on device; training goes on without it" in text for text in said[:2])


def test_the_history_is_written_once_there_is_room(small):
    said = []
    writer = MetricsWriter(small, 32, say=said.append)
    room = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: fill(small) if epoch == 1 else (small / "ballast").unlink(missing_ok=True)
    )
    line(callbacks=[room, writer])
    assert len(said) == 1
    assert "No space left on device; training goes on and tries again" in said[0]
    assert [row["epoch"] for row in writer.rows] == [1, 2, 3]
    assert len((small / "metrics.jsonl").read_text().splitlines()) == 3
    assert len((small / "history.csv").read_text().splitlines()) == 4


def test_no_checkpoint_is_promised_that_is_not_there(small):
    fill(small)
    said = []
    resume = Resume(small / "states", steps=1, say=said.append)
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
