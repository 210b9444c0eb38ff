"""The contract of every pretrained backbone. One of each family by default; the whole table in the slow tier."""

import functools
import hashlib
import importlib
import threading
import warnings
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import keras
import numpy as np
import pytest
from test_layers import assert_size_formula
from test_networks import assert_contract, assert_rebuilds

import kerazoo
from kerazoo.errors import ModelError, WeightsError
from kerazoo.models.heads.classifier import feature_extractor
from kerazoo.models.keras_applications import BACKBONES
from kerazoo.models.registry import find
from kerazoo.models.weights.loading import copy_weights, load_features
from kerazoo.models.weights.published import published as published_entry
from kerazoo.models.weights.scaling_layers import has_published_scaling

FAMILIES = (
    "vgg16", "resnet50", "mobilenet_025", "mobilenet_v2_035", "mobilenet_v3_small",
)  # fmt: skip

# Published counts, with keras.applications' own top of 1000 classes (keras.io/api/applications and the papers)
PUBLISHED = {
    "vgg16": 138_357_544, "vgg19": 143_667_240, "resnet50": 25_636_712, "resnet101": 44_707_176,
    "resnet152": 60_419_944, "resnet50_v2": 25_613_800, "inception_v3": 23_851_784,
    "inception_resnet_v2": 55_873_736, "xception": 22_910_480, "mobilenet_100": 4_253_864,
    "mobilenet_v2_100": 3_538_984, "mobilenet_v3_small": 2_554_968, "mobilenet_v3_large": 5_507_432,
    "densenet121": 8_062_504, "densenet169": 14_307_880, "densenet201": 20_242_984, "nasnet_mobile": 5_326_716,
    "nasnet_large": 88_949_818, "efficientnet_b0": 5_330_571, "efficientnet_v2_s": 21_612_360,
    "efficientnet_v2_m": 54_431_388, "convnext_tiny": 28_589_128, "convnext_small": 50_223_688,
    "convnext_base": 88_591_464,
}  # fmt: skip


def top(name: str) -> int:
    """Parameters of keras.applications' own top for 1000 classes, by formula."""
    features = find(name).features
    if name.startswith("vgg"):  # flattened 7x7 map, two layers of 4096
        return (7 * 7 * 512 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 1000
    if name.startswith("mobilenet_v3"):  # one more convolution before the classes
        wide = 1024 if "small" in name else 1280
        return (features + 1) * wide + (wide + 1) * 1000
    return (features + 1) * 1000


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_registered_counts_are_the_published_ones(name):
    assert find(name).parameters + top(name) == PUBLISHED[name]


@pytest.mark.parametrize(
    "name",
    [
        # minutes and gigabytes: 43 networks of up to 350 million parameters
        b.name if b.name in FAMILIES else pytest.param(b.name, marks=pytest.mark.slow)
        for b in BACKBONES
    ],
)
def test_contract(name, tmp_path):
    entry = find(name)
    keras.utils.set_random_seed(0)
    shape = (entry.smallest + 1 | 1, entry.smallest + 9 | 1, 3)  # odd, not square
    x = np.random.default_rng(0).uniform(0, 255, (2, *shape)).astype(np.float32)
    x = np.array(entry.preprocessing(*shape[:2]).scale(x))
    model = kerazoo.build(name, input_shape=shape, num_classes=3)
    assert_contract(model, x, 3)
    assert assert_size_formula(model)
    assert model.count_params() == entry.parameters + (entry.features + 1) * 3
    assert model.get_layer("features").output.shape == (None, entry.features)
    assert all(isinstance(model.get_layer(stage).output, keras.KerasTensor) for stage in entry.stages)
    sizes = [model.get_layer(stage).output.shape[1] for stage in entry.stages]
    assert sizes == sorted(sizes, reverse=True)
    assert_rebuilds(model, kerazoo.build(name, input_shape=shape, num_classes=3), x, tmp_path)
    keras.backend.clear_session()


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.name)
def test_preprocessing_is_that_of_keras_applications(backbone):
    family = importlib.import_module(f"keras.applications.{backbone.module}")
    x = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3)).astype(np.uint8)
    expected = family.preprocess_input(x.astype(np.float32))
    np.testing.assert_allclose(backbone.preprocessing().scale(x), expected, rtol=0, atol=1e-6)


def test_sizes_below_the_smallest_are_refused():
    for name, size in (("vgg16", 31), ("inception_v3", 74), ("xception", 70)):
        with pytest.raises(ModelError, match=f"{name}: .*height and width must be at least {size + 1} px"):
            kerazoo.build(name, input_shape=(size, 224, 3))


