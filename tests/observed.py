"""Observers observe: a training with callbacks ends with the bits of one without, in every mode that Keras trains in.

A network with dropout and batch norm. `check_observed` runs in this process; `check_observed_apart` in one of its own,
which the modes need that choose the backend or the devices.
"""

import importlib
import os
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import keras
import numpy as np
import pytest

MODES = {
    "graph": {},
    "eager": {"run_eagerly": True},
    "XLA": {"jit_compile": True},
    "mirrored": {},
    "several steps": {"steps_per_execution": 3},
    "accumulated": {},
    "bfloat16": {},
    "float16": {},
    "clipped": {},
    "averaged": {},
    "several optimizers": {},
    "frozen": {},
    "subclassed": {},
    "unbuilt": {},
    "nested": {},
    "draws": {},
}
OPTIMIZERS = {
    "accumulated": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
    "clipped": lambda: keras.optimizers.Adam(0.01, global_clipnorm=0.5),
    "averaged": lambda: keras.optimizers.Adam(0.01, use_ema=True),
    "several optimizers": lambda: keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(keras.optimizers.Adam(0.01), {".*logits.*": keras.optimizers.SGD(0.1)})
    ),
}


@keras.saving.register_keras_serializable(package="tests")
class Draws(keras.layers.Layer):
    """Draws numbers, counts and adds a loss in each call, also in inference mode."""

    def build(self, shape):
        self.seeds = keras.random.SeedGenerator(4)
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x):
        self.calls.assign_add(1.0)
        self.add_loss(0.01 * keras.ops.mean(x))
        return x + 0.1 * keras.random.normal(keras.ops.shape(x), seed=self.seeds)


class Own(keras.Model):
    """Layers in a row, with a `call` of its own; not built."""

    def __init__(self, parts):
        super().__init__(name="own")
        self.parts = parts

    def call(self, x, training=False):
        for layer in self.parts:
            x = layer(x, training=training) if "norm" in layer.name or "drop" in layer.name else layer(x)
        return x


def network(mode):
    layers = [
        keras.layers.Conv2D(4, 3, activation="relu", name="conv"),
        keras.layers.BatchNormalization(synchronized=mode == "mirrored", name="norm"),
        keras.layers.Conv2D(5, 3, strides=2, use_bias=False, name="conv_2"),
        keras.layers.BatchNormalization(synchronized=mode == "mirrored", name="norm_2"),
        *([Draws(name="draws")] if mode == "draws" else []),
        keras.layers.ReLU(name="relu"),
        keras.layers.Flatten(name="flat"),
        keras.layers.Dropout(0.3, seed=1),
        keras.layers.Dense(3, name="logits", dtype="float32"),
    ]
    if mode in ("subclassed", "unbuilt"):
        model = Own(layers)
        if mode == "subclassed":
            model(np.zeros((1, 10, 10, 1), "float32"))
        return model
    if mode == "nested":
        layers[:4] = [keras.Sequential([keras.Input((10, 10, 1)), *layers[:4]], name="inner")]
    model = keras.Sequential([keras.Input((10, 10, 1)), *layers])
    if mode == "frozen":
        model.get_layer("conv_2").trainable = False
    return model


def train(mode, callbacks):
    import tensorflow as tf

    keras.backend.clear_session()  # names of layers begin anew
    keras.utils.set_random_seed(3)
    keras.config.set_dtype_policy({"bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}.get(mode, "float32"))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 10, 10, 1)).astype("float32")
    y = rng.integers(0, 3, 40)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]) if mode == "mirrored" else None
    with strategy.scope() if strategy else nullcontext():
        model = network(mode)
        model.compile(
            OPTIMIZERS.get(mode, lambda: keras.optimizers.Adam(0.01))(),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            **MODES[mode],
        )
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8, drop_remainder=True)
    history = model.fit(data, validation_data=data, epochs=2, shuffle=False, verbose=0, callbacks=callbacks(model, x))
    keras.config.set_dtype_policy("float32")
    variables = [np.array(keras.ops.convert_to_numpy(v)) for v in (*model.variables, *model.optimizer.variables)]
    return variables, history.history, model


def in_process(*usual):
    """The modes that need no process of their own, for `parametrize`; all but the `usual` ones are slow."""
    return [
        mode if mode in usual else pytest.param(mode, marks=pytest.mark.slow) for mode in MODES if mode != "mirrored"
    ]


@contextmanager
def without_determinism():
    """Inside, operations need not be deterministic, which other tests of this process ask for: Keras does not compile
    such a step, and it may not hold a clock."""
    config = importlib.import_module("tensorflow.python.framework.config")
    before = config.is_op_determinism_enabled()
    config.disable_op_determinism()
    try:
        yield
    finally:
        if before:
            config.enable_op_determinism()


def check_observed(mode, callbacks):
    """The same weights, optimizer state and losses with the callbacks that `callbacks(model, x)` gives, and without."""
    with without_determinism():
        watched, watched_history, _ = train(mode, callbacks)
        plain, history, _ = train(mode, lambda model, x: [])
    assert watched_history == history
    assert len(plain) == len(watched)
    for one, other in zip(watched, plain, strict=True):
        np.testing.assert_array_equal(one, other)


def check_observed_apart(modes, callbacks, *, backend="tensorflow"):
    """`check_observed` for each of `modes` in one process; `callbacks` is the source of a function (model, x) -> list,
    with imports before it, called `callbacks`."""
    source = f"""
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from observed import check_observed
{callbacks}
for mode in {list(modes)!r}:
    check_observed(mode, callbacks)
    print("same:", mode)
"""
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1"}
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("same:") == len(modes)
