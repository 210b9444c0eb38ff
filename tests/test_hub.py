"""Backbones of keras-hub: the features of its own pipeline, runs that need no preset, and what is refused."""

import json
import tarfile

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("keras_hub")
from hub_presets import FAMILIES, SIZE, expected_features, save_preset

import kerazoo
from kerazoo.models.heads.classifier import feature_extractor
from kerazoo.models.hub.families import FAMILIES as KNOWN
from kerazoo.models.hub.presets import TABLE, table
from kerazoo.models.registry import find

QUICK = ("ViTBackbone", "SigLIPVisionEncoder", "MobileNetBackbone")
OTHERS = [
    pytest.param(kind, marks=pytest.mark.slow(reason="keras-hub builds each family four times"))
    for kind in FAMILIES
    if kind not in QUICK
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Real photos, cut (not resized) to the input size: (N, 32, 32, 3) uint8."""
    from conftest import SHARED

    if not SHARED.is_dir():
        pytest.skip(f"the real data sets are not at {SHARED}")
    images = []
    with tarfile.open(SHARED / "flowers240.tar") as tar:
        for member in tar:
            if member.name.endswith(".jpg") and len(images) < 6:
                pixels = tf.io.decode_jpeg(tar.extractfile(member).read(), dct_method="INTEGER_ACCURATE").numpy()
                images.append(pixels[20 : 20 + SIZE, 30 : 30 + SIZE])
    return np.stack(images)


@pytest.mark.parametrize("kind", [*QUICK, *OTHERS])
def test_features_are_those_of_keras_hub(kind, photos, tmp_path):
    """Preprocessing, weights and pooling, against keras-hub's own converter and backbone."""
    whole, backbone, converter = save_preset(tmp_path / "preset", kind)
    name = f"hub:{tmp_path / 'preset'}"
    wanted = expected_features(kind, whole, backbone, np.asarray(converter(photos)))
    preprocessing = kerazoo.describe(name).preprocessing()
    pixels = np.stack([preprocessing.prepare(photo) for photo in photos])
    model = kerazoo.build(name, weights="preset", num_classes=3)
    given = np.asarray(feature_extractor(model)(pixels, training=False))
    assert np.abs(wanted).max() > 1e-3
    assert np.ptp(wanted, axis=0).max() > 1e-4, "the same for all photos, so the test is blind"
    np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-5)
    stages = find(name).stages
    assert set(stages) <= {layer.name for layer in model.layers}
    assert len(stages) >= 2
    if FAMILIES[kind].get("num_layers"):
        assert len(stages) == FAMILIES[kind]["num_layers"] + (kind != "MiTBackbone")
    assert find(name).parameters == model.count_params() - model.get_layer("logits").count_params()


def test_the_table_is_that_of_the_installed_keras_hub():
    import keras_hub

    wanted = json.loads(TABLE.read_text())["keras_hub"]
    assert wanted.split(".")[:2] == keras_hub.__version__.split(".")[:2]
    for name, (kind, handle, parameters) in table().items():
        own = getattr(keras_hub.models, kind).presets[name]
        assert (own["kaggle_handle"], own["metadata"]["params"]) == (handle, parameters)
    assert set(KNOWN) == set(FAMILIES)
