"""Grad-CAM against the papers' equations and tf-keras-vis, planted objects, sheets, attention rollout, commands."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import call, make_images
from keras import layers, ops
from PIL import Image

import kerazoo
from kerazoo import api
from kerazoo.errors import InputError, ModelError
from kerazoo.insight.grad_cam import colors, grad_cam
from kerazoo.insight.map_files import sheets_of
from kerazoo.insight.maps_sheet import MARGIN, draw_sheet
from kerazoo.insight.rollout import attention_rollout

REAL = pytest.mark.slow(reason="weights of ImageNet are read in a process of their own")


def scaled(heat):
    heat = np.maximum(heat, 0)
    return heat / np.where(heat.max(axis=(1, 2), keepdims=True) > 0, heat.max(axis=(1, 2), keepdims=True), 1)


def by_the_papers(model, images, numbers, layer):
    """(Grad-CAM, Grad-CAM++) from the equations, position by position, with the gradient of a second model."""
    both = keras.Model(model.input, [model.get_layer(layer).output, model.output])
    with tf.GradientTape() as tape:
        maps, outputs = both(images, training=False)
        tape.watch(maps)
        # the rest of the network, from its maps on
        score = tf.reduce_sum(tf.gather(outputs, numbers, axis=1, batch_dims=1))
    slopes = tape.gradient(score, maps).numpy().astype(np.float64)
    maps = maps.numpy().astype(np.float64)
    first, second = np.zeros(maps.shape[:3]), np.zeros(maps.shape[:3])
    for image in range(len(maps)):
        for channel in range(maps.shape[-1]):
            a, g = maps[image, ..., channel], slopes[image, ..., channel]
            first[image] += g.sum() / g.size * a  # equations 1 and 2 of Selvaraju et al.
            below = 2 * g**2 + a.sum() * g**3  # equation 19 of Chattopadhyay et al.
            alpha = np.where(below != 0, g**2 / np.where(below != 0, below, 1), 0)
            second[image] += (alpha * np.maximum(g, 0)).sum() * a
    return scaled(first), scaled(second)


def two_layers():
    """A convolution and a dense layer on all of its positions."""
    model = keras.Sequential([
        keras.Input((8, 8, 3)), layers.Conv2D(4, 3, activation="relu", name="maps"), layers.Flatten(),
        layers.Dense(3, name="logits"),
    ])  # fmt: skip
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(size=each.shape) / 4 for each in model.get_weights()])
    return model


def images_of(count, side, channels=3):
    return np.random.default_rng(0).normal(size=(count, side, side, channels)).astype(np.float32)


def test_two_layers_have_the_closed_form():
    """dy_k/dA is the row of the dense kernel at its position."""
    model, images = two_layers(), images_of(4, 8)
    numbers = [0, 2, 1, 1]
    maps = ops.convert_to_numpy(model.get_layer("maps")(images)).astype(np.float64)
    kernel = ops.convert_to_numpy(model.get_layer("logits").kernel).reshape(6, 6, 4, 3).astype(np.float64)
    g = kernel[..., numbers].transpose(3, 0, 1, 2)
    plain = (g.mean(axis=(1, 2), keepdims=True) * maps).sum(axis=-1)
    below = 2 * g**2 + maps.sum(axis=(1, 2), keepdims=True) * g**3
    weights = (g**2 / below * np.maximum(g, 0)).sum(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(grad_cam(model, images, classes=numbers), scaled(plain), atol=1e-5)
    second = grad_cam(model, images, classes=numbers, method="grad-cam++")
    np.testing.assert_allclose(second, scaled((weights * maps).sum(axis=-1)), atol=1e-4)
    with pytest.raises(ModelError, match=r"method must be grad-cam or grad-cam\+\+, got 'cam'"):
        grad_cam(model, images, method="cam")


def real_network(shared):
    """MobileNet with the weights of ImageNet, and a random head."""
    weights = shared / "weights" / "mobilenet_2_5_224_tf_no_top.h5"
    return kerazoo.build("mobilenet_025", weights=weights, num_classes=5, input_shape=(96, 96, 3))


@REAL
def test_a_real_network_agrees_with_the_equations(shared):
    model, images = real_network(shared), np.tanh(images_of(3, 96))
    first, second = by_the_papers(model, images, [3, 0, 1], "conv_pw_11_relu")
    for method, wanted in (("grad-cam", first), ("grad-cam++", second)):
        heat = kerazoo.grad_cam(model, images, classes=[3, 0, 1], layer="conv_pw_11_relu", method=method)
        assert heat.shape == (3, 6, 6)
        np.testing.assert_allclose(heat, wanted, atol=1e-4)


@REAL
def test_a_real_network_agrees_with_tf_keras_vis(shared):
    vis = pytest.importorskip("tf_keras_vis.gradcam")  # pip install tf-keras-vis, with deprecated and imageio
    from tf_keras_vis.utils.scores import CategoricalScore

    model, images = real_network(shared), np.tanh(images_of(3, 96))
    theirs = vis.Gradcam(model, clone=False)(
        CategoricalScore([3, 0, 1]), images, penultimate_layer="conv_pw_11_relu", seek_penultimate_conv_layer=False,
        expand_cam=False, normalize_cam=False,
    )  # fmt: skip
    heat = kerazoo.grad_cam(model, images, classes=[3, 0, 1], layer="conv_pw_11_relu")
    np.testing.assert_allclose(heat, scaled(np.asarray(theirs)), atol=1e-4)


@pytest.mark.parametrize("function", ["softmax", "sigmoid"])
def test_behind_probabilities_it_is_from_the_logits(function):
    model, images = two_layers(), images_of(3, 8)
    probable = keras.Sequential([*model.layers[:-1], layers.Dense(3, activation=function, name="logits")])
    probable.build((None, 8, 8, 3))
    weights = model.get_weights()
    weights[2] = weights[2] * 1000  # sure answers, behind which gradients vanish
    for one in (model, probable):
        one.set_weights(weights)
    for layer in (probable, keras.Sequential([keras.Input((8, 8, 3)), probable])):
        np.testing.assert_allclose(grad_cam(layer, images), grad_cam(model, images), atol=1e-5)
        np.testing.assert_allclose(grad_cam(layer, images, classes=1), grad_cam(model, images, classes=1), atol=1e-5)
    assert probable.layers[-1].activation is getattr(keras.activations, function)  # the model is left as it was
    last = [layers.Activation(function), *([layers.Softmax()] if function == "softmax" else [])]
    for one in last:
        apart = keras.Model(model.inputs, one(model.outputs[0]))
        before = apart.predict_on_batch(images)
        np.testing.assert_allclose(grad_cam(apart, images), grad_cam(model, images), atol=1e-5)
        np.testing.assert_array_equal(apart.predict_on_batch(images), before)


def stripes(rng, upright, side=10):
    """A patch of stripes, upright or lying."""
    period = rng.integers(3, 5)
    waves = (np.arange(side) + rng.integers(period)) % period < period / 2
    patch = np.broadcast_to(waves, (side, side)).astype(np.float32)
    return patch if upright else patch.T


def planted(rng, kinds):
    """A noisy image with a patch of each kind in `kinds`, the first left, and their columns; anywhere if only one."""
    image = rng.normal(0, 0.1, (32, 32, 1)).astype(np.float32)
    columns = [rng.integers(0, 22)] if len(kinds) == 1 else [rng.integers(0, 4), rng.integers(18, 22)]
    for kind, column in zip(kinds, columns, strict=True):
        row = rng.integers(0, 22)
        image[row : row + 10, column : column + 10, 0] += stripes(rng, kind)
    return image, columns


@pytest.mark.slow  # a training
def test_it_points_to_the_right_one_of_two_objects():
    """A network that learned images with one patch each, upright or lying stripes; 90 % of images with both."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 600)
    images = np.stack([planted(rng, [label])[0] for label in labels])
    model = keras.Sequential([
        keras.Input((32, 32, 1)), layers.Conv2D(8, 3, padding="same", activation="relu"),
        layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
        layers.Conv2D(16, 3, padding="same", activation="relu"), layers.GlobalAveragePooling2D(),
        layers.Dense(2, activation="softmax"),
    ])  # fmt: skip
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images, labels, batch_size=32, epochs=8, verbose=0)
    assert model.evaluate(images, labels, verbose=0)[1] > 0.95
    kinds = [(left, 1 - left) for left in rng.integers(0, 2, 100)]
    both = np.stack([planted(rng, kind)[0] for kind in kinds])
    for method in ("grad-cam", "grad-cam++"):
        for asked in (0, 1):
            heat = grad_cam(model, both, classes=asked, method=method)
            sides = np.stack([heat[:, :, :8].sum(axis=(1, 2)), heat[:, :, 8:].sum(axis=(1, 2))], axis=1)
            right = np.mean(sides.argmax(axis=1) == [kind.index(asked) for kind in kinds])
            assert right >= 0.9, (method, asked, right)