def test_the_real_checkpoint_loads_into_every_layer(shared):
    """The published MobileNet weights, by path: equal to what keras.applications itself makes of the file."""
    path = shared / "weights" / "mobilenet_2_5_224_tf_no_top.h5"
    ours = feature_extractor(kerazoo.build("mobilenet_025", weights=path, num_classes=4))
    theirs = keras.applications.MobileNet(
        alpha=0.25, include_top=False, weights=str(path), input_shape=(224, 224, 3), pooling="avg"
    )
    for a, b in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_of_another_architecture_are_refused(shared, tmp_path):
    path = shared / "weights" / "mobilenet_2_5_224_tf_no_top.h5"
    for name in ("mobilenet_050", "mobilenet_v2_035", "vgg16"):
        with pytest.raises(WeightsError, match=f"{path.name} do not fit {name}"):
            kerazoo.build(name, weights=path, num_classes=4)
    cut = tmp_path / "cut.h5"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    page = tmp_path / "page.h5"
    page.write_text("<html>not found</html>")
    for bad in (cut, page, tmp_path / "missing.h5"):
        with pytest.raises(WeightsError, match=bad.name):
            kerazoo.build("mobilenet_025", weights=bad, num_classes=4)


def test_weights_in_the_new_format_are_checked_too(tmp_path):
    model = kerazoo.build("bottleneck_cnn", num_classes=3)
    feature_extractor(model).save_weights(tmp_path / "features.weights.h5")
    again = kerazoo.build("bottleneck_cnn", num_classes=5)
    load_features(again, tmp_path / "features.weights.h5")
    np.testing.assert_array_equal(model.layers[1].kernel, again.layers[1].kernel)
    for other in ("cnn", "resnet20"):
        with pytest.raises(WeightsError, match="do not fit"):
            load_features(kerazoo.build(other), tmp_path / "features.weights.h5")
    # Keras itself would load the first layers of a deeper network without a word
    deeper = kerazoo.build("vgg_small", filters=(32, 64, 128, 64))
    feature_extractor(deeper).save_weights(tmp_path / "deeper.weights.h5")
    with pytest.raises(WeightsError, match="do not fit vgg_small"):
        load_features(kerazoo.build("vgg_small"), tmp_path / "deeper.weights.h5")


@pytest.fixture
def server(tmp_path):
    """A loopback HTTP server over tmp_path/www; gives its URL and folder."""
    folder = tmp_path / "www"
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/", folder
        http.shutdown()
        thread.join()


