"""Patch whitening by closed forms, and in runs: computed once from training images, frozen, stored, exported."""

import keras
import numpy as np
import pytest

import kerazoo
from kerazoo.callbacks.checkpoints import newest_checkpoint
from kerazoo.errors import InputError, ModelError
from kerazoo.models.networks.fast_cnn import DiracUniform
from kerazoo.models.whitening import PatchWhitening
from kerazoo.recipes.parts import OptimizerPart
from kerazoo.training.layer_rates import with_norm_bias_rate
from kerazoo.training.optimizers import make_optimizer

SIDE = 12


def whitening(channels=3, **arguments):
    layer = PatchWhitening(**arguments)
    layer.build((None, SIDE, SIDE, channels))
    return layer


def correlated(count=60):
    """(N, 12, 12, 3) float32 whose channels and neighbors are correlated, with a mean of their own."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(count, SIDE, SIDE + 1, 3)) @ draw.normal(size=(3, 3))
    return (0.4 + 0.1 * (x[:, :, 1:] + 0.5 * x[:, :, :-1])).astype(np.float32)


def test_before_it_has_seen_images_each_component_is_a_number_of_the_patch():
    x = correlated(2)
    y = np.array(whitening()(x))
    assert y.shape == (2, SIDE - 1, SIDE - 1, 24)
    patches = np.stack([x[:, i : SIDE - 1 + i, j : SIDE - 1 + j] for i in (0, 1) for j in (0, 1)], axis=3)
    np.testing.assert_allclose(y[..., :12], patches.reshape(y[..., :12].shape), rtol=1e-6)
    np.testing.assert_array_equal(y[..., 12:], -y[..., :12])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_components_of_its_patches_are_white(channels):
    x = correlated()[..., :channels]
    layer = whitening(channels, epsilon=1e-9)
    layer.adapt([x])
    count = 4 * channels
    y = np.array(layer(x), np.float64).reshape(-1, 2 * count)
    np.testing.assert_allclose(y[:, :count].mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(y[:, :count].T, bias=True), np.eye(count), atol=1e-3)
    np.testing.assert_allclose(y[:, count:], -y[:, :count], atol=1e-5)


def test_two_pixels_by_hand():
    """Patches (a, a) with a = 0 and 4: the covariance is 4 everywhere, the eigenvalues are 8 and 0, their mean is 4."""
    layer = PatchWhitening(size=1, epsilon=0.5)
    layer.build((None, 1, 2, 2))
    layer.adapt([np.array([[[[0, 0], [4, 4]]]], np.float32)])
    # first component (1, 1) / sqrt(2) / sqrt(8 + 0.5 * 4), second (1, -1) / sqrt(2) / sqrt(0 + 0.5 * 4)
    kernel = np.array(layer.kernel)[0, 0]
    np.testing.assert_allclose(kernel[:, 0], np.full(2, 1 / np.sqrt(20)), rtol=1e-6)
    np.testing.assert_allclose(np.abs(kernel[:, 1]), np.full(2, 0.5), rtol=1e-6)
    assert kernel[0, 1] == -kernel[1, 1]
    np.testing.assert_allclose(layer.bias, [-4 / np.sqrt(20), 0, 4 / np.sqrt(20), 0], atol=1e-6)


def test_batches_and_order_do_not_matter():
    x = correlated()
    one, other = whitening(), whitening()
    one.adapt([x])
    other.adapt(iter([x[40:], x[:7], x[7:40]]))
    np.testing.assert_allclose(one.kernel, other.kernel, rtol=1e-4, atol=1e-5)
    assert (np.abs(np.array(one.kernel).reshape(12, 24)[:, :12]).max(axis=0) > 0).all()
    largest = np.abs(np.array(one.kernel).reshape(12, 24)[:, :12]).argmax(axis=0)
    assert (np.array(one.kernel).reshape(12, 24)[largest, np.arange(12)] > 0).all()  # any machine gives the same signs


def test_images_that_cannot_be_whitened_are_named():
    with pytest.raises(ModelError, match="adapt needs images that are not all of one color, got 242 patches"):
        whitening().adapt([np.full((2, SIDE, SIDE, 3), 0.3, np.float32)])
    with pytest.raises(ModelError, match="got 0 patches"):
        whitening().adapt([])
    with pytest.raises(ModelError, match="build the network before adapt"):
        PatchWhitening(name="first").adapt([correlated(1)])


def test_it_is_never_trained_and_keeps_float32():
    x = correlated(8)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = kerazoo.build("fast_cnn", input_shape=(SIDE, SIDE, 3), filters=(4, 4), num_classes=2)
    finally:
        keras.config.set_dtype_policy(before)
    layer = model.get_layer("whitening")
    layer.adapt([x])
    assert layer.compute_dtype == "float32"
    model.trainable = False
    model.trainable = True  # as unfreezing does
    assert not any(v.path.startswith("whitening") for v in model.trainable_variables)
    kept = layer.get_weights()
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    model.fit(x, np.arange(8) % 2, epochs=1, verbose=0)
    for old, new in zip(kept, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_first_filters_pass_the_channels_on():
    x = np.random.default_rng(0).normal(size=(2, 5, 5, 3)).astype(np.float32)
    for filters in (2, 8):
        layer = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, kernel_initializer=DiracUniform(1))
        y = np.array(layer(x))
        same = min(filters, 3)
        np.testing.assert_array_equal(y[..., :same], x[..., :same])
        rest = np.array(layer.kernel)[..., same:]
        assert not rest.size or 0.9 / np.sqrt(27) < np.abs(rest).max() <= 1 / np.sqrt(27)
        again = keras.initializers.deserialize(keras.initializers.serialize(layer.kernel_initializer))
        np.testing.assert_array_equal(again((3, 3, 3, filters)), layer.kernel)


def test_only_the_biases_of_batch_norm_learn_faster():
    part = OptimizerPart(name="sgd", learning_rate=0.1, momentum=0.0, weight_decay=0.0, schedule="constant")
    model = kerazoo.build("fast_cnn", input_shape=(SIDE, SIDE, 3), filters=(4,), num_classes=2)
    factors = with_norm_bias_rate(model, 64.0, {"block1_1_bn/beta": 0.5, "logits/bias": 0.5})
    assert factors == {"block1_1_bn/beta": 32.0, "block1_2_bn/beta": 64.0, "logits/bias": 0.5}
    optimizer = make_optimizer(part, steps=10, factors=factors)
    before = {v.path: np.array(v) for v in model.trainable_variables}
    optimizer.apply([keras.ops.ones_like(v) for v in model.trainable_variables], model.trainable_variables)
    for variable in model.trainable_variables:
        moved = before[variable.path] - np.array(variable)
        np.testing.assert_allclose(moved, 0.1 * factors.get(variable.path, 1.0), rtol=1e-4)


# -- in a run -----------------------------------------------------------------------------------------------------

SMALL = {
    "model.arguments": {"filters": (4,)},
    "data.validation": 0.25,
    "training.epochs": 2,
    "training.batch_size": 6,
    "optimizer.norm_bias_rate": 4.0,
    "augmentation.flip": True,
}


class Stop(keras.callbacks.Callback):
    """Raise after `batches` of the run; `factors` are those of the optimizer's rate."""

    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        self.factors = self.model.optimizer.factors
        if not self.left:
            raise InterruptedError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "colors.npz"
    x = np.clip(255 * correlated(48), 0, 255).astype(np.uint8)
    np.savez(path, x_train=x, y_train=np.arange(48) % 2)
    return path


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return kerazoo.train("fast_cnn", data, settings=SMALL, name="whole", root=tmp_path_factory.mktemp("runs"))


