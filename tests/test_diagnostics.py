"""Planted faults of a training on real digits are found and named; healthy ones have no finding above "note"."""

import json
import tarfile
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_images
from observed import check_observed, check_observed_apart, in_process, without_determinism
from PIL import Image
from sklearn.datasets import load_digits

from kerazoo.callbacks import probing
from kerazoo.callbacks.diagnostics import Diagnostics
from kerazoo.callbacks.resume import Resume
from kerazoo.errors import InputError
from kerazoo.pipelines.devices.opening import open_devices
from kerazoo.recipes.recipe import Recipe
from kerazoo.training.diagnosis import diagnose

LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(scope="module")
def digits():
    """1,400 images of 8 x 8 in [0, 1] for training, their labels, and 397 others."""
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    images = (bunch.images[order, ..., None] / 16).astype(np.float32)
    labels = bunch.target[order].astype(np.int64)
    return images[:1400], labels[:1400], images[1400:], labels[1400:]


def network(*, norm=None, activation="relu", head=None, scale=None, dropout=0.0):
    """Four convolutions; `norm` is the momentum of batch norm."""
    keras.utils.set_random_seed(1)
    layers = [keras.Input((8, 8, 1))]
    if scale is not None:
        layers.append(keras.layers.Rescaling(scale))
    for index, stride in enumerate((1, 1, 2, 1)):
        layers.append(keras.layers.Conv2D(16, 3, strides=stride, padding="same", name=f"conv_{index}"))
        if norm is not None:
            layers.append(keras.layers.BatchNormalization(momentum=norm, name=f"norm_{index}"))
        layers.append(keras.layers.Activation(activation, name=f"act_{index}"))
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dropout(dropout)]
    return keras.Sequential([*layers, keras.layers.Dense(10, activation=head, name="logits")])


def diagnosed(model, optimizer, digits, *, epochs=4, loss=LOGITS, fit=None, **settings):
    """The diagnostics after `fit` on digits."""
    x, y, val_x, val_y = digits
    model.compile(optimizer, loss, metrics=["accuracy"])
    diagnostics = Diagnostics(**{"data": (x, y)} | settings)
    model.fit(
        **{"x": x, "y": y, "batch_size": 64} | (fit or {}), epochs=epochs, verbose=0,
        validation_data=(val_x, val_y), callbacks=[diagnostics],
    )  # fmt: skip
    return diagnostics


def severities(diagnostics):
    return {finding.name: finding.severity for finding in diagnostics.findings}


HEALTHY = {
    "adam": lambda: (network(norm=0.9), keras.optimizers.Adam(1e-3)),
    "sgd": lambda: (network(), keras.optimizers.SGD(0.05, momentum=0.9)),
    "sgd with batch norm": lambda: (network(norm=0.9), keras.optimizers.SGD(0.1, momentum=0.9)),
}


VARIANT = pytest.mark.slow  # five seconds and more each; the first case of its test proves the same in another network


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=VARIANT) for kind in HEALTHY])
def test_a_healthy_training_has_notes_only(kind, digits):
    found = severities(diagnosed(*HEALTHY[kind](), digits, epochs=12))
    assert set(found.values()) <= {"note"}, found


@pytest.mark.parametrize(
    ("norm", "optimizer"),
    [
        (0.9, lambda: keras.optimizers.SGD(10.0, momentum=0.9)),
        pytest.param(None, lambda: keras.optimizers.SGD(5.0, momentum=0.9), marks=VARIANT),
        pytest.param(None, lambda: keras.optimizers.Adam(0.1), marks=VARIANT),
    ],
)
def test_a_rate_a_hundred_times_too_high(norm, optimizer, digits):
    found = severities(diagnosed(network(norm=norm), optimizer(), digits))
    assert found["update_ratio_high"] == found["dead_units"] == "serious", found
    assert "nothing_learned" in found


@pytest.mark.slow  # trainings of some seconds; test_findings.py has the judgment
@pytest.mark.parametrize("norm", [0.9, pytest.param(None, marks=VARIANT)])
def test_a_rate_a_thousand_times_too_low(norm, digits):
    optimizer = keras.optimizers.SGD(5e-5, momentum=0.9) if norm is None else keras.optimizers.Adam(1e-6)
    found = severities(diagnosed(network(norm=norm), optimizer, digits))
    assert found["update_ratio_low"] == "warning", found
    assert "nothing_learned" in found
    assert "update_ratio_high" not in found


