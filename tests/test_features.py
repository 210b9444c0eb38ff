"""Features: found again by content and by what they depend on, whatever is beside them and wherever a pass was cut."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import change_in_silence, make_images
from PIL import Image

import kerazoo
from kerazoo import files
from kerazoo.errors import DataError, KerazooError, RecipeError
from kerazoo.models import engines, registry
from kerazoo.models.description import ModelSpec
from kerazoo.models.heads.classifier import feature_extractor
from kerazoo.pipelines.data.load import load_examples
from kerazoo.pipelines.input.augmentation import Augmentation
from kerazoo.preprocessing.preprocessing import Preprocessing
from kerazoo.transfer import features, passes
from kerazoo.transfer.features import FeaturePass

ARGUMENTS = {"input_shape": (32, 32, 3), "num_classes": 2, "momentum": 0.9}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def examples(images):
    return load_examples(images)


@pytest.fixture(scope="module")
def model():
    registry.find("vgg_small")
    import keras

    keras.utils.set_random_seed(3)
    return kerazoo.build("vgg_small", **{k: v for k, v in ARGUMENTS.items() if k != "momentum"})


def spec(**changes):
    return ModelSpec("vgg_small", ARGUMENTS | changes, Preprocessing(32, 32), ("circle", "square"))


def test_features_that_are_not_finite_name_the_image_and_are_not_kept(cache, examples, model):
    large = kerazoo.build("vgg_small", **ARGUMENTS)
    norm = [layer for layer in large.layers if hasattr(layer, "beta")][-1]
    norm.beta.assign(np.full(norm.beta.shape, np.inf))
    with pytest.raises(KerazooError, match=rf"vgg_small\S* of {examples.keys[0]} are not finite; use other weights"):
        FeaturePass(large, spec())(examples)
    assert not list(cache.rglob("*.npy"))


def test_a_image_has_the_same_features_in_any_company(cache, examples, model):
    plain = FeaturePass(model, spec(), cached=False)
    whole = plain(examples)
    assert whole.values.shape == (24, model.get_layer("features").output.shape[1])
    assert whole.computed == 24
    order = np.random.default_rng(0).permutation(24)
    np.testing.assert_array_equal(plain(examples.take(order)).values, whole.values[order])
    np.testing.assert_array_equal(plain(examples.take([7])).values, whole.values[[7]])
    assert not cache.exists()
    expected = feature_extractor(model).predict(
        np.stack([np.asarray(Image.open(path), np.float32) / 255 for path in examples.paths]), verbose=0
    )
    np.testing.assert_allclose(whole.values, expected, atol=1e-5)


def test_only_what_changed_is_computed_again(cache, examples, model):
    first = FeaturePass(model, spec())(examples)
    again = FeaturePass(model, spec(num_classes=7, momentum=0.99))(examples)  # no feature depends on these
    assert (first.computed, again.computed) == (24, 0)
    np.testing.assert_array_equal(again.values, first.values)

    pixels = np.asarray(Image.open(examples.paths[5])).copy()
    pixels[:4] = 255
    Image.fromarray(pixels).save(examples.paths[5])
    with pytest.raises(DataError, match=r"05.png in .* has changed since its hash was computed"):
        FeaturePass(model, spec(filters=16))(examples)  # these are of the file as it was
    examples = replace(examples)
    changed = FeaturePass(model, spec())(examples)
    assert changed.computed == 1
    same = np.arange(24) != 5
    np.testing.assert_array_equal(changed.values[same], first.values[same])
    assert not np.array_equal(changed.values[5], first.values[5])

    stretched = replace(spec(), preprocessing=Preprocessing(32, 32, interpolation="nearest"))
    assert FeaturePass(model, stretched)(examples).computed == 24
    assert FeaturePass(model, spec(dropout=0.5))(examples).computed == 0
    assert FeaturePass(model, spec(filters=8))(examples).computed == 24
    kernel = model.layers[1].kernel
    before = np.array(kernel)
    try:
        kernel.assign(before * (1 + 1e-6))
        assert FeaturePass(model, spec())(examples).computed == 24
    finally:
        kernel.assign(before)
    assert FeaturePass(model, spec())(examples).computed == 0


@pytest.mark.slow  # several passes; the tests above have the cache's key
def test_views_are_of_the_image_the_seed_and_the_number(cache, examples, model):
    one = FeaturePass(model, spec())
    drawn = Augmentation(policy="strong")  # its mixup has no part here
    plain, first, second = (one(examples, view=view, augmentation=drawn, seed=1) for view in (0, 1, 2))
    assert (plain.computed, first.computed, second.computed) == (24, 24, 24)
    for a, b in ((plain, first), (first, second)):
        assert not np.array_equal(a.values, b.values)
    assert one(examples, view=1, augmentation=drawn, seed=2).computed == 24
    assert one(examples, view=1, augmentation=Augmentation(policy="light"), seed=1).computed == 24
    assert one(examples, view=0, augmentation=drawn, seed=2).computed == 0
    order = np.arange(24)[::-1]
    uncached = FeaturePass(model, spec(), cached=False)
    np.testing.assert_array_equal(
        uncached(examples.take(order), view=1, augmentation=drawn, seed=1).values, first.values[order]
    )


def test_damaged_chunks_are_made_again(cache, examples, model, monkeypatch):
    monkeypatch.setattr(features, "CHUNK", 8)
    monkeypatch.setattr(features, "BATCH", 8)
    monkeypatch.setattr(passes, "BATCH", 8)
    first = FeaturePass(model, spec())(examples)
    flipped, short, whole = sorted(cache.glob("*/*.npy"))
    content = bytearray(flipped.read_bytes())
    content[-3] ^= 1
    flipped.write_bytes(content)
    short.write_bytes(short.read_bytes()[:-10])
    again = FeaturePass(model, spec())(examples)
    assert again.computed == 16
    np.testing.assert_array_equal(again.values, first.values)
    assert whole.exists()
    assert FeaturePass(model, spec())(examples).computed == 0


def test_a_full_disk_is_said_and_leaves_nothing_half_written(cache, examples, model, monkeypatch):
    monkeypatch.setattr(features, "CHUNK", 8)
    monkeypatch.setattr(features, "BATCH", 8)
    monkeypatch.setattr(passes, "BATCH", 8)
    left = [2]

    def full(file):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(
        KerazooError, match=r"cannot be written: No space left on device; free some disk space, .*data.cache=never"
    ):
        FeaturePass(model, spec())(examples)
    assert not list(cache.glob("*/*.tmp"))
    monkeypatch.undo()
    monkeypatch.setenv("KERAZOO_CACHE", str(cache.parent))
    assert FeaturePass(model, spec())(examples).computed == 8


PASS = """
import sys
from kerazoo.startup import start_tensorflow
start_tensorflow()
import keras, kerazoo
from kerazoo.preprocessing.preprocessing import Preprocessing
from kerazoo.models.description import ModelSpec
from kerazoo.transfer import features, passes
from kerazoo.pipelines.data.load import load_examples
features.CHUNK = features.BATCH = passes.BATCH = 4
keras.utils.set_random_seed(3)
arguments = {"input_shape": (32, 32, 3), "num_classes": 2}
model = kerazoo.build("vgg_small", **arguments)
spec = ModelSpec("vgg_small", arguments, Preprocessing(32, 32), ("circle", "square"))
print(features.FeaturePass(model, spec)(load_examples(sys.argv[1])).computed)
"""


@pytest.mark.slow  # two processes and four passes over files, half a minute
def test_a_killed_pass_goes_on(cache, tmp_path, model):
    data = make_images(tmp_path / "many", count=50)
    command = [sys.executable, "-c", PASS, str(data)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(cache.glob("*/*.npy"))) < 3:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was done before it could be killed"
    kept = 4 * len(list(cache.glob("*/*.npy")))
    assert 0 < kept < 100
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == 100 - kept
    examples = load_examples(data)
    found = FeaturePass(model, spec())(examples)
    assert found.computed == 0
    np.testing.assert_array_equal(found.values, FeaturePass(model, spec(), cached=False)(examples).values)


def test_an_image_changed_under_its_size_and_time_is_not_kept_under_its_old_hash(cache, examples, model):
    """A manifest takes a file for the one it hashed by its size and time."""
    known = replace(examples, known_hashes=examples.hashes)
    change_in_silence(Path(examples.paths[5]))
    with pytest.raises(DataError, match=f"{examples.keys[5]} in .* has changed since its hash was computed"):
        FeaturePass(model, spec())(known)
    assert not list(cache.glob("*/*.npy"))


@pytest.mark.slow  # TensorFlow takes ten seconds to give up; test_causes.py has the words
def test_memory_is_not_an_image_s_fault(cache, examples, model, monkeypatch):
    """A real allocation that no machine has, in the graph that decodes."""
    much = tf.Variable(2**45, dtype=tf.int64)

    def hungry(examples, preprocessing):
        return lambda index: tf.reshape(tf.fill([much], tf.uint8.max)[-3072:], (32, 32, 3))

    monkeypatch.setattr(passes, "decoded_from", hungry)
    with pytest.raises(KerazooError, match=r"^out of memory: .*lower data.size \(now 32\)") as caught:
        FeaturePass(model, spec())(examples)
    assert not isinstance(caught.value, DataError)


def test_a_image_that_is_gone_is_an_error_of_the_data(cache, examples, model):
    assert examples.hashes
    Path(examples.paths[3]).unlink()
    with pytest.raises(DataError, match=r"\d\d.png cannot be read: No such file"):
        FeaturePass(model, spec())(examples)


@pytest.mark.parametrize(("engine", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_other_engines_answer_as_keras_does(cache, examples, model, engine, package):
    pytest.importorskip(package, reason=f"kerazoo[{engine}] is not installed")
    expected = FeaturePass(model, spec())(examples).values
    found = FeaturePass(model, spec(), engine=engine)(examples)
    assert found.computed == 24  # it keeps its own
    np.testing.assert_allclose(found.values, expected, atol=1e-4)


def test_the_onnx_model_has_constants_outside_of_variables_and_the_exact_gelu():
    """EfficientNet's normalization has such, of which tf2onnx makes inputs; it does not know erfc, ConvNeXt's GELU."""
    pytest.importorskip("tf2onnx", reason="kerazoo[onnx] is not installed")
    inputs = keras.Input((8, 8, 3))
    scaled = keras.layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0])(inputs)
    model = keras.Model(
        inputs, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, activation="gelu")(scaled))
    )
    batch = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype(np.float32)
    run = engines.make_runner(model, "onnx", batch)
    np.testing.assert_allclose(run(batch), model.predict_on_batch(batch), atol=1e-3)


def test_an_engine_that_is_missing_or_answers_otherwise_is_refused(cache, examples, model, monkeypatch):
    monkeypatch.setitem(engines.PACKAGES, "onnx", ("numpy", "no_such_runtime"))
    with pytest.raises(RecipeError, match=r"transfer.engine='onnx' needs no_such_runtime, .*'kerazoo\[onnx\]'"):
        FeaturePass(model, spec(), engine="onnx")(examples)

    monkeypatch.setitem(engines.PACKAGES, "onnx", ())

    def wrong(model):
        return lambda pixels: np.asarray(model.predict_on_batch(pixels)) * 1.01

    monkeypatch.setattr(engines, "_onnx", wrong)
    with pytest.raises(KerazooError, match=r"engine 'onnx' gives other vgg_small_features than Keras"):
        FeaturePass(model, spec(), engine="onnx")(examples)
    assert not list(cache.glob("*/*.npy"))


@pytest.mark.slow  # three passes over files
def test_another_version_of_an_engine_makes_its_own_features(cache, examples, model, monkeypatch):
    monkeypatch.setitem(engines.PACKAGES, "onnx", ("numpy",))
    monkeypatch.setattr(engines, "_onnx", lambda model: lambda pixels: np.asarray(model.predict_on_batch(pixels)))
    assert FeaturePass(model, spec(), engine="onnx")(examples).computed == 24
    assert FeaturePass(model, spec(), engine="onnx")(examples).computed == 0
    monkeypatch.setattr(np, "__version__", "0.0.1")
    assert FeaturePass(model, spec(), engine="onnx")(examples).computed == 24


def test_what_a_killed_process_left_is_swept_after_a_day(cache, examples, model):
    FeaturePass(model, spec())(examples)
    (folder,) = cache.iterdir()
    fresh, old = folder / "fresh.1.tmp", folder / "old.1.tmp"
    for path in (fresh, old):
        path.write_bytes(b"half")
    a_day_ago = time.time() - 86_500
    os.utime(old, (a_day_ago, a_day_ago))
    FeaturePass(model, spec())(examples)
    assert sorted(path.name for path in folder.glob("*.tmp")) == ["fresh.1.tmp"]
