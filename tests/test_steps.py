"""A periodic logger records once after every period, with the true step, over epochs, fits and resumes."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import Memory

from kerazoo.callbacks.resume import Resume
from kerazoo.callbacks.steps import PeriodicLogger
from kerazoo.training.plan import set_seed


class Keep(PeriodicLogger):
    """(step, finished epochs, the weight then) of each record."""

    def __init__(self, every, writer=None):
        super().__init__(Memory() if writer is None else writer, every)
        self.kept = []

    def record(self, step):
        self.kept.append((step, self.epoch, float(self.model.trainable_variables[0].numpy().item())))


class Cut(keras.callbacks.Callback):
    """Ends a training after `batch` batches of `epoch`, as a kill would."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.at, self.epoch = (epoch, batch), -1

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            raise KeyboardInterrupt


def line(**options):
    """w = 1, and each step of SGD takes 0.1 off it."""
    ones = keras.initializers.Ones()
    model = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer=ones, name="line")]
    )
    model.compile(keras.optimizers.SGD(0.1, **options.pop("optimizer", {})), lambda y, z: z, **options)
    return model


def fit(model, *callbacks, epochs=3, steps=4):
    x = np.ones((steps, 1), np.float32)
    return model.fit(x, x, batch_size=1, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks))


def steps(logger):
    return [step for step, _, _ in logger.kept]


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (1, list(range(1, 13))),
        (3, [3, 6, 9, 12]),
        (5, [5, 10]),
        ("8 steps", [8]),
        (13, []),
        ("epoch", [4, 8, 12]),
        ("2 epochs", [8]),
    ],
)
def test_it_records_after_each_period_what_the_weights_are_then(every, expected):
    fit(line(), logger := Keep(every))
    assert logger.kept == [(step, step // 4, pytest.approx(1 - 0.1 * step, abs=1e-5)) for step in expected]


@pytest.mark.parametrize(
    ("every", "expected"), [(1, [2, 4, 5, 7, 9, 10]), (3, [4, 7, 9]), (5, [5, 10]), ("epoch", [5, 10])]
)
def test_several_steps_in_one_execution_have_the_number_of_the_last(every, expected):
    fit(line(steps_per_execution=2), logger := Keep(every), epochs=2, steps=5)
    assert [(step, weight) for step, _, weight in logger.kept] == [
        (step, pytest.approx(1 - 0.1 * step, abs=1e-5)) for step in expected
    ]


def test_training_that_is_stopped_within_an_epoch_records_its_last_step():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    fit(line(), logger := Keep(1), Stop())
    assert steps(logger) == [1, 2]


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}])
def test_a_second_fit_goes_on_counting(options):
    model = line(optimizer=options)
    fit(model, logger := Keep("epoch"), epochs=1)
    fit(model, logger, other := Keep("epoch"), epochs=1)
    assert (steps(logger), steps(other)) == ([4, 8], [8])


def test_an_optimizer_that_scales_the_loss_is_counted_by():
    model = line()
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)), lambda y, z: z)
    fit(model, epochs=1)
    fit(model, logger := Keep(2), epochs=1)
    assert steps(logger) == [6, 8]


@pytest.mark.parametrize("every", [1, 3, "epoch"])
@pytest.mark.parametrize("cut", [(1, 1), (1, 3), (2, 0)])
def test_a_training_that_is_killed_and_resumed_records_each_step_once(tmp_path, every, cut):
    """The checkpoint is older than the kill: what was written between the two comes again, after a rewind."""
    set_seed(0)
    fit(line(), whole := Keep(every))
    resume = Resume(tmp_path, steps=3, seconds=0)
    with pytest.raises(KeyboardInterrupt):
        fit(line(), *resume.after([first := Keep(every)]), Cut(*cut))
    resume = Resume(tmp_path, steps=3, seconds=0)
    fit(line(), *resume.after([second := Keep(every)]))
    [(step, epoch)] = second.writer.writers[0].rewound
    assert (epoch, step - 4 * epoch) == {(1, 1): (1, 0), (1, 3): (1, 2), (2, 0): (2, 0)}[cut]
    left = [row for row in first.kept if row[0] <= step]
    assert [*left, *second.kept] == [(n, e, pytest.approx(w)) for n, e, w in whole.kept]


JAX = """
from test_steps import *
syncs, sync = [], keras.Model.jax_state_sync

def counted(model):
    if not model._jax_state_synced:
        syncs.append(model)
    sync(model)

keras.Model.jax_state_sync = counted
fit(line(), logger := Keep(3), epochs=2)
print(keras.config.backend(), [(step, round(weight, 5)) for step, _, weight in logger.kept], len(syncs))
"""


@pytest.mark.slow  # a process of its own with JAX
def test_on_jax_the_weights_are_brought_back_for_a_record_only():
    """Twice within an epoch, and by `fit` at the end of each."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", JAX], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.stdout.strip() == "jax [(3, 0.7), (6, 0.4)] 4", done.stderr[-2000:]
