"""Grad-CAM: closed forms, what it leaves as it is, and the child process that makes its pictures."""

import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import make_images
from keras import layers
from PIL import Image

from kerazoo.errors import DataError, KerazooError, ModelError
from kerazoo.insight.grad_cam import colors, grad_cam, overlay
from kerazoo.models.registry import construct
from kerazoo.models.saved import load_model
from kerazoo.recipes.recipe import make_recipe
from kerazoo.serving.looking import Looking
from kerazoo.training.train import train


def pixels(count=3, size=12, channels=3, seed=0):
    return np.random.default_rng(seed).normal(size=(count, size, size, channels)).astype(np.float32)


def network(*tail, size=12, filters=5):
    """A convolution with maps of 5 x 5, and `tail` on them."""
    conv = layers.Conv2D(filters, 4, strides=2, name="maps")
    model = keras.Sequential([keras.Input((size, size, 3)), conv, *tail], name="net")
    rng = np.random.default_rng(3)
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            layer.set_weights([rng.normal(size=each.shape) / 7 for each in layer.get_weights()])
    return model


def scaled(heat):
    """relu, divided by the maximum of each image."""
    heat = np.maximum(heat, 0)
    return heat / np.where(heat.max(axis=(1, 2), keepdims=True) > 0, heat.max(axis=(1, 2), keepdims=True), 1)


def maps_of(model, images):
    return keras.ops.convert_to_numpy(model.get_layer("maps")(images))


def test_behind_global_average_pooling_it_is_cam():
    """Zhou et al. 2016: the sum of the maps by the weights of the class."""
    model, images = network(layers.GlobalAveragePooling2D(), layers.Dense(4, name="logits")), pixels()
    kernel = keras.ops.convert_to_numpy(model.get_layer("logits").kernel)  # (F, K)
    cam = maps_of(model, images) @ kernel  # (B, h, w, K)
    for number in range(4):
        heat = grad_cam(model, images, classes=number)
        assert heat.shape == (3, 5, 5)
        assert heat.dtype == np.float32
        np.testing.assert_allclose(heat, scaled(cam[..., number]), atol=1e-5)
    best = keras.ops.convert_to_numpy(model(images)).argmax(axis=1)
    assert len(set(best)) > 1
    wanted = scaled(np.stack([each[..., number] for each, number in zip(cam, best, strict=True)]))
    np.testing.assert_allclose(grad_cam(model, images), wanted, atol=1e-5)
    np.testing.assert_array_equal(grad_cam(model, images, classes=best), grad_cam(model, images))


def test_behind_flatten_the_weights_are_means_over_positions():
    model, images = network(layers.Flatten(), layers.Dense(4, name="logits")), pixels()
    kernel = keras.ops.convert_to_numpy(model.get_layer("logits").kernel).reshape(25, 5, 4)
    wanted = scaled(maps_of(model, images) @ kernel.mean(axis=0)[:, 2])
    np.testing.assert_allclose(grad_cam(model, images, classes=2), wanted, atol=1e-5)


def test_the_heat_is_where_the_square_is_that_alone_drives_a_class():
    model = keras.Sequential([
        keras.Input((16, 16, 3)), layers.Conv2D(2, 1, activation="relu"), layers.GlobalMaxPooling2D(),
        layers.Dense(2, use_bias=False),
    ])  # fmt: skip
    kernel = np.array([[[[1, 0], [0, 1], [0, 0]]]], np.float32)  # red is map 0, green map 1
    model.set_weights([kernel, np.zeros(2), np.eye(2)])
    images = np.zeros((2, 16, 16, 3), np.float32)
    images[0, 2:6, 9:13, 0] = 1
    images[1, 10:14, 1:5, 1] = 1
    np.testing.assert_array_equal(grad_cam(model, images), images.max(axis=-1))
    np.testing.assert_array_equal(grad_cam(model, images, classes=0)[1], 0)  # nothing speaks for red


def test_an_image_has_the_same_heat_alone_and_in_a_batch():
    model, images = construct("resnet20", input_shape=(32, 32, 3), num_classes=5), pixels(4, 32)
    whole = grad_cam(model, images)
    for number in range(4):
        np.testing.assert_allclose(grad_cam(model, images[number : number + 1])[0], whole[number], atol=1e-4)


