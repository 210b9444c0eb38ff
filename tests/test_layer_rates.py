"""A learning rate for each layer, and what comes after fine-tuning, by closed forms."""

import keras
import numpy as np
import pytest

import kerazoo
from kerazoo.models import registry
from kerazoo.recipes.parts import OptimizerPart
from kerazoo.training.layer_rates import rates_of
from kerazoo.training.optimizers import make_optimizer
from kerazoo.transfer.batch_norm import reestimate


def test_rates_fall_from_head_to_stem():
    entry = registry.find("mobilenet_025")
    model = kerazoo.build("mobilenet_025", input_shape=(32, 32, 3), num_classes=2)
    factors = rates_of(model, entry, 0.5)
    assert len(factors) == len(model.trainable_variables)
    expected = {
        "logits/kernel": 1, "conv_pw_13/kernel": 0.5, "conv_dw_12/kernel": 0.5, "conv_pw_11/kernel": 0.25,
        "conv_dw_6/kernel": 0.25, "conv_pw_5/kernel": 0.125, "conv_pw_3/kernel": 0.5**4, "conv_pw_1/kernel": 0.5**5,
        "conv1/kernel": 0.5**5,
    }  # fmt: skip
    assert {name: factors[name] for name in expected} == expected
    small = kerazoo.build("bottleneck_cnn")
    assert set(rates_of(small, registry.find("bottleneck_cnn"), 0.5).values()) == {1, 0.5}
    for layer in model.layers:
        layer.trainable = layer.name == "logits"
    assert set(rates_of(model, entry, 0.5)) == {"logits/kernel", "logits/bias"}


def dense_model():
    inputs = keras.Input((3,))
    return keras.Model(inputs, keras.layers.Dense(2, name="top")(keras.layers.Dense(4, name="bottom")(inputs)))


def step(part, factors):
    """The weights before, the gradients, and the weights after one step."""
    keras.utils.set_random_seed(0)
    model = dense_model()
    optimizer = make_optimizer(part, steps=10, factors=factors)
    before = [np.array(v) for v in model.trainable_variables]
    gradients = [np.full(v.shape, 0.5 + i, np.float32) for i, v in enumerate(before)]
    optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], model.trainable_variables)
    return model, before, gradients, [np.array(v) for v in model.trainable_variables]


def test_a_step_is_the_rate_times_the_factor_and_so_is_the_decay():
    part = OptimizerPart(
        name="sgd", learning_rate=0.1, momentum=0.0, nesterov=False, weight_decay=0.2, schedule="constant"
    )
    model, before, gradients, after = step(part, {"bottom/kernel": 0.25, "bottom/bias": 0.25})
    for variable, old, gradient, new in zip(model.trainable_variables, before, gradients, after, strict=True):
        rate = 0.1 * (0.25 if variable.path.startswith("bottom") else 1)
        decay = 0.2 if variable.path.endswith("kernel") else 0
        np.testing.assert_allclose(new, old - rate * decay * old - rate * gradient, rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw", "adam", "lion", "lamb"])
def test_factors_of_one_change_nothing(name):
    part = OptimizerPart(name=name, learning_rate=0.01)
    *_, plain = step(part, None)
    *_, factored = step(part, {})
    for a, b in zip(plain, factored, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_the_optimizer_is_made_again_from_its_config():
    part = OptimizerPart(name="adamw", learning_rate=0.01, weight_decay=0.1)
    made = make_optimizer(part, steps=10, factors={"bottom/kernel": 0.25})
    again = type(made).from_config(made.get_config())
    assert (again.factors, again.decay, again.spared) == (made.factors, made.decay, made.spared)
    assert made.decay == 0.1
    assert not made.weight_decay


# -- afterwards ---------------------------------------------------------------------------------------------------


def test_batch_norm_is_estimated_anew():
    inputs = keras.Input((3,))
    x = keras.layers.Dropout(0.5, seed=1, name="drop")(inputs)
    x = keras.layers.BatchNormalization(momentum=0.99, name="norm")(inputs)
    frozen = keras.layers.BatchNormalization(name="frozen", trainable=False)(x)
    model = keras.Model(inputs, [frozen, keras.layers.Dropout(0.5, seed=1)(frozen)])
    draw = np.random.default_rng(0)
    batches = [(draw.normal(3, 2, size=(16, 3)).astype(np.float32),) for _ in range(5)]
    norm, kept = model.get_layer("norm"), model.get_layer("frozen")
    others = [v for v in model.variables if v is not norm.moving_mean and v is not norm.moving_variance]
    before = [np.array(v) for v in others]
    reestimate(model, batches)
    np.testing.assert_allclose(norm.moving_mean, np.mean([b.mean(axis=0) for (b,) in batches], axis=0), rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, np.mean([b.var(axis=0) for (b,) in batches], axis=0), rtol=1e-5)
    for variable, value in zip(others, before, strict=True):  # the frozen norm and the seeds of dropout, too
        np.testing.assert_array_equal(variable, value)
    assert (norm.momentum, kept.momentum) == (0.99, 0.99)
