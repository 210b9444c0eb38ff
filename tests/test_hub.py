"""Backbones of keras-hub: the features of its own pipeline, runs that need no preset, and what is refused."""

import json
import os
import shutil
import signal
import tarfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import as_arrays, log_lines, make_images
from PIL import Image

pytest.importorskip("keras_hub")
from hub_presets import FAMILIES, SIZE, expected_features, save_preset
from test_transfer import keep_all, state_of

import kerazoo
from kerazoo.files import sha256
from kerazoo.models.heads.classifier import feature_extractor
from kerazoo.models.hub.backbone import hub_backbone
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


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return as_arrays(make_images(tmp_path_factory.mktemp("hub") / "shapes", count=16, size=SIZE))


def tuned(data, folder, kind, preset, root, **arguments):
    """A run that fine-tunes the preset in `folder`."""
    return kerazoo.finetune(
        data, f"hub:{folder}", preset=preset, epochs=2, batch_size=8, root=root, **arguments,
        settings={"data.validation": 0.25, "transfer.penalties": [0.1], "checkpoint.steps": 1},
    )  # fmt: skip


WAYS = (
    pytest.param(
        "ViTBackbone", "lora", {"dropout_rate": 0.1}, marks=pytest.mark.slow(reason="a fine-tuning and an export")
    ),
    pytest.param("SigLIPVisionEncoder", "norm", {}, marks=pytest.mark.slow(reason="a fine-tuning and an export")),
    pytest.param("MobileNetBackbone", "full", {}, marks=pytest.mark.slow(reason="a fine-tuning and an export")),
    pytest.param("DINOV2Backbone", "light", {}, marks=pytest.mark.slow(reason="a fine-tuning and an export")),
)


@pytest.mark.parametrize(("kind", "preset", "config"), WAYS)
def test_a_run_needs_no_preset_from_then_on(kind, preset, config, data, tmp_path, monkeypatch):
    """Fine-tuned, evaluated, exported through the gate and asked, with the preset removed after the training."""
    keep_all(monkeypatch)
    folder = tmp_path / "tiny"
    save_preset(folder, kind, **config)
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: tiny-terms\nlicense_link: LICENSE\n---\n")
    with log_lines() as lines:
        run = tuned(data, folder, kind, preset, tmp_path / "runs", name="first")
    assert sum("license tiny-terms: see LICENSE" in line for line in lines) == 1
    record = json.loads((run.folder / "run.json").read_text())["preset"]
    assert record["files"]["model.weights.h5"] == sha256(folder / "model.weights.h5")
    before = [np.asarray(weight) for weight in kerazoo.build(f"hub:{folder}", weights="preset").weights]
    shutil.rmtree(folder)
    hub_backbone.cache_clear()
    spec = json.loads((run.folder / "model.json").read_text())
    assert spec["name"] == "hub:tiny"
    assert str(tmp_path) not in json.dumps(spec)
    model = run.model()
    moved = [
        weight.path
        for weight, old in zip(model.weights, before, strict=True)
        if weight.shape == old.shape and not np.array_equal(np.asarray(weight), old)
    ]
    for path in moved:
        if preset == "lora":
            assert path.rsplit("/", 2)[-2] in ("query", "value", "logits"), path
        if preset == "norm":
            assert path.rsplit("/", 1)[-1] in ("gamma", "beta", "kernel", "bias"), path
            assert path.endswith(("gamma", "beta")) or path.startswith("logits"), path
    assert [path for path in moved if not path.startswith("logits")]
    evaluation = run.evaluate()["val"]
    assert evaluation.summary()["val_accuracy"] == run.results["val_accuracy"]
    export = run.export(root=tmp_path / "saved_models")
    assert export.passport["started_from"] == {
        "weights": "preset", "license": "tiny-terms", "license_source": "LICENSE",
    }  # fmt: skip
    Image.fromarray(np.load(data)["x_train"][0]).save(tmp_path / "one.png")
    (by_run,), (by_export,) = (list(kerazoo.predict(thing, [tmp_path / "one.png"])) for thing in (run, export))
    assert by_run.top[0][0] == by_export.top[0][0]
    assert by_run.top[0][1] == pytest.approx(by_export.top[0][1], abs=1e-5)


@pytest.mark.slow(reason="three fine-tunings")
@pytest.mark.parametrize(
    ("kind", "preset", "config"),
    [("ViTBackbone", "lora", {"dropout_rate": 0.1}), ("SwinTransformerBackbone", "full", {"drop_path": 0.3})],
)
def test_a_stopped_run_ends_with_the_same_bits(kind, preset, config, data, tmp_path, monkeypatch):
    save_preset(tmp_path / "tiny", kind, **config)
    whole = tuned(data, tmp_path / "tiny", kind, preset, tmp_path / "whole", name="one")
    with monkeypatch.context() as patch:
        steps = []

        def late(self, batch, logs=None):
            steps.append(batch)
            if len(steps) == 8:
                os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(keras.callbacks.Callback, "on_train_batch_end", late)
        with pytest.raises(kerazoo.Interrupted):
            tuned(data, tmp_path / "tiny", kind, preset, tmp_path / "cut", name="one")
    again = tuned(data, tmp_path / "tiny", kind, preset, tmp_path / "cut", name="one")
    assert state_of(again.folder) == state_of(whole.folder)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("ViTBackbone", (48, 24)),
        *(
            pytest.param(kind, (48,), marks=pytest.mark.slow(reason="as the first, for other families"))
            for kind in ("DINOV2Backbone", "CLIPVisionEncoder", "DeiTBackbone", "VGGBackbone")
        ),
    ],
)
def test_another_size(kind, sizes, tmp_path):
    """Position embeddings are resized as a smooth image is; those of the class token stay."""
    config = {} if kind != "DINOV2Backbone" else {"position_embedding_shape": (SIZE, SIZE)}
    _, backbone, _ = save_preset(tmp_path / "tiny", kind, **config)
    name = f"hub:{tmp_path / 'tiny'}"
    for size in sizes:
        model = kerazoo.build(name, weights="preset", num_classes=2, input_shape=(size, size, 3))
        assert np.isfinite(np.asarray(model(np.zeros((1, size, size, 3), np.float32)))).all()
        for weight in model.weights:
            if "position_embedding" not in weight.path or "ids" in weight.path:
                continue
            old = next(
                np.asarray(w) for w in backbone.weights if w.name == weight.name and "position_embedding" in w.path
            )
            side, grid = SIZE // 8, size // 8
            tokens = KNOWN[kind].tokens
            given = np.asarray(weight).reshape(-1, old.shape[-1])
            np.testing.assert_array_equal(given[:tokens], old.reshape(-1, old.shape[-1])[:tokens])
            patches = old.reshape(-1, old.shape[-1])[tokens:].reshape(side, side, -1)
            wanted = tf.image.resize(patches, (grid, grid), method="bicubic", antialias=kind != "DINOV2Backbone")
            np.testing.assert_allclose(given[tokens:], np.reshape(wanted, given[tokens:].shape), atol=1e-5)