def test_imagenet_weights_are_fetched_by_name(server, tmp_path, monkeypatch, capsys):
    """From a loopback server with a weights file made on the spot; `test_published.py` has all that may go wrong."""
    url, folder = server
    made = keras.applications.MobileNet(alpha=0.5, include_top=False, weights=None, input_shape=(224, 224, 3))
    name = "mobilenet_5_0_224_tf_no_top.h5"
    monkeypatch.setenv("KERAZOO_WEIGHTS_MIRROR", url)
    monkeypatch.setenv("KERAZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    with pytest.raises(WeightsError, match=r"no ImageNet weights for mobilenet_050: .*404.*--weights PATH"):
        kerazoo.build("mobilenet_050", weights="imagenet", num_classes=4)

    _save_legacy(made, folder / name)
    model = kerazoo.build("mobilenet_050", weights="imagenet", num_classes=4)
    for a, b in zip(feature_extractor(model).weights, made.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (tmp_path / "cache" / "weights" / name).is_file()
    assert not capsys.readouterr().out  # standard output is for results


@pytest.mark.slow  # it builds an EfficientNet five times; the next test has one of a file
def test_efficientnet_is_the_published_one_by_name_by_path_and_rebuilt(server, tmp_path, monkeypatch):
    """Keras gives EfficientNet one more layer with weights="imagenet"; ours holds it in its Normalization."""
    url, folder = server
    shape = (40, 40, 3)
    made = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=shape, pooling="avg")
    norm = next(layer for layer in made.layers if isinstance(layer, keras.layers.Normalization))
    norm.set_weights([np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]), np.array(0)])
    for layer in made.layers:  # statistics that let differences through
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_variance.assign(layer.moving_variance * 0.05)
    path = folder / "efficientnetb0_notop.h5"
    _save_legacy(made, path)
    source = importlib.import_module("keras.src.applications.efficientnet")
    monkeypatch.setattr(source, "BASE_WEIGHTS_PATH", url)
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setitem(source.WEIGHTS_HASHES, "b0", ("", digest))
    (tmp_path / "home").mkdir()
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(tmp_path / "home"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    entry = replace(published_entry("efficientnet_b0"), md5=digest)
    for module in ("download", "scaling_layers"):
        monkeypatch.setattr(f"kerazoo.models.weights.{module}.published", lambda name: entry)
    x = np.random.default_rng(0).uniform(0, 255, (2, *shape)).astype(np.float32)
    published = keras.applications.EfficientNetB0(
        include_top=False, weights="imagenet", input_shape=shape, pooling="avg"
    )
    expected = published(x, training=False).numpy()
    assert np.abs(expected - made(x, training=False).numpy()).max() > 1e-3 * np.abs(expected).max()

    arguments = {"input_shape": shape, "num_classes": 2}
    by_name = kerazoo.build("efficientnet_b0", weights="imagenet", **arguments)
    by_path = kerazoo.build("efficientnet_b0", weights=path, **arguments)
    by_name.save_weights(tmp_path / "run.weights.h5")
    rebuilt = kerazoo.build("efficientnet_b0", **arguments)
    rebuilt.load_weights(tmp_path / "run.weights.h5")
    features = feature_extractor(kerazoo.build("efficientnet_b0", **arguments))
    copy_weights(feature_extractor(by_name), features)
    loaded = kerazoo.build("efficientnet_b0", **arguments)
    load_features(loaded, path)
    for model in (by_name, by_path, rebuilt, loaded):
        found = feature_extractor(model)(x, training=False).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_array_equal(features(x, training=False), feature_extractor(by_name)(x, training=False))

    for save in (_save_legacy, weights):  # Keras's own network with its further layer, saved by its user
        save(published, tmp_path / f"imagenet.{save.__name__}.h5")
        load_features(loaded, tmp_path / f"imagenet.{save.__name__}.h5")
        found = feature_extractor(loaded)(x, training=False).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())

    copy = tmp_path / "copy.h5"  # of other bytes: a copy of it, or tuned from its path on
    norm.finalize_state()
    plain = made(x, training=False)
    _save_legacy(made, copy)
    with copy.open("ab") as file:
        file.write(b"0")
    with pytest.raises(WeightsError, match=r"copy.h5 is not the file that Keras publishes.*transfer.scaling=published"):
        load_features(loaded, copy)
    for scaling, wanted in (("published", expected), ("plain", plain)):
        load_features(loaded, copy, scaling=scaling)
        found = feature_extractor(loaded)(x, training=False).numpy()
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow  # a network of 4 million weights, several times
def test_an_efficientnet_of_ones_own_is_scaled_as_keras_does(tmp_path):
    """Built with weights=None, as Keras leaves its Normalization, or adapted to data: no further 1 / sqrt(std)."""
    shape = (40, 40, 3)
    own = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=shape, pooling="avg")
    norm = next(layer for layer in own.layers if isinstance(layer, keras.layers.Normalization))
    for layer in own.layers:  # statistics that let differences through
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_variance.assign(layer.moving_variance * 0.05)
    x = np.random.default_rng(0).uniform(0, 255, (2, *shape)).astype(np.float32)
    ours = kerazoo.build("efficientnet_b0", input_shape=shape, num_classes=2)
    for mean, variance in (((0, 0, 0), (1, 1, 1)), ((0.4, 0.5, 0.6), (0.06, 0.05, 0.07))):
        norm.set_weights([np.array(mean), np.array(variance), np.array(0)])
        norm.finalize_state()
        expected = own(x, training=False).numpy()
        for save in (weights,) if any(mean) else (_save_legacy, _save_whole, weights):
            path = tmp_path / f"own.{save.__name__}.h5"
            save(own, path)
            load_features(ours, path)
            found = feature_extractor(ours)(x, training=False).numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())

    # a file that does not list its layers: only what Keras leaves with weights=None is sure
    features, std = feature_extractor(ours), find("efficientnet_b0").published_std
    with pytest.raises(WeightsError, match=r"does not record how its pixels were scaled; set transfer"):
        has_published_scaling(path, None, features, std, None)
    next(layer for layer in features.layers if isinstance(layer, keras.layers.Normalization)).set_weights(
        [np.zeros(3), np.ones(3), np.array(0)]
    )
    assert not has_published_scaling(path, None, features, std, None)


@pytest.mark.slow  # whole backbones; the tests beside it have small ones
def test_a_network_that_was_saved_without_its_preprocessing_is_asked_about(tmp_path):
    """The same arrays, but trained on pixels that were scaled before the network: nobody knows how."""
    arguments = {"include_top": False, "weights": None, "input_shape": (32, 32, 3), "pooling": "avg"}
    ours = kerazoo.build("mobilenet_v3_small", input_shape=(32, 32, 3), num_classes=2)
    for inside in (True, False):
        theirs = keras.applications.MobileNetV3Small(include_preprocessing=inside, **arguments)
        for save in (_save_legacy, weights):
            path = tmp_path / f"v3.{save.__name__}.h5"
            save(theirs, path)
            if inside:
                load_features(ours, path)
                continue
            with pytest.raises(WeightsError, match="with 0 Rescaling and 0 Norm.*has 1 Rescaling and 0 Norm.*scaling="):
                load_features(ours, path)
            load_features(ours, path, scaling="published")
            np.testing.assert_array_equal(theirs.get_weights()[0], feature_extractor(ours).get_weights()[0])
    theirs.save(tmp_path / "v3.keras")
    with pytest.raises(WeightsError, match=r"v3.keras is a complete model, .*save_weights"):
        load_features(ours, tmp_path / "v3.keras")


def _save_legacy(model: keras.Model, path) -> None:
    """The format of the published files: Keras's HDF5 of before version 3."""
    import h5py
    from keras.src.legacy.saving import legacy_h5_format

    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


def _save_whole(model: keras.Model, path) -> None:
    """The whole model in the older format."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras.saving.save_model(model, path)


def weights(model: keras.Model, path) -> None:
    """The newer format of weights; Keras insists on the ending .weights.h5."""
    model.save_weights(path)