def test_a_run_whitens_by_its_training_images_only(run, data):
    examples = kerazoo.load_examples(data, validation=0.25)
    images = {split: examples.split(split).pixels.astype(np.float32) / 255 for split in ("train", "val")}
    layer = run.model().get_layer("whitening")
    for split in images:
        expected = whitening()
        expected.adapt([images[split]])
        assert np.allclose(expected.kernel, layer.kernel, rtol=1e-3, atol=1e-3) == (split == "train")


def test_a_stopped_run_goes_on_with_the_same_bits(run, data, tmp_path, monkeypatch):
    settings = SMALL | {"checkpoint.steps": 1}
    stop = Stop(4)
    with pytest.raises(InterruptedError):
        kerazoo.train("fast_cnn", data, settings=settings, name="cut", root=tmp_path, callbacks=[stop])
    assert stop.factors == {"block1_1_bn/beta": 4.0, "block1_2_bn/beta": 4.0}
    assert newest_checkpoint(tmp_path / "cut/checkpoints") is not None
    # the checkpoint has the filters: what a resumed run computes, or cannot compute, has no effect
    monkeypatch.setattr(PatchWhitening, "adapt", lambda *_: None)
    again = kerazoo.resume(tmp_path / "cut")
    for old, new in zip(run.model().get_weights(), again.model().get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow  # an export and its gate take two processes that start TensorFlow
def test_what_is_exported_has_the_filters(run, data, tmp_path):
    export = kerazoo.export(run, name="colors", root=tmp_path)
    pixels = kerazoo.load_examples(data, validation=0.25).split("val").pixels
    expected = keras.ops.softmax(run.model()(pixels.astype(np.float32) / 255, training=False))
    np.testing.assert_allclose(export.probabilities(pixels), expected, atol=1e-5)


def test_a_rate_for_norm_biases_must_be_positive():
    with pytest.raises(InputError, match=r"optimizer.norm_bias_rate must be a number in \(0, inf\), got 0"):
        kerazoo.Recipe.for_training("fast_cnn", "x", optimizer={"norm_bias_rate": 0})