def test_a_deep_stack_of_sigmoids(digits):
    keras.utils.set_random_seed(1)
    hidden = [keras.layers.Dense(32, activation="sigmoid", name=f"hidden_{index}") for index in range(12)]
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), *hidden, keras.layers.Dense(10, name="logits")]
    diagnostics = diagnosed(keras.Sequential(layers), keras.optimizers.SGD(0.1, momentum=0.9), digits)
    found = severities(diagnostics)
    assert found["vanishing_gradients"] == "serious", found
    assert "nothing_learned" in found
    assert "hidden_0" in next(one.where for one in diagnostics.findings if one.name == "vanishing_gradients")
    assert "update_ratio_high" not in found


@pytest.mark.slow  # a long training; other faults are found above
def test_unscaled_input_of_a_network_that_wants_minus_one_to_one(digits):
    x, y, val_x, val_y = digits
    raw = (255 * x, y, 255 * val_x, val_y)
    for expects, severity in (((-1.0, 1.0), "serious"), (None, "warning")):
        found = severities(diagnosed(network(), keras.optimizers.SGD(0.001), raw, epochs=1, expects=expects))
        assert found["input_range"] == severity, found
        assert found["loss_at_start"] == "warning"
    scaled = diagnosed(network(scale=1 / 255), keras.optimizers.SGD(0.05, momentum=0.9), raw, epochs=1)
    assert "input_range" not in severities(scaled)


@pytest.mark.slow  # test_diagnosis.py has them in a run
def test_wrong_labels_have_the_lowest_margins(digits):
    x, y, val_x, val_y = digits
    rng = np.random.default_rng(3)
    wrong = rng.choice(len(y), len(y) // 20, replace=False)
    labels = y.copy()
    labels[wrong] = (labels[wrong] + rng.integers(1, 10, len(wrong))) % 10
    diagnostics = diagnosed(
        network(norm=0.9), keras.optimizers.Adam(3e-3), (x, labels, val_x, val_y), epochs=12,
        order=lambda epoch: np.arange(len(y)), fit={"x": x, "y": labels, "shuffle": False},
    )  # fmt: skip
    [finding] = [one for one in diagnostics.findings if one.name == "label_errors"]
    assert len(finding.examples) == round(0.02 * len(y))
    assert np.isin(finding.examples, wrong).mean() > 0.9
    worst = np.argsort(diagnostics.margins)[: round(0.07 * len(y))]
    assert np.isin(wrong, worst).mean() >= 0.8


@pytest.mark.slow  # a long training; other faults are found above
def test_batch_norm_that_lags_behind(digits):
    """98 steps with Keras's momentum: right on batch statistics, wrong on moving ones."""
    x, y, _, _ = digits
    fit = {"x": x, "y": y, "batch_size": 100}
    found = severities(diagnosed(network(norm=0.99), keras.optimizers.Adam(1e-3), digits, epochs=7, fit=fit))
    assert found["batch_norm_lag"] in ("warning", "serious"), found


def test_the_lag_of_batch_norm_is_measured_as_in_training():
    """The second layer's statistics are right for what it gets in training, where the first uses the batch's own."""
    x = np.random.default_rng(0).normal(5.0, 2.0, (256, 4)).astype(np.float32)
    first = keras.layers.BatchNormalization(name="first", epsilon=1e-6)
    second = keras.layers.BatchNormalization(name="second", epsilon=1e-6)
    model = keras.Sequential([keras.Input((4,)), first, second])
    deviation = x.std(0)
    first.moving_mean.assign(x.mean(0) + 3 * deviation)
    first.moving_variance.assign(x.var(0) * np.e)
    before = [np.array(variable) for variable in model.variables]
    shifts, spreads, gap = probing.batch_norm_lag(model, [(x, np.zeros(256))])
    assert shifts["first"] == pytest.approx(3, rel=1e-4)
    assert spreads["first"] == pytest.approx(1, rel=1e-4)
    assert max(shifts["second"], spreads["second"]) < 1e-4
    assert gap is not None
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.slow  # two trainings
@pytest.mark.filterwarnings("ignore:.*received `from_logits=True`")  # Keras sees it where the softmax is its own
def test_softmax_twice_and_none(digits):
    found = severities(diagnosed(network(head="softmax"), keras.optimizers.Adam(1e-3), digits))
    assert found["softmax_twice"] == "serious", found
    loss = keras.losses.SparseCategoricalCrossentropy()
    found = severities(diagnosed(network(), keras.optimizers.Adam(1e-3), digits, loss=loss))
    assert found["softmax_missing"] == "serious", found
    found = severities(diagnosed(network(head="softmax"), keras.optimizers.Adam(1e-3), digits, loss=loss))
    assert not {"softmax_missing", "softmax_twice"} & set(found), found


def test_a_nan_in_one_image(digits, tmp_path):
    """Named are the step, and the image in the batch, which is kept."""
    x, y, _, _ = digits
    x = x.copy()
    x[5 * 64 + 9, 3, 3] = np.nan
    diagnostics = diagnosed(
        network(norm=0.9), keras.optimizers.Adam(1e-3), digits, folder=tmp_path, fit={"x": x, "shuffle": False}
    )
    finding = diagnostics.findings[0]
    assert (finding.name, finding.where, finding.examples) == ("non_finite", "step 6, the input", (9,))
    with np.load(tmp_path / "non_finite_batch.npz") as batch:
        np.testing.assert_array_equal(batch["x0"], x[5 * 64 : 6 * 64])
        np.testing.assert_array_equal(batch["y0"], y[5 * 64 : 6 * 64])
    assert json.loads((tmp_path / "findings.json").read_text())["findings"][0]["where"] == finding.where


def test_the_layer_whose_output_is_not_finite_first(digits):
    class Log(keras.layers.Layer):
        def call(self, x):
            return keras.ops.log(x)  # of 0, behind a ReLU

    keras.utils.set_random_seed(1)
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(32, activation="relu", name="first")]
    model = keras.Sequential([*layers, Log(name="log"), keras.layers.Dense(10, name="logits")])
    finding = diagnosed(model, keras.optimizers.SGD(0.1), digits, epochs=1).findings[0]
    assert (finding.name, finding.where) == ("non_finite", "step 1, log")


