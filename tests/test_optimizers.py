"""Schedules and updates by their closed forms, and what must not be decayed, clipped or averaged wrongly."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerazoo.callbacks.stopping import EarlyStopping
from kerazoo.models.build import build
from kerazoo.recipes.parts import OptimizerPart
from kerazoo.recipes.recipe import make_recipe
from kerazoo.training.optimizers import control_callbacks, make_optimizer
from kerazoo.training.schedules import make_rate

NAMES = ("sgd", "adam", "adamw", "lamb", "lion")


def part(**values):
    return OptimizerPart(**values)


def rates(schedule, steps):
    return np.array([float(schedule(step)) for step in steps])


# -- schedules ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warmup", [0.1, 0])
def test_the_default_is_keras_cosine_bit_for_bit(warmup):
    made = make_rate(part(learning_rate=0.2, warmup=warmup), steps=1000)
    warm = round(warmup * 1000)
    keras_own = keras.optimizers.schedules.CosineDecay(
        0.0 if warm else 0.2, 1000 - warm, warmup_target=0.2 if warm else None, warmup_steps=warm
    )
    np.testing.assert_array_equal(rates(made, range(0, 1001, 7)), rates(keras_own, range(0, 1001, 7)))
    x = np.arange(0, 1001, 7)
    expected = 0.1 * (1 + np.cos(np.pi * np.clip((x - warm) / (1000 - warm), 0, 1)))
    expected = np.where(x < warm, 0.2 * x / max(warm, 1), expected)
    np.testing.assert_allclose(rates(made, x), expected, atol=1e-7)


def test_left_out_the_warm_up_is_that_of_the_schedule():
    assert [part(schedule=s).warmup for s in ("cosine", "one_cycle", "step", "constant", "plateau")] == [
        0.05, 0.25, 0, 0, 0,
    ]  # fmt: skip


def test_step_by_its_closed_form():
    made = make_rate(part(learning_rate=0.4, schedule="step", milestones=[0.5, 0.75], factor=0.2), steps=8)
    np.testing.assert_allclose(rates(made, range(8)), [0.4] * 4 + [0.08] * 2 + [0.016] * 2, rtol=1e-6)
    in_steps = make_rate(part(learning_rate=0.4, schedule="step", milestones=[4, 6], factor=0.2), steps=8)
    np.testing.assert_array_equal(rates(made, range(8)), rates(in_steps, range(8)))
    warm = make_rate(part(learning_rate=0.4, schedule="step", milestones=[4], warmup=2), steps=8)
    np.testing.assert_allclose(rates(warm, range(6)), [0, 0.2, 0.4, 0.4, 0.04, 0.04], rtol=1e-6)


def test_one_cycle_by_its_closed_form():
    made = make_rate(part(learning_rate=1.0, schedule="one_cycle", warmup=0.25), steps=100)
    x = np.arange(101)
    up = 0.04 + 0.96 * (1 - np.cos(np.pi * x / 25)) / 2
    down = 1e-5 + (1 - 1e-5) * (1 + np.cos(np.pi * (x - 25) / 75)) / 2
    np.testing.assert_allclose(rates(made, x), np.where(x < 25, up, down), atol=1e-6)
    assert rates(made, [0, 25, 100]) == pytest.approx([1 / 25, 1.0, 1e-5], rel=1e-2)


def test_constant_and_plateau_are_a_number_that_can_be_moved():
    assert make_rate(part(learning_rate=0.3, schedule="constant"), steps=10) == 0.3
    assert make_rate(part(learning_rate=0.3, schedule="plateau"), steps=10) == 0.3
    made = make_rate(part(learning_rate=0.3, schedule="constant", warmup=0.2), steps=10)
    np.testing.assert_allclose(rates(made, [0, 1, 2, 9]), [0, 0.15, 0.3, 0.3], rtol=1e-6)


@pytest.mark.parametrize("schedule", ["cosine", "step", "one_cycle"])
def test_schedules_are_functions_of_the_step_in_a_graph_and_come_back_from_their_config(schedule):
    made = make_rate(part(schedule=schedule, learning_rate=0.7, warmup=0.1), steps=50)
    packed = keras.saving.serialize_keras_object(made)
    again = keras.saving.deserialize_keras_object(packed)
    in_graph = tf.function(lambda step: again(step))
    for step in (0, 3, 5, 25, 49):
        assert float(in_graph(tf.constant(step, tf.int64))) == pytest.approx(float(made(step)), rel=1e-6)


def test_the_rate_is_planned_in_batches_also_where_they_are_accumulated():
    seen = []
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    optimizer = make_optimizer(
        part(name="sgd", momentum=0, weight_decay=0, schedule="step", milestones=[4], accumulate=2), steps=8
    )
    model.compile(optimizer=optimizer, loss="mse")
    for _ in range(8):
        seen.append(float(optimizer.learning_rate))
        model.train_on_batch(np.ones((1, 1)), np.zeros((1, 1)))
    assert seen == pytest.approx([0.01] * 4 + [0.001] * 4)
    assert int(optimizer.iterations) == 4


# -- updates ------------------------------------------------------------------------------------------------------


def every_kind():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.DepthwiseConv2D(3, name="beta_depthwise")(inputs)
    x = keras.layers.SeparableConv2D(4, 3, name="unbiased")(x)
    x = keras.layers.BatchNormalization(name="bn")(x)
    x = keras.layers.PReLU(name="prelu")(x)
    x = keras.layers.LayerNormalization(name="ln")(x)
    x = keras.layers.Reshape((-1, 4))(x)
    x = keras.layers.GRU(3, name="gamma_gru")(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))


@pytest.mark.parametrize("name", NAMES)
def test_decay_is_rate_times_decay_of_kernels_and_nothing_else(name):
    """With gradients of zero, only the decay moves anything."""
    model = every_kind()
    for variable in model.trainable_variables:
        variable.assign(np.full(variable.shape, 2.0))
    decay = {} if name == "adam" else {"weight_decay": 0.5}
    optimizer = make_optimizer(part(name=name, learning_rate=0.1, schedule="constant", **decay), steps=1)
    optimizer.build(model.trainable_variables)
    optimizer.apply([np.zeros(v.shape, np.float32) for v in model.trainable_variables], model.trainable_variables)
    kept = {"bias", "gamma", "beta", "alpha"}
    names = {variable.path.split("/")[-1] for variable in model.trainable_variables}
    assert names == kept | {"kernel", "depthwise_kernel", "pointwise_kernel", "recurrent_kernel"}
    for variable in model.trainable_variables:
        still = name == "adam" or variable.path.split("/")[-1] in kept
        np.testing.assert_allclose(variable.numpy(), 2.0 if still else 2.0 * (1 - 0.1 * 0.5), rtol=1e-6)


def test_the_scales_of_convnext_are_not_decayed():
    inputs = keras.Input((2, 2, 3))
    from keras.src.applications.convnext import LayerScale

    layer = LayerScale(1.0, 3, name="scaled")
    model = keras.Model(inputs, layer(inputs))
    optimizer = make_optimizer(part(name="sgd", weight_decay=0.5, schedule="constant"), steps=1)
    assert not optimizer._use_weight_decay(model.trainable_variables[0].value)
    assert not optimizer._use_weight_decay(model.trainable_variables[0])  # as other backends ask


@pytest.mark.parametrize("name", NAMES)
def test_each_optimizer_learns(name):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(1)])
    x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    model.compile(optimizer=make_optimizer(part(name=name, learning_rate=0.02), steps=80), loss="mse")
    losses = model.fit(x, x.sum(axis=1, keepdims=True), batch_size=16, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]


def steps_of(optimizer, count):
    """The weight after each of `count` steps of gradient 1, from 0."""
    weight = keras.Variable([0.0], name="kernel")
    optimizer.build([weight])
    found = []
    for _ in range(count):
        optimizer.apply([np.ones(1, np.float32)], [weight])
        found.append(float(weight.numpy()[0]))
    return found


def test_momentum_and_nesterov_by_hand():
    def sgd(**values):
        made = part(name="sgd", learning_rate=0.1, schedule="constant", weight_decay=0, **values)
        return make_optimizer(made, steps=9)

    assert steps_of(sgd(momentum=0), 3) == pytest.approx([-0.1, -0.2, -0.3])
    assert steps_of(sgd(momentum=0.5, nesterov=False), 3) == pytest.approx([-0.1, -0.25, -0.425])
    assert steps_of(sgd(momentum=0.5), 2) == pytest.approx([-0.15, -0.325])  # 0.5 v - 0.1: v = -0.1, -0.15


def test_decoupled_decay_stands_for_l2_over_one_less_momentum():
    """What recipes/zoo/resnet20.toml says of the paper's 1e-4: both shrink a weight without gradient alike."""
    rate, strength, momentum, steps = 0.1, 0.001, 0.9, 1000
    weight, velocity = 1.0, 0.0
    for _ in range(steps):
        velocity = momentum * velocity - rate * strength * weight
        weight += velocity
    made = part(name="sgd", learning_rate=rate, momentum=momentum, nesterov=False, schedule="constant",
                weight_decay=strength / (1 - momentum))  # fmt: skip
    variable = keras.Variable([1.0], name="kernel")
    optimizer = make_optimizer(made, steps=steps)
    optimizer.build([variable])
    for _ in range(steps):
        optimizer.apply([np.zeros(1, np.float32)], [variable])
    assert math.log(float(variable.numpy()[0])) == pytest.approx(math.log(weight), rel=0.05)