def test_a_sheet_has_names_ranges_and_the_same_colors_for_all_maps():
    maps = np.zeros((4, 6, 3))
    maps[..., 0], maps[..., 2] = -2, 6
    maps[0, 0, 1] = np.nan
    sheet = draw_sheet("conv_1", maps)
    assert sheet.dtype == np.uint8
    dark, light = colors(np.array([0.0, 1.0])).round()
    found = {tuple(color) for color in sheet.reshape(-1, 3)}
    assert tuple(dark.astype(int)) in found
    assert tuple(light.astype(int)) in found
    assert tuple(colors(np.array([0.25]))[0].round().astype(int)) in found  # 0 is a quarter of the way from -2 to 6
    assert (sheet[: MARGIN - 2] == 255).all()
    assert draw_sheet("one", np.zeros((1, 1, 200))).shape[1] < 1000


def transformer(blocks=2):
    inputs = keras.Input((8, 8, 3))
    x = layers.Reshape((16, 4))(layers.Conv2D(4, 2, strides=2, name="patches")(inputs))
    for number in range(blocks):
        x = layers.Add()([x, layers.MultiHeadAttention(2, 4, name=f"attention_{number}")(x, x)])
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def test_attention_rollout_is_the_product_of_the_blocks():
    model, images = transformer(), images_of(2, 8)
    heat = attention_rollout(model, images)
    x = model.layers[2](model.get_layer("patches")(images))
    flow = np.eye(16)
    for number in range(2):
        y, scores = model.get_layer(f"attention_{number}")(x, x, return_attention_scores=True)
        mixed = (ops.convert_to_numpy(scores).mean(axis=1) + np.eye(16)) / 2
        flow = mixed / mixed.sum(axis=-1, keepdims=True) @ flow
        x = x + y
    wanted = flow.mean(axis=1).reshape(2, 4, 4)
    np.testing.assert_allclose(heat, wanted / wanted.max(axis=(1, 2), keepdims=True), atol=1e-5)
    assert "call" not in vars(model.get_layer("attention_0"))  # the model is left as it was
    with pytest.raises(ModelError, match="has no blocks of attention over the same tokens"):
        attention_rollout(two_layers(), images)