def test_the_model_is_left_as_it_was():
    model = network(
        layers.BatchNormalization(), layers.Dropout(0.5), layers.GlobalAveragePooling2D(), layers.Dense(2)
    )  # fmt: skip
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images = pixels(4)
    model.fit(images, np.array([0, 1, 0, 1]), verbose=0)

    def state():
        return [np.array(each.numpy()) for each in (*model.variables, *model.optimizer.variables)]

    attributes = [dict(vars(each)) for each in model.layers]
    before = state()
    grad_cam(model, images)
    grad_cam(model, images, layer="maps", classes=[0, 1, 1, 0])
    for one, other in zip(before, state(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [dict(vars(each)) for each in model.layers] == attributes  # no call stays replaced
    assert model.losses == []


def test_one_unit_and_several_labels():
    one, images = network(layers.GlobalAveragePooling2D(), layers.Dense(1, name="logits")), pixels()
    kernel = keras.ops.convert_to_numpy(one.get_layer("logits").kernel)
    np.testing.assert_allclose(grad_cam(one, images), scaled((maps_of(one, images) @ kernel)[..., 0]), atol=1e-5)
    labels = network(layers.GlobalAveragePooling2D(), layers.Dense(3, activation="sigmoid", name="logits"))
    kernel = keras.ops.convert_to_numpy(labels.get_layer("logits").kernel)
    cam = maps_of(labels, images) @ kernel
    np.testing.assert_allclose(grad_cam(labels, images, classes=[2, 0, 1])[0], scaled(cam[..., 2])[0], atol=1e-5)


class Own(keras.Model):
    """A subclassed network, whose convolution is called twice."""

    def __init__(self):
        super().__init__(name="own")
        self.conv = layers.Conv2D(3, 3, padding="same", name="twice")
        self.head = layers.Dense(2, name="head")

    def call(self, x):
        return self.head(keras.ops.mean(self.conv(self.conv(x)), axis=(1, 2)))


def test_subclassed_and_nested_networks_have_heat():
    own, images = Own(), pixels()
    own(images)
    kernel = keras.ops.convert_to_numpy(own.head.kernel)
    wanted = scaled(keras.ops.convert_to_numpy(own.conv(own.conv(images))) @ kernel[:, 1])
    np.testing.assert_allclose(grad_cam(own, images, classes=1), wanted, atol=1e-5)
    inner = network(layers.BatchNormalization(name="bn"))
    inputs = keras.Input((12, 12, 3))
    x = layers.GlobalAveragePooling2D(keepdims=True)(inner(layers.Rescaling(2.0)(inputs)))
    nested = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    last = grad_cam(nested, images)
    assert last.shape == (3, 5, 5)  # not the 1 x 1 of the pooling
    np.testing.assert_array_equal(grad_cam(nested, images, layer="net/bn"), last)


@pytest.mark.parametrize("name", ["cnn", "bottleneck_cnn", "vgg_small", "inception_small", "resnet20"])
def test_the_networks_of_the_zoo_have_heat(name):
    heat = grad_cam(construct(name, input_shape=(32, 32, 3), num_classes=3), pixels(2, 32))
    assert heat.ndim == 3
    assert heat[0].size > 1
    assert heat.min() >= 0
    assert set(heat.max(axis=(1, 2))) <= {0, 1}


def test_what_cannot_be_is_one_line():
    model, images = network(layers.GlobalAveragePooling2D(name="pool"), layers.Dense(4)), pixels()
    with pytest.raises(ModelError, match=r"no layer of mlp gives feature maps, \(B, h, w, F\), so"):
        grad_cam(construct("mlp", input_shape=(12, 12, 3)), images)
    scaled_only = keras.Sequential([keras.Input((12, 12, 3)), layers.Rescaling(2.0), layers.Flatten(), layers.Dense(4)])
    with pytest.raises(ModelError, match=r"no layer of sequential.* gives feature maps"):  # that is still the image
        grad_cam(scaled_only, images)
    with pytest.raises(ModelError, match=r"layer pool of net does not give feature maps"):
        grad_cam(model, images, layer="pool")
    with pytest.raises(ModelError, match=r"net has no layer 'map'; the nearest names are maps"):
        grad_cam(model, images, layer="map")
    for wrong in (4, -1, [0, 1], 1.5):
        with pytest.raises(ModelError, match=r"classes must be one number or 3, from 0 to 3, got"):
            grad_cam(model, images, classes=wrong)
    with pytest.raises(ModelError, match=r"net cannot be run on inputs \(3, 12, 12, 1\)"):
        grad_cam(model, images[..., :1])
    two = keras.Model(model.inputs, [*model.outputs, *model.outputs], name="two")
    with pytest.raises(ModelError, match=r"one output, \(B, K\), got \[\(3, 4\), \(3, 4\)\] of two"):
        grad_cam(two, images)


@pytest.mark.slow  # a process with JAX
def test_jax_gives_the_same():
    names = [
        "behind_global_average_pooling_it_is_cam", "subclassed_and_nested_networks_have_heat",
        "the_model_is_left_as_it_was",
    ]  # fmt: skip
    calls = "; ".join(f"t.test_{name}()" for name in names)
    command = [sys.executable, "-c", f"import test_grad_cam as t; assert t.keras.backend.backend() == 'jax'; {calls}"]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run(command, cwd=Path(__file__).parent, env=environment, check=True, timeout=120)


def test_another_backend_is_one_line(monkeypatch):
    model = network(layers.GlobalAveragePooling2D(), layers.Dense(4))
    monkeypatch.setattr(keras.config, "backend", lambda: "torch")
    with pytest.raises(
        ModelError, match="Grad-CAM needs the TensorFlow or JAX backend, got 'torch'; set KERAS_BACKEND"
    ):
        grad_cam(model, pixels())


def test_the_lightness_of_the_colors_rises_evenly():
    table = colors(np.linspace(0, 1, 256)) / 255
    linear = np.where(table > 0.04045, ((table + 0.055) / 1.055) ** 2.4, table / 12.92)
    y = linear @ [0.2126, 0.7152, 0.0722]
    steps = np.diff(np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y))  # CIE L*
    assert steps.min() > 0.15
    assert steps.max() < 0.65


def test_the_heat_lies_over_the_picture():
    photo = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    cold, hot = (overlay(photo, np.full((3, 4), value, np.float32)) for value in (0, 1))
    gray = photo.mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(cold, 0.7 * gray + 0.3 * np.array([0, 0, 4]), atol=0.51)
    np.testing.assert_allclose(hot, 0.15 * gray + 0.85 * np.array([252, 255, 164]), atol=0.51)
    heat = np.zeros((2, 3), np.float32)
    heat[1, 2] = 1
    mixed = overlay(np.zeros((20, 30, 1), np.uint8), heat)
    assert mixed.shape == (20, 30, 3)
    assert np.unravel_index(mixed.sum(axis=-1).argmax(), (20, 30)) >= (15, 25)
    assert (mixed[:, :10] == mixed[0, 0]).all()  # half-pixel centers: the cold columns stay cold
    assert (np.diff(mixed[19].sum(axis=-1).astype(int)) >= 0).all()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    images = make_images(tmp_path_factory.mktemp("images"), count=16, size=40)
    values = {
        "model": {"name": "cnn"}, "data": {"path": str(images), "size": 16, "channels": 3, "validation": 0.25},
        "training": {"epochs": 2, "batch_size": 4}, "optimizer": {"learning_rate": 0.003},
    }  # fmt: skip
    return train(make_recipe(values), name="shapes", root=tmp_path_factory.mktemp("runs")).folder


@pytest.fixture(scope="module")
def looking(run):
    made = Looking(run)
    yield made
    made.close()


def photo(size=(60, 40), seed=0):
    file = io.BytesIO()
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def test_the_picture_is_what_the_network_saw(run, looking):
    import tensorflow as tf

    spec, model = load_model(run)
    seen = spec.preprocessing.read(tf.constant(photo())).numpy()
    assert seen.shape == (16, 16, 3)
    heat = grad_cam(model, spec.preprocessing.scale(seen[None]))[0]
    picture = np.asarray(Image.open(io.BytesIO(looking.png(photo()))))
    assert picture.shape == (224, 224, 3)
    wanted = overlay(seen.repeat(14, axis=0).repeat(14, axis=1), heat)
    assert abs(picture.astype(int) - wanted).max() <= 1


def test_a_broken_image_is_an_error_and_the_next_is_answered(looking):
    looking.png(photo())
    child = looking._child.pid
    for broken, words in (
        (b"no image", "it cannot be decoded: it is not a JPEG, PNG, GIF, BMP or WebP image"),
        (photo()[:500], r"it cannot be decoded: it is cut off or damaged \(Invalid PNG data"),
        (b"", "it is empty"),
    ):
        with pytest.raises(DataError, match=words):
            looking.png(broken)
    assert looking.png(photo()).startswith(b"\x89PNG")
    assert looking._child.pid == child


def test_questions_take_turns(looking):
    single = {seed: looking.png(photo(seed=seed)) for seed in range(4)}
    several = {}
    threads = [threading.Thread(target=lambda s=s: several.update({s: looking.png(photo(seed=s))})) for s in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert several == single


@pytest.mark.slow  # two children with TensorFlow
def test_a_child_that_was_killed_is_replaced(looking):
    first = looking.png(photo())
    child = looking._child
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert looking.png(photo()) == first
    assert looking._child.pid != child.pid
    assert not Path(f"/proc/{child.pid}").exists()


def test_the_child_ends_when_its_server_is_gone(looking):
    looking.png(photo())
    looking._child.stdin.close()  # as the system does for a server that was killed
    assert looking._child.wait(20) == 0


@pytest.mark.slow  # several starts of a child
def test_a_child_that_ends_or_is_late_is_one_line(run, looking, monkeypatch):
    looking.png(photo())
    child = looking._child.pid
    os.kill(child, signal.SIGSTOP)
    killed = threading.Timer(0.3, os.kill, (child, signal.SIGKILL))
    killed.start()
    with pytest.raises(KerazooError, match=r"^Grad-CAM has no answer: its process was ended by signal 9$"):
        looking.png(photo())
    looking.png(photo())
    os.kill(looking._child.pid, signal.SIGSTOP)
    monkeypatch.setattr(looking, "seconds", 0.5)
    with pytest.raises(KerazooError, match=r"^Grad-CAM has no answer: it took more than 0.5 s$"):
        looking.png(photo())
    monkeypatch.undo()
    assert looking.png(photo()).startswith(b"\x89PNG")
    with looking._lock:
        monkeypatch.setattr(looking, "seconds", 0.1)
        with pytest.raises(KerazooError, match="Grad-CAM is busy with other images"):
            looking.png(photo())


def test_a_run_that_was_changed_is_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "changed")
    path = tmp_path / "changed" / "evaluation" / "val.csv"
    path.write_text(path.read_text() + "\n")
    looking = Looking(tmp_path / "changed")
    for _ in range(2):
        with pytest.raises(KerazooError, match=r"val.csv was changed after the run finished"):
            looking.png(photo() + bytes(1_000_000))  # more than a pipe holds
    looking.close()


@pytest.mark.slow  # a child with TensorFlow
def test_closing_ends_the_child_even_while_it_answers(run):
    looking = Looking(run)
    looking.close()
    with pytest.raises(KerazooError, match="Grad-CAM has ended with the server"):
        looking.png(photo())
    assert looking._child is None
    looking = Looking(run)
    looking.png(photo())
    child = looking._child.pid
    os.kill(child, signal.SIGSTOP)
    errors = []

    def ask():
        try:
            looking.png(photo())
        except KerazooError as error:
            errors.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.2)
    begin = time.monotonic()
    looking.close()
    assert time.monotonic() - begin < 5
    thread.join(5)
    assert errors == ["Grad-CAM has no answer: its process was ended by signal 9"]
    assert not Path(f"/proc/{child}").exists()  # no zombie
    assert looking._child is None