def test_a_frozen_layer_that_moves(digits):
    """`trainable` was changed after a `fit` without a new `compile`: Keras goes on with the step it has."""
    x, y, _, _ = digits
    model = network()
    model.compile(keras.optimizers.SGD(0.1), LOGITS)
    model.fit(x[:256], y[:256], verbose=0)
    model.get_layer("conv_1").trainable = False
    diagnostics = Diagnostics(data=(x, y))
    model.fit(x[:256], y[:256], verbose=0, callbacks=[diagnostics])
    [finding] = [one for one in diagnostics.findings if one.name == "frozen_weights_move"]
    assert "conv_1" in finding.where
    model.compile(keras.optimizers.SGD(0.1), LOGITS)
    model.fit(x[:256], y[:256], verbose=0, callbacks=[diagnostics])
    assert "frozen_weights_move" not in severities(diagnostics)


@pytest.mark.slow  # half a minute, and it measures time
def test_a_model_starved_by_its_input(digits):
    x, y, _, _ = digits

    def slow(images, labels):
        time.sleep(0.2)
        return images, labels

    batches = tf.data.Dataset.from_tensor_slices((x[:800], y[:800])).batch(32)
    starved = batches.map(lambda a, b: tf.numpy_function(slow, [a, b], [tf.float32, tf.int64]))
    starved = starved.map(lambda a, b: (tf.ensure_shape(a, (None, 8, 8, 1)), tf.ensure_shape(b, (None,))))
    fit = {"x": starved, "y": None, "batch_size": None, "shuffle": False}
    with without_determinism():
        found = severities(diagnosed(network(), keras.optimizers.SGD(0.05, momentum=0.9), digits, epochs=2, fit=fit))
    assert found["data_bound"] == "serious", found


OBSERVER = """
import numpy as np
from kerazoo.callbacks import probing
from kerazoo.callbacks.diagnostics import Diagnostics
def callbacks(model, x):
    y = np.arange(len(x)) % 3
    return [Diagnostics(data=(x, y), order=lambda epoch: np.arange(40), every=1)]
"""


@pytest.mark.slow  # test_all_loggers.py has them beside all loggers
@pytest.mark.parametrize("mode", in_process("graph"))
def test_training_is_bit_equal_with_and_without(mode):
    made = {}
    exec(OBSERVER, made)  # the source is for other processes, too
    check_observed(mode, made["callbacks"])


@pytest.mark.slow  # two processes
def test_training_is_bit_equal_on_mirrored_devices_and_on_jax():
    check_observed_apart(["mirrored"], OBSERVER)
    check_observed_apart(["graph"], OBSERVER, backend="jax")


@pytest.mark.slow  # three trainings; test_gradients.py takes taps out, too
def test_nothing_is_left_on_the_model(digits):
    model = network(norm=0.9)
    diagnosed(model, keras.optimizers.SGD(0.1), digits, epochs=1)
    assert not {"train_step", "compute_loss"} & set(vars(model))
    assert not any("call" in vars(layer) for layer in model.layers)


SMALL = ("mlp", "cnn", "bottleneck_cnn", "recurrent", "perceptron", "sigmoid_neuron")  # on MNIST
LARGER = ("vgg_small", "resnet20", "resnet32", "inception_small")  # on CIFAR-10


