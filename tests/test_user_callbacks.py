"""Keras callbacks of the user's in `train` and `finetune`: they are called, resumed, and change no bit."""

import os
import signal

import keras
import numpy as np
import pytest

import kerazoo
from kerazoo.callbacks.stopping import StopOnNaN
from kerazoo.errors import InputError, Interrupted
from kerazoo.models.saved import load_model
from kerazoo.recipes.recipe import make_recipe
from kerazoo.training.train import train
from kerazoo.transfer.finetune import finetune

EPOCHS = 3


class Counted(keras.callbacks.Callback):
    """Counts epochs, and keeps the count in the checkpoints."""

    def __init__(self):
        super().__init__()
        self.epochs, self.losses = 0, []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1
        self.losses.append(logs["val_loss"])

    def state(self):
        return {"epochs": self.epochs}

    def restore(self, state):
        self.epochs = state["epochs"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    draw = np.random.default_rng(0)
    labels = np.arange(40) % 2
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    pixels = draw.integers(0, 196, (40, 28, 28)) + 60 * labels[:, None, None]
    np.savez(path, x_train=pixels.astype(np.uint8), y_train=labels)
    return path


def recipe_for(data, **values):
    return make_recipe(
        {
            "model": {"name": "mlp", "arguments": {"dropout": 0.2}}, "data": {"path": str(data), "validation": 0.25},
            "training": {"epochs": EPOCHS, "batch_size": 8}, "log": [], **values,
        }
    )  # fmt: skip


def weights_in(run):
    return [weights.tobytes() for weights in load_model(run.folder)[1].get_weights()]


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    return train(recipe_for(data), root=tmp_path_factory.mktemp("plain"))


def test_they_are_called_and_change_no_bit(data, plain, tmp_path):
    counted = Counted()
    run = train(recipe_for(data), root=tmp_path, callbacks=[counted])
    assert counted.epochs == len(counted.losses) == EPOCHS
    assert weights_in(run) == weights_in(plain)


@pytest.fixture
def stopped(data, tmp_path, monkeypatch):
    """A run with a user's callback, `tmp_path/run`, stopped in its second epoch."""
    with monkeypatch.context() as patch:
        patch.setattr(
            StopOnNaN, "on_epoch_begin", lambda self, epoch, logs: epoch and os.kill(os.getpid(), signal.SIGTERM)
        )
        with pytest.raises(Interrupted):
            train(recipe_for(data), name="run", root=tmp_path, callbacks=[Counted()])


@pytest.mark.usefixtures("stopped")
def test_they_go_on_with_the_run(data, plain, tmp_path):
    counted = Counted()
    run = train(recipe_for(data), name="run", root=tmp_path, callbacks=[counted])
    assert (counted.epochs, len(counted.losses)) == (EPOCHS, EPOCHS - 1)
    assert weights_in(run) == weights_in(plain)


@pytest.mark.usefixtures("stopped")
def test_a_run_that_goes_on_without_them_says_so(data, tmp_path, said):
    train(recipe_for(data), name="run", root=tmp_path)
    (line,) = [line for line in said if "missing now" in line]
    assert line.endswith("missing now: Counted; to go on with them, stop and pass them again (callbacks=[...])")


def test_what_stops_a_training_is_not_swallowed_as_an_error():
    stop = kerazoo.Interrupted("saved", signal.SIGTERM)
    assert isinstance(stop, KeyboardInterrupt)
    assert not isinstance(stop, Exception)
    assert (str(stop), stop.exit_code) == ("saved", 143)


def test_fine_tuning_calls_them(data, tmp_path):
    counted = Counted()
    transfer = {"weights": "mnist", "penalties": [0.1], "calibrate": False, "average": False}
    training = {"epochs": 1, "batch_size": 8}
    model = {"name": "bottleneck_cnn"}
    optimizer = {"learning_rate": 1e-3}
    recipe = recipe_for(data, model=model, training=training, optimizer=optimizer, transfer=transfer)
    finetune(recipe, root=tmp_path, callbacks=[counted])
    assert counted.epochs == 1


@pytest.mark.parametrize("make", [train, finetune])
def test_what_is_no_callback_is_refused(data, tmp_path, make):
    with pytest.raises(InputError, match="callbacks must be keras.callbacks.Callback objects, got <function"):
        make(recipe_for(data), root=tmp_path, callbacks=[lambda epoch, logs: None])
    assert not list(tmp_path.iterdir())
