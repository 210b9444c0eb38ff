"""Losses on logits against numpy, at the edges where they could overflow, and with soft and smoothed labels."""

from typing import get_args

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerazoo.errors import ModelError
from kerazoo.recipes.parts import TrainingPart
from kerazoo.tasks.losses import LOSSES, FocalLoss, SmoothedCrossEntropy, perfect_loss
from kerazoo.tasks.task import TASKS, find_task

RNG = np.random.default_rng(0)
Z = RNG.normal(size=(6, 4)).astype(np.float32) * 3
NUMBERS = np.array([0, 1, 2, 3, 1, 0])
ONE_HOT = np.eye(4)[NUMBERS]
SHARES = RNG.dirichlet(np.ones(4), 6).astype(np.float32)
BITS = RNG.integers(0, 2, (6, 4)).astype(np.float32)


def softmax(z):
    e = np.exp(z.astype(np.float64) - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def sigmoid(z):
    return 1 / (1 + np.exp(-z.astype(np.float64)))


def multiclass(t, gamma, smoothing):
    t, p = (1 - smoothing) * t + smoothing / t.shape[-1], softmax(Z)
    return -(t * (1 - p) ** gamma * np.log(p)).sum(axis=-1).mean()


def sigmoids(t, gamma, smoothing, z=Z):
    t, p = (1 - smoothing) * t + smoothing / 2, sigmoid(z)
    return -(t * (1 - p) ** gamma * np.log(p) + (1 - t) * p**gamma * np.log(1 - p)).mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("gamma", [None, 0.0, 0.5, 2.0])
def test_cross_entropies_and_focal_losses_by_their_formulas(gamma, smoothing):
    focal = {} if gamma is None else {"name": "focal", "focal_gamma": gamma}
    made, g = {"label_smoothing": smoothing, **focal}, gamma or 0.0

    def loss(task, y, z=Z, **more):
        return float(find_task(task).make_loss(**made, **more)(y, z))

    assert loss("multiclass", NUMBERS) == pytest.approx(multiclass(ONE_HOT, g, smoothing), rel=1e-5)
    assert loss("multiclass", SHARES, soft=True) == pytest.approx(multiclass(SHARES, g, smoothing), rel=1e-5)
    assert loss("multilabel", BITS) == pytest.approx(sigmoids(BITS, g, smoothing), rel=1e-5)
    one = Z[:, :1]
    assert loss("multilabel", BITS[:, :1], one) == pytest.approx(sigmoids(BITS[:, :1], g, smoothing, one), rel=1e-5)


def test_what_was_asked_for_until_now_is_the_same_keras_loss():
    made = {name: type(task.make_loss()) for name, task in TASKS.items()}
    assert made == {
        "multiclass": keras.losses.SparseCategoricalCrossentropy,
        "multilabel": keras.losses.BinaryCrossentropy, "regression": keras.losses.MeanSquaredError,
    }  # fmt: skip
    assert type(find_task("multiclass").make_loss(soft=True)) is keras.losses.CategoricalCrossentropy


def test_squared_absolute_and_quadratic_cost():
    assert float(find_task("regression").make_loss()(BITS, Z)) == pytest.approx(((BITS - Z) ** 2).mean(), rel=1e-5)
    assert float(find_task("regression").make_loss("mae")(BITS, Z)) == pytest.approx(abs(BITS - Z).mean(), rel=1e-5)
    expected = 0.5 * ((BITS - sigmoid(Z)) ** 2).sum(axis=-1).mean()
    assert float(find_task("multilabel").make_loss("quadratic")(BITS, Z)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("sigmoid", [False, True])
def test_focal_loss_is_finite_wherever_the_logits_are(gamma, sigmoid):
    z = tf.constant([[0.0, 0.0], [20.0, -20.0], [-20.0, 20.0], [1e4, -1e4], [-1e4, 1e4]])
    labels = tf.constant([[1.0, 0.0]] * 5)
    with tf.GradientTape() as tape:
        tape.watch(z)
        loss = FocalLoss(gamma, sigmoid=sigmoid, reduction=None)(labels, z)
    loss_at = loss.numpy()
    gradient = tape.gradient(loss, z).numpy()
    assert np.isfinite(loss_at).all()
    assert np.isfinite(gradient).all()
    assert loss_at[3] == pytest.approx(0, abs=1e-6)
    assert loss_at[4] == pytest.approx(1e4 if sigmoid else 2e4, rel=1e-4)  # the mean of two units, or one class


def test_losses_come_back_from_their_config():
    for loss in (FocalLoss(1.5, sigmoid=True, label_smoothing=0.1), SmoothedCrossEntropy(0.2)):
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
        assert again.get_config() == loss.get_config()


@pytest.mark.parametrize(
    ("task", "asked", "message"),
    [
        ("multiclass", {"name": "quadratic", "label_smoothing": 0.1}, "label_smoothing=0.1 cannot be combined with"),
        ("regression", {"label_smoothing": 0.1}, "label_smoothing=0.1 cannot be combined with loss='mse'"),
        ("multiclass", {"focal_gamma": 2.0}, "focal_gamma=2.0 applies only to loss='focal', not 'cross_entropy'"),
        ("regression", {"name": "focal"}, "loss='focal' cannot be used for a regression task; use mse or mae"),
        ("multiclass", {"name": "perceptron", "soft": True}, "loss='perceptron' does not allow mixed labels"),
    ],
)
def test_what_does_not_go_together_is_refused(task, asked, message):
    with pytest.raises(ModelError, match=message):
        find_task(task).make_loss(**asked)


def test_perfect_answers_cost_the_entropy_of_the_labels():
    def entropy(t):
        return -(t * np.log(t)).sum(axis=-1).mean()

    classes = find_task("multiclass")
    assert perfect_loss(classes.make_loss(), NUMBERS, 4) == pytest.approx(0, abs=1e-6)
    smooth = 0.9 * ONE_HOT + 0.1 / 4
    assert perfect_loss(classes.make_loss(label_smoothing=0.1), NUMBERS, 4) == pytest.approx(entropy(smooth), rel=1e-5)
    assert perfect_loss(classes.make_loss(soft=True), SHARES, 4) == pytest.approx(entropy(SHARES), rel=1e-4)
    bits = find_task("multilabel").make_loss(label_smoothing=0.2)
    expected = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    assert perfect_loss(bits, BITS, 4) == pytest.approx(expected, rel=1e-5)
    assert perfect_loss(find_task("regression").make_loss(), Z, 4) == 0


def test_a_recipe_names_the_losses_that_there_are():
    (names, _) = get_args(TrainingPart.model_fields["loss"].annotation)
    assert set(get_args(names)) == set(LOSSES)
