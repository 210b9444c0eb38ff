"""The rate finder and the one-batch trial: exact losses, honest verdicts, and a model left bit for bit as it was."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerazoo.errors import RecipeError
from kerazoo.recipes.parts import OptimizerPart
from kerazoo.tasks.task import find_task
from kerazoo.training.optimizers import make_optimizer
from kerazoo.training.overfit import overfit_one_batch
from kerazoo.training.rate_finder import find_rate, fresh_optimizer, smooth, valley

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 6)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0)


def network(task="multiclass", units=3, dropout=0.5, loss=None, optimizer=None, **more):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(32, kernel_regularizer=keras.regularizers.L2(1e-3), name="hidden")(inputs)
    x = keras.layers.BatchNormalization(momentum=0.5, name="bn")(x)
    x = keras.layers.Activation("relu")(x)
    x = keras.layers.Dropout(dropout, seed=1)(x)
    model = keras.Model(inputs, keras.layers.Dense(units, name="logits")(x))
    optimizer = optimizer or make_optimizer(OptimizerPart(name="adamw", weight_decay=0.01), steps=30)
    model.compile(optimizer=optimizer, loss=find_task(task).make_loss(loss, **more), metrics=[])
    return model


def batches(labels=Y, size=8, weights=None):
    parts = (X, labels) if weights is None else (X, labels, weights)
    return tf.data.Dataset.from_tensor_slices(parts).batch(size)


def state(model):
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    generators = [layer.seed_generator.state for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in [*variables, *generators]]


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_both_leave_the_model_bit_for_bit_as_it_was(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = network()
    finally:
        keras.config.set_dtype_policy("float32")
    model.fit(batches(), epochs=1, verbose=0, shuffle=False)
    rate, dropout = model.optimizer.learning_rate, model.layers[4].rate
    before = state(model)
    find_rate(model, batches(), steps=20)
    overfit_one_batch(model, next(iter(batches())), learning_rate=0.01, steps=5)
    after = state(model)
    assert len(before) == len(after) > 20
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    assert float(rate) == float(model.optimizer.learning_rate)
    assert model.layers[4].rate == dropout == 0.5
    # and it trains on as if nothing had been
    model.fit(batches(), epochs=1, verbose=0, shuffle=False)


def test_a_model_is_put_back_also_where_a_trial_fails():
    model = network()
    before = state(model)
    broken = batches().take(2).concatenate(tf.data.Dataset.from_tensors((X[:, :5], Y)))
    with pytest.raises(Exception, match="incompatible"):
        find_rate(model, broken, steps=20)
    for one, other in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("weights", [None, np.linspace(0.5, 1.5, 48).astype(np.float32)])
def test_losses_are_those_of_each_batch_exactly(weights):
    """A linear model under plain SGD, by hand: the loss of a step is that of its own batch before the update."""
    optimizer = make_optimizer(OptimizerPart(name="sgd", momentum=0, weight_decay=0, schedule="constant"), steps=1)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile(optimizer=optimizer, loss=keras.losses.MeanSquaredError())
    labels = X @ np.arange(6, dtype=np.float32)[:, None]
    found = find_rate(model, batches(labels, weights=weights), lowest=1e-4, highest=1e-1, steps=16)
    weight, expected = np.zeros((6, 1)), []
    for step, rate in enumerate(found.rates):
        rows = slice(step % 6 * 8, step % 6 * 8 + 8)
        error = X[rows] @ weight - labels[rows]
        share = 1 if weights is None else weights[rows, None]
        expected.append((share * error**2).mean())
        weight -= rate * 2 * X[rows].T @ (share * error) / 8
    np.testing.assert_allclose(found.losses, expected, rtol=1e-4)
    np.testing.assert_allclose(found.rates, 1e-4 * 1000 ** (np.arange(16) / 15))
    assert found.smoothed.tolist() == smooth(found.losses.tolist())


def test_it_stops_where_the_loss_runs_away_and_suggests_a_rate_that_learns():
    found = find_rate(network(dropout=0.0), batches(), steps=100)
    assert len(found.rates) < 100
    assert found.smoothed[-1] > 4 * found.smoothed.min() or not np.isfinite(found.losses[-1])
    assert 1e-5 < found.suggestion < 1
    assert found.line().startswith(f"learning rate {found.suggestion:.1e} (")
    losses = []
    for rate in (found.suggestion / 1000, found.suggestion):
        model = network(dropout=0.0, optimizer=keras.optimizers.AdamW(rate))
        losses.append(model.fit(batches(), epochs=10, verbose=0, shuffle=False).history["loss"][-1])
    assert losses[1] < 0.8 * losses[0]


def test_the_valley_is_half_way_down_the_longest_fall():
    rates = np.logspace(-7, 0, 40)
    falling = np.r_[np.full(10, 2.0) + np.arange(10) * 1e-3, np.linspace(1.9, 0.5, 20), np.linspace(0.6, 9, 10)]
    assert valley(rates, falling) == rates[(9 + 29) // 2]
    assert valley(rates, np.linspace(1, 9, 40)) is None
    assert valley(rates[:6], np.full(6, np.nan)) is None


def test_smoothing_accounts_for_its_start():
    assert smooth([2.0, 2.0, 2.0]) == pytest.approx([2.0] * 3)
    assert smooth([1.0, 3.0])[1] == pytest.approx((0.98 * 0.02 * 1 + 0.02 * 3) / (1 - 0.98**2))


def test_a_fresh_optimizer_has_the_settings_and_spares_what_the_old_one_spared():
    made = make_optimizer(OptimizerPart(name="sgd", weight_decay=0.5, clip_norm=1.0, accumulate=3), steps=9)
    fresh = fresh_optimizer(made)
    assert (type(fresh), fresh.weight_decay, fresh.global_clipnorm) == (keras.optimizers.SGD, 0.5, 1.0)
    assert fresh.gradient_accumulation_steps is None
    assert not fresh._use_weight_decay(keras.Variable([1.0], name="bias"))
    assert fresh._use_weight_decay(keras.Variable([1.0], name="kernel"))


@pytest.mark.parametrize("weights", [None, np.linspace(0.5, 1.5, 48).astype(np.float32)])
def test_one_batch_is_learned_by_heart_in_spite_of_dropout(weights):
    found = overfit_one_batch(network(), next(iter(batches(weights=weights))), learning_rate=0.03)
    assert found.passed
    assert found.losses[-1] < found.enough == pytest.approx(0.01, abs=1e-4)
    assert found.line().startswith("learned by heart: the loss of one batch went from ")


def test_one_batch_without_a_pattern_to_tell_apart_is_not_learned():
    same = (np.ones((8, 6), np.float32), np.arange(8) % 3)  # the same image of three classes
    found = overfit_one_batch(network(), same, learning_rate=0.03, steps=50)
    assert not found.passed
    assert found.line().startswith("NOT learned by heart: the loss of one batch went from ")
    assert "check labels, scaling, loss and learning rate" in found.line()


@pytest.mark.parametrize(
    ("task", "labels", "more"),
    [
        ("multiclass", Y, {"label_smoothing": 0.1}),
        ("multiclass", RNG.dirichlet(np.ones(3), 48).astype(np.float32), {"soft": True}),
        ("multilabel", RNG.integers(0, 2, (48, 3)).astype(np.float32), {"label_smoothing": 0.1}),
    ],
)
def test_smoothed_and_mixed_labels_are_learned_down_to_their_entropy(task, labels, more):
    found = overfit_one_batch(network(task, **more), next(iter(batches(labels))), learning_rate=0.02, steps=400)
    assert found.perfect > 0.1
    assert found.passed
    assert found.losses.min() >= found.perfect - 1e-4
    assert "its labels allow no less than" in found.line()


def test_numbers_are_learned_by_their_own_measure():
    labels = 100 * X[:, :1] + 500
    model = network("regression", units=1)
    found = overfit_one_batch(model, next(iter(batches(labels))), learning_rate=1.0, steps=400)
    assert found.enough == pytest.approx(0.01 * labels[:8].var(), rel=1e-4)
    assert found.passed


@pytest.mark.parametrize("asked", [{"lowest": 0.0}, {"lowest": 1.0, "highest": 0.1}, {"steps": 9}])
def test_a_range_that_is_none_is_refused(asked):
    with pytest.raises(RecipeError, match="must have 0 < lowest < highest, with at least 10 steps"):
        find_rate(network(), batches(), **asked)


def test_no_batches_are_refused():
    with pytest.raises(RecipeError, match="there are no training batches"):
        find_rate(network(), batches().take(0), steps=10)