def linear(optimizer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(optimizer=optimizer, loss="mse")
    return model


@pytest.mark.parametrize("name", NAMES)
def test_accumulated_batches_are_one_large_batch(name):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 4)).astype(np.float32), rng.normal(size=(32, 3)).astype(np.float32)
    found = []
    for size, accumulate in ((16, 1), (4, 4)):
        made = part(name=name, learning_rate=0.01, schedule="constant", accumulate=accumulate)
        model = linear(make_optimizer(made, steps=32 // size * 3))
        model.fit(x, y, batch_size=size, epochs=3, shuffle=False, verbose=0)
        found.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    np.testing.assert_allclose(*found, rtol=1e-4, atol=2e-6)


def test_clipping_bounds_all_gradients_together_or_each_number():
    gradients = [np.array([3.0, 0.0], np.float32), np.array([4.0], np.float32)]  # together of norm 5

    def moved(**clip):
        weights = [keras.Variable([0.0, 0.0], name="kernel"), keras.Variable([0.0], name="bias")]
        made = part(name="sgd", learning_rate=1.0, momentum=0, weight_decay=0, schedule="constant", **clip)
        optimizer = make_optimizer(made, steps=1)
        optimizer.build(weights)
        optimizer.apply([tf.constant(g) for g in gradients], weights)
        return -np.concatenate([w.numpy() for w in weights])

    assert moved() == pytest.approx([3, 0, 4])
    assert moved(clip_norm=1.0) == pytest.approx([0.6, 0, 0.8])
    assert moved(clip_norm=10.0) == pytest.approx([3, 0, 4])
    assert moved(clip_value=3.5) == pytest.approx([3, 0, 3.5])


# -- averages, plateaus, early stopping ---------------------------------------------------------------------------


class Weights(keras.callbacks.Callback):
    """The weights after every batch and every epoch."""

    def __init__(self):
        super().__init__()
        self.batches, self.epochs = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append([w.copy() for w in self.model.get_weights()])

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(self.batches[-1])


def data():
    rng = np.random.default_rng(1)
    return rng.normal(size=(24, 4)).astype(np.float32), rng.normal(size=(24, 3)).astype(np.float32)


def averages_of(batches, momentum):
    average = batches[0]
    for weights in batches[1:]:
        average = [momentum * a + (1 - momentum) * w for a, w in zip(average, weights, strict=True)]
    return average


def test_fit_ends_with_the_averages():
    x, y = data()
    watch = Weights()
    model = linear(make_optimizer(part(name="adamw", ema=0.8), steps=12))
    model.fit(x, y, batch_size=8, epochs=4, verbose=0, callbacks=[watch])
    for found, expected in zip(model.get_weights(), averages_of(watch.batches, 0.8), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


class Say(keras.callbacks.Callback):
    """Tells the callbacks after it a val_loss made up beforehand."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = self.values[epoch]


@pytest.mark.parametrize("ema", [None, 0.8])
def test_early_stopping_brings_the_best_epoch_back_averaged_where_weights_are(ema):
    x, y = data()
    watch = Weights()
    model = linear(make_optimizer(part(name="adamw", ema=ema), steps=60))
    say = Say([3.0, 1.0, 2.0, 2.0, 0.5])
    history = model.fit(x, y, batch_size=8, epochs=20, verbose=0, callbacks=[say, EarlyStopping(2), watch]).history
    assert len(history["loss"]) == 4
    expected = watch.epochs[1] if ema is None else averages_of(watch.batches[:6], ema)
    for found, right in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)


def recipe(*settings):
    return make_recipe({"model": {"name": "mlp"}, "data": {"path": "x"}}, settings)


def test_a_plateau_lowers_the_rate():
    made = recipe("optimizer.schedule=plateau", "optimizer.patience=2", "optimizer.factor=0.5")
    x, y = data()
    model = linear(make_optimizer(made.optimizer, steps=1))
    say = Say([1.0, 2.0, 2.0, 2.0, 2.0, 0.5])
    history = model.fit(x, y, epochs=6, verbose=0, callbacks=[say, *control_callbacks(made.optimizer, None)]).history
    assert history["learning_rate"] == pytest.approx([0.01, 0.01, 0.01, 0.005, 0.005, 0.0025])
    assert control_callbacks(recipe().optimizer, None) == []
    assert [type(c) for c in control_callbacks(recipe().optimizer, 3)] == [EarlyStopping]


# -- mixed precision ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "recurrent", "bottleneck_cnn", "resnet20"])
def test_logits_and_features_are_full_precision(name, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = build(name)
    finally:
        keras.config.set_dtype_policy(before)
    assert model.layers[1].compute_dtype == policy.removeprefix("mixed_")
    for layer in ("features", "logits"):
        assert model.get_layer(layer).output.dtype == "float32"
    assert {variable.dtype for variable in model.weights} == {"float32"}