@pytest.mark.slow  # ten trainings: ten minutes
@pytest.mark.parametrize("name", [*SMALL, *LARGER])
def test_the_zoo_by_its_recipes_has_notes_only(name, shared, tmp_path):
    data = tmp_path / "data.npz"
    make = mnist_subset if name in SMALL else cifar_subset
    make(shared, data)
    recipe = Recipe.for_training(name, data, **{"training.batch_size": 64})
    found = diagnose(recipe, devices=open_devices("cpu"), steps=300 if name in SMALL else 220)
    assert {one.severity for one in found} <= {"note"}, found


def mnist_subset(shared, path):
    with np.load(shared / "mnist.npz") as arrays:
        np.savez(path, **{key: arrays[key][: 6000 if "train" in key else 1000] for key in arrays.files})


def cifar_subset(shared, path):
    """600 images of each class."""
    images, labels, names = [], [], {}
    with tarfile.open(shared / "cifar10-jpg.tar.xz") as archive:
        for member in archive:
            parts = member.name.split("/")
            if not member.name.endswith(".jpg") or parts[-3] != "train":
                continue
            label = names.setdefault(parts[-2], len(names))
            if labels.count(label) < 600:
                images.append(np.asarray(Image.open(archive.extractfile(member))))
                labels.append(label)
    np.savez(path, x_train=np.stack(images), y_train=np.array(labels))


@pytest.mark.slow  # several trainings; test_findings.py has the words
def test_what_could_not_be_looked_at_is_said(digits, said):
    diagnostics = diagnosed(network(), keras.optimizers.SGD(0.1), digits, epochs=1, data=None)
    assert [line.partition(":")[0] for line in diagnostics.unseen] == [
        "label errors", "dead and saturated units, batch norm, noise scale",
    ]  # fmt: skip
    assert sum(line.startswith("not looked at: ") for line in said) == 2
    hot = (digits[0], np.eye(10)[digits[1]] * 0.9 + 0.01, digits[2], np.eye(10)[digits[3]])
    order = {"order": lambda epoch: np.arange(len(hot[0]))}
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    diagnostics = diagnosed(network(), keras.optimizers.SGD(0.1), hot, epochs=1, loss=loss, **order)
    assert diagnostics.unseen == ["label errors: labels are mixed"]


def test_bad_settings_are_refused():
    with pytest.raises(InputError, match="expects must be two numbers"):
        Diagnostics(expects=(1, -1))
    with pytest.raises(InputError, match="data must be"):
        Diagnostics(data=3)


@pytest.mark.slow  # half a minute: three trainings
def test_a_resumed_training_has_the_findings_of_one_that_was_not_stopped(digits, tmp_path):
    """Stopped in the middle of an epoch: the same margins, losses and series."""
    x, y, _, _ = digits
    batches = tf.data.Dataset.from_tensor_slices((x[:512], y[:512])).batch(64, drop_remainder=True)

    class Stop(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if self.model.optimizer.iterations == 12:
                raise KeyboardInterrupt

    def run(folder, extra=()):
        keras.utils.clear_session()
        model = network(norm=0.9)
        model.compile(keras.optimizers.Adam(0.003), LOGITS)
        diagnostics = Diagnostics(data=(x[:512], y[:512]), order=lambda epoch: np.arange(512), every=3)
        resume = Resume(folder, steps=1)
        model.fit(
            batches, epochs=4, shuffle=False, verbose=0, callbacks=[*resume.after([diagnostics]), *extra],
            initial_epoch=resume.initial_epoch(4),
        )  # fmt: skip
        return diagnostics

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", [Stop()])
    resumed = run(tmp_path / "cut")
    np.testing.assert_array_equal(resumed.margins, whole.margins)
    assert resumed.state()["series"] == whole.state()["series"]
    assert resumed.state()["last"] == whole.state()["last"]
    assert severities(resumed) == severities(whole)


@pytest.mark.slow  # test_diagnosis.py has a trial by the command
def test_a_short_trial_of_a_recipe(tmp_path, said):
    data = make_images(tmp_path / "data", count=40, size=16)
    settings = {"data.size": 16, "training.batch_size": 8}
    healthy = Recipe.for_training("mlp", data, **settings)
    found = diagnose(healthy, devices=open_devices("cpu"), steps=60)
    assert {one.severity for one in found} <= {"note"}, found
    slow = Recipe.for_training("mlp", data, **settings, optimizer={"learning_rate": 1e-7})
    found = diagnose(slow, devices=open_devices("cpu"), steps=60)
    assert "update_ratio_low" in [one.name for one in found]
    assert any(line.startswith("warning: update ratio low") for line in said)
    assert not (tmp_path / "runs").exists()