def test_the_sheets_of_a_network():
    pixels = np.zeros((8, 8, 3), np.uint8)
    sheets = sheets_of(two_layers(), images_of(1, 8), None, pixels)
    assert list(sheets) == ["00-maps", "filters"]
    assert list(sheets_of(transformer(), images_of(1, 8), None, pixels)) == ["00-patches", "filters", "attention"]
    assert list(sheets_of(two_layers(), images_of(1, 8), ["maps"], pixels)) == ["00-maps"]
    with pytest.raises(ModelError, match="layer logits of .* does not give feature maps"):
        sheets_of(two_layers(), images_of(1, 8), ["logits"], pixels)


@pytest.mark.slow  # a training, which takes ten seconds
def test_the_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "photos", count=8, size=40)
    settings = {"data.channels": 3, "training.epochs": 1}
    kerazoo.train("cnn", "photos", size=16, batch_size=4, devices="cpu", settings=settings, name="first")
    (tmp_path / "broken.png").write_bytes(b"no image")
    code, out, err = call(capsys, "grad-cam", "first", "photos/circle/00.png", "photos/square/00.png", "broken.png")
    lines = out.splitlines()
    assert code == 1
    assert lines[0].endswith("grad-cam/00.grad-cam.png")
    assert lines[1].endswith("grad-cam/00-2.grad-cam.png")
    assert "broken.png  it cannot be decoded" in lines[2]
    assert "1 of 3 files have no picture" in err
    run = kerazoo.open_run("first")
    seen = run.spec.preprocessing.read(tf.constant((tmp_path / "photos/circle/00.png").read_bytes())).numpy()
    heat = kerazoo.grad_cam(run.model(), run.spec.preprocessing.scale(seen[None]), classes=1)[0]
    words = ["grad-cam", "first", "photos/circle/00.png", "--class", "square", "--output", "out", "--json"]
    code, out, _ = call(capsys, *words)
    assert json.loads(out)["pictures"][0]["label"] == "square"
    from kerazoo.insight.grad_cam import overlay

    wanted = overlay(seen.repeat(14, axis=0).repeat(14, axis=1), heat)
    with Image.open(tmp_path / "out" / "00.grad-cam.png") as opened:
        picture = np.asarray(opened)
    assert abs(picture.astype(int) - wanted).max() <= 1
    assert call(capsys, *words[:-1], "--method", "grad-cam++")[0] == 0
    for more, message in (
        (["--class", "moon"], "the run has no class 'moon'; its classes are circle, square"),
        (["--method", "cam"], "method must be grad-cam or grad-cam++"),
        (["--layer", "nosuch"], "has no layer 'nosuch'"),
    ):
        code, _, err = call(capsys, "grad-cam", "first", "photos/circle/00.png", *more)
        assert code == 2
        assert message in err
    code, out, _ = call(capsys, "feature-maps", "first", "photos/circle/00.png")
    assert code == 0
    files = out.splitlines()
    assert files[-1] == "feature-maps/filters.png"
    for file in files:
        with Image.open(tmp_path / file) as sheet:
            assert sheet.mode == "RGB"
    code, out, _ = call(capsys, "feature-maps", "first", "photos/circle/00.png", "--layers", "conv1", "--json")
    assert json.loads(out)["pictures"] == ["feature-maps/00-conv1.png"]
    with pytest.raises(InputError, match=r"broken.png: it cannot be decoded"):
        api.draw_feature_maps("first", "broken.png")
