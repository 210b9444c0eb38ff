"""Images of one channel, or of many, in networks whose weights were learned on three colours."""

import io
import json
import tarfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from test_backbones import FAMILIES, _save_legacy

import kerazoo
from kerazoo.errors import DataError, ModelError, RecipeError, RunError, WeightsError
from kerazoo.exports.export import export_run
from kerazoo.exports.saved_model import ExportedModel
from kerazoo.models.description import ModelSpec
from kerazoo.models.heads.classifier import feature_extractor
from kerazoo.models.registry import find
from kerazoo.models.saved import save_model
from kerazoo.models.weights.channels import adapt_input_channels
from kerazoo.models.weights.loading import fold_scaling, load_features
from kerazoo.pipelines.data.arrays import read
from kerazoo.pipelines.data.load import load_examples
from kerazoo.pipelines.input.augmentation import Augmentation
from kerazoo.pipelines.input.batches import evaluation_batches
from kerazoo.preprocessing.preprocessing import SCALINGS, Preprocessing
from kerazoo.recipes.recipe import make_recipe
from kerazoo.training.train import train
from kerazoo.transfer.finetune import finetune

REAL = "mobilenet_2_5_224_tf_no_top.h5"
# Where the padding differs a little: a layer that sees the first convolution alone, and how far the border reaches
NEAR = {
    "vgg16": ("block1_pool", 2), "resnet50": ("conv1_relu", 2), "densenet121": ("conv1_relu", 2),
    "efficientnet_b0": ("stem_activation", 1), "efficientnet_v2_b0": ("stem_activation", 1),
}  # fmt: skip
QUICK = ("mobilenet_025", "vgg16", "efficientnet_v2_b0")  # each scales in a way of its own
EVERY = [
    # ten seconds and more each: two networks are built, and some have hundreds of layers
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in (*FAMILIES, "nasnet_mobile", "inception_resnet_v2", "efficientnet_v2_s")
]


def flowers(shared, count):
    """(count, 96, 96, 3) uint8 of real photographs."""
    with tarfile.open(shared / "flowers240.tar") as archive:
        members = [member for member in archive if member.name.endswith(".jpg")][:count]
        images = [Image.open(io.BytesIO(archive.extractfile(member).read())) for member in members]
        return np.stack([np.asarray(image.convert("RGB").resize((96, 96))) for image in images])


def both(name, channels, shape=(64, 80), seed=0):
    """The networks for three colours, of random weights, and for `channels`, with the same ones adapted."""
    keras.utils.set_random_seed(seed)
    entry = find(name)
    size = [max(side, entry.smallest) for side in shape]
    three, other = (
        feature_extractor(kerazoo.build(name, input_shape=(*size, c), num_classes=2)) for c in (3, channels)
    )
    rng = np.random.default_rng(seed)
    for layer in three.layers:  # statistics and biases as after training, so that a lost constant is seen
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(rng.normal(0, 0.1, layer.moving_mean.shape))
        if isinstance(layer, keras.layers.Normalization) and layer.built and layer.weights:
            layer.set_weights([np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]) ** 2, np.array(0)])
            layer.finalize_state()
    assert adapt_input_channels(three, other, entry.scaling_of(channels))
    for layer in other.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    return entry, three, other


def tapped(model, layer):
    return keras.Model(model.input, model.get_layer(layer).output)


@pytest.mark.parametrize("name", EVERY)
def test_a_grey_image_gives_what_its_copy_in_three_channels_gave(name):
    entry, three, one = both(name, 1)
    height, width = three.input_shape[1:3]
    rows = np.linspace(0, 3, height)[:, None] + np.linspace(0, 5, width)
    grey = (127 + 100 * np.sin(rows) + np.random.default_rng(0).uniform(-20, 20, (height, width)))[None, ..., None]
    grey = np.round(grey).clip(0, 255).astype(np.uint8)
    x3 = entry.preprocessing(height, width).scale(np.repeat(grey, 3, axis=-1))
    x1 = entry.preprocessing(height, width, channels=1).scale(grey)
    expected, found = three(x3, training=False).numpy(), one(x1, training=False).numpy()
    if name not in NEAR:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
        return
    layer, border = NEAR[name]
    expected, found = (tapped(m, layer)(x, training=False).numpy()[0] for m, x in ((three, x3), (one, x1)))
    inside, scale = (slice(border, -border),) * 2, np.abs(expected).max()
    np.testing.assert_allclose(found[inside], expected[inside], rtol=0, atol=1e-5 * scale)
    assert np.abs(found - expected).max() < 0.2 * scale  # the border: a tint of up to 11 of 255 over the padding


@pytest.mark.parametrize("name", EVERY)
def test_four_channels_are_red_green_blue_and_red_again(name):
    """Where the fourth is a copy of red, what meets the pixels answers 3/4 of (the three, and red once more)."""
    entry, three, four = both(name, 4)
    height, width = three.input_shape[1:3]
    kernels = [
        next(weight.numpy() for weight in model.weights if len(weight.shape) == 4 and weight.shape[2] == channels)
        for model, channels in ((three, 3), (four, 4))
    ]
    colours = kernels[0][:, :, ::-1] if entry.scaling == "caffe" else kernels[0]
    np.testing.assert_allclose(kernels[1], 0.75 * colours[:, :, [0, 1, 2, 0]], rtol=1e-6)
    pixels = np.random.default_rng(0).integers(0, 256, (1, height, width, 3)).astype(np.uint8)
    x3 = entry.preprocessing(height, width).scale(pixels).numpy()
    x4 = entry.preprocessing(height, width, channels=4).scale(pixels[..., [0, 1, 2, 0]]).numpy()
    if not entry.scaling_inside:  # then the network itself scales three
        x3 = x3[..., ::-1] if entry.scaling == "caffe" else x3
        np.testing.assert_allclose(x4, x3[..., [0, 1, 2, 0]], rtol=0, atol=1e-5)
    assert np.isfinite(four(x4, training=False).numpy()).all()


def test_the_real_weights_on_real_images_in_grey(shared):
    """Scaled alike in every channel: nothing differs, padding included."""
    source = shared / "weights" / REAL
    pixels = np.asarray([np.asarray(Image.fromarray(p).convert("L")) for p in flowers(shared, 4)])[..., None]
    models = [
        feature_extractor(kerazoo.build("mobilenet_025", weights=source, input_shape=(96, 96, c), num_classes=2))
        for c in (3, 1)
    ]
    scale = find("mobilenet_025").preprocessing(96, 96).scale
    expected, found = models[0](scale(np.repeat(pixels, 3, -1))).numpy(), models[1](scale(pixels)).numpy()
    assert expected.std(axis=0).max() > 0.1  # real features, which differ from image to image
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow  # two EfficientNets
def test_efficientnet_is_folded_before_it_is_adapted(tmp_path):
    """By path: its extra 1 / sqrt(std), then one channel. The published network has them as layers."""
    keras.utils.set_random_seed(0)
    made = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(40, 40, 3), pooling="avg")
    norm = next(layer for layer in made.layers if isinstance(layer, keras.layers.Normalization))
    norm.set_weights([np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]), np.array(0)])
    _save_legacy(made, tmp_path / "b0.h5")
    one = kerazoo.build("efficientnet_b0", input_shape=(40, 40, 1), num_classes=2)
    load_features(one, tmp_path / "b0.h5", scaling="published")
    fold_scaling(made, (0.229, 0.224, 0.225))
    grey = np.random.default_rng(0).integers(0, 256, (1, 40, 40, 1)).astype(np.float32)
    expected = tapped(made, "stem_activation")(np.repeat(grey, 3, -1)).numpy()[0, 1:-1, 1:-1]
    found = tapped(one, "stem_activation")(grey).numpy()[0, 1:-1, 1:-1]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow  # seven networks
def test_a_model_folder_of_three_channels_gives_to_others(tmp_path):
    arguments = {"input_shape": (40, 40, 3), "num_classes": 3}
    three = kerazoo.build("mobilenet_025", **arguments)
    spec = ModelSpec("mobilenet_025", arguments, find("mobilenet_025").preprocessing(40, 40), ("a", "b", "c"))
    save_model(tmp_path, spec, three)
    one = kerazoo.build("mobilenet_025", input_shape=(40, 40, 1), num_classes=2, weights=tmp_path)
    summed = three.get_layer("conv1").kernel.numpy().sum(axis=2, keepdims=True)
    np.testing.assert_allclose(one.get_layer("conv1").kernel, summed, rtol=0, atol=1e-6)
    (tmp_path / "grey").mkdir()
    arguments = {"input_shape": (40, 40, 1), "num_classes": 2}
    spec = ModelSpec("mobilenet_025", arguments, Preprocessing(40, 40, 1, scaling="tf"), ("a", "b"))
    save_model(tmp_path / "grey", spec, one)
    with pytest.raises(WeightsError, match="grey are for mobilenet_025; they do not fit this mobilenet_025"):
        kerazoo.build("mobilenet_025", input_shape=(40, 40, 3), weights=tmp_path / "grey")
    feature_extractor(one).save_weights(tmp_path / "one.weights.h5")
    again = kerazoo.build("mobilenet_025", input_shape=(40, 40, 1), num_classes=2, weights=tmp_path / "one.weights.h5")
    np.testing.assert_array_equal(one.get_layer("conv1").kernel, again.get_layer("conv1").kernel)
    for channels in (3, 4):
        with pytest.raises(WeightsError, match="one.weights.h5 do not fit mobilenet_025"):
            kerazoo.build("mobilenet_025", input_shape=(40, 40, channels), weights=tmp_path / "one.weights.h5")


def test_pixels_keep_their_channels_and_encoded_images_have_one_or_three():
    pixels = np.random.default_rng(0).integers(0, 256, (31, 17, 6)).astype(np.uint8)
    for fit in ("crop", "pad", "stretch"):
        fitted = Preprocessing(12, 20, 6, resize=fit).resize_pixels(pixels).numpy()
        for first in (0, 3):  # channels are fitted apart from one another
            three = Preprocessing(12, 20, 3, resize=fit).resize_pixels(pixels[..., first : first + 3]).numpy()
            np.testing.assert_array_equal(fitted[..., first : first + 3], three)
    for channels in (1, 3, 4):
        with pytest.raises(ModelError, match=f"images with 6 channels cannot be converted to {channels}"):
            Preprocessing(12, 20, channels).resize_pixels(pixels)
    with pytest.raises(ModelError, match="encoded images have 1 or 3 channels, but 4 are needed"):
        Preprocessing(12, 20, 4).decode(b"")
    grey = np.full((2, 2, 1), 100.0)
    expected = {"none": 100, "unit": 100 / 255, "tf": 100 / 127.5 - 1, "caffe": 100 - 344.398 / 3}
    expected["torch"] = (100 / 255 - 0.449) / (0.678 / 3)
    for scaling in set(SCALINGS) - {"numbers"}:
        found = Preprocessing(2, 2, 1, scaling=scaling).scale(grey).numpy()
        np.testing.assert_allclose(found, expected[scaling], rtol=1e-5)


def test_arrays_of_any_channels_are_read_and_channels_first_are_named(tmp_path):
    y, path = np.arange(6) % 2, tmp_path / "data.npz"
    np.savez(path, x_train=np.zeros((6, 32, 32, 5), np.uint8), y_train=y)
    assert read(path).pixels.shape == (6, 32, 32, 5)
    np.savez(path, x_train=np.zeros((6, 5, 32, 32), np.uint8), y_train=y)
    with pytest.raises(DataError, match=r"looks like channels first; .* changes it to \(6, 32, 32, 5\)"):
        read(path)
    np.savez(path, x_train=np.zeros((6, 32, 32, 0), np.uint8), y_train=y)
    with pytest.raises(DataError, match="must be uint8 images of shape"):
        read(path)


@pytest.mark.parametrize("policy", ["none", "light", "standard", "strong"])
def test_augmentation_keeps_every_channel(policy):
    pixels = tf.constant(np.random.default_rng(0).integers(0, 256, (24, 24, 5)).astype(np.uint8))
    for seed in range(12):
        out = Augmentation(policy=policy)(pixels, tf.constant([seed, 0], tf.int64))
        assert out.shape == pixels.shape
        assert len({out.numpy()[..., c].tobytes() for c in range(5)}) > 1  # not one channel, copied


@pytest.fixture
def many(tmp_path):
    """An .npz of two classes that only the fourth of four channels tells apart."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 120, (48, 40, 40, 4)).astype(np.uint8), np.arange(48) % 2
    x[y == 1, 10:30, 10:30, 3] += 120
    path = tmp_path / "many.npz"
    np.savez(path, x_train=x[:32], y_train=y[:32], x_val=x[32:], y_val=y[32:])
    return path


@pytest.mark.slow  # a fine-tuning and an export; test_pipeline.py has one of three channels
def test_four_channels_from_arrays_to_an_export(shared, many, tmp_path):
    values = {
        "model": {"name": "mobilenet_025"}, "data": {"path": str(many)}, "training": {"epochs": 0, "batch_size": 16},
        "transfer": {"weights": str(shared / "weights" / REAL)},
    }  # fmt: skip
    run = finetune(make_recipe(values), root=tmp_path / "runs")
    state = json.loads((run.folder / "run.json").read_text())
    assert state["results"]["val_accuracy"] > 0.8  # by chance 0.5
    folder = export_run(run, root=tmp_path / "saved")
    passport = json.loads((folder / "assets.extra/passport.json").read_text())
    assert passport["gate"]["images"] == 16
    assert passport["preprocessing"]["channels"] == 4
    exported = ExportedModel(folder)
    with np.load(many) as data:
        answers = exported.image_probabilities(data["x_val"].astype(np.float32))
    np.testing.assert_allclose(answers, np.load(run.folder / "evaluation" / "val.npy"), rtol=0, atol=1e-5)
    with pytest.raises(RunError, match="for images with 4 channels, which encoded images cannot have; call"):
        exported.rows([b""])
    with pytest.raises(RecipeError, match="data.channels=3, but the arrays have 4 channels; remove it"):
        finetune(make_recipe(values, ["data.channels=3"]), root=tmp_path / "runs")
    own = {"model": {"name": "cnn"}, "data": {"path": str(many)}, "training": {"epochs": 1, "batch_size": 16}}
    run = train(make_recipe(own), root=tmp_path / "runs")
    assert json.loads((run.folder / "model.json").read_text())["arguments"]["input_shape"] == [40, 40, 4]


@pytest.mark.slow  # two trainings and an export
def test_grey_arrays_are_copied_unless_one_channel_is_asked_for(shared, many, tmp_path):
    with np.load(many) as data:
        grey = {key: value[..., 3:] if key.startswith("x") else value for key, value in data.items()}
    np.savez(tmp_path / "grey.npz", **grey)
    answers = []
    for number, settings in enumerate(([], ["data.channels=1"])):
        values = {
            "model": {"name": "mobilenet_025"}, "data": {"path": str(tmp_path / "grey.npz")},
            "training": {"epochs": 0, "batch_size": 16}, "transfer": {"weights": str(shared / "weights" / REAL)},
        }  # fmt: skip
        run = finetune(make_recipe(values, settings), root=tmp_path / "runs", name=f"r{number}")
        channels = json.loads((run.folder / "model.json").read_text())["preprocessing"]["channels"]
        assert channels == (1 if settings else 3)
        answers.append(np.load(run.folder / "evaluation" / "val.npy"))
    np.testing.assert_allclose(*answers, rtol=0, atol=1e-3)


def test_a_network_and_images_of_other_channels_are_one_clear_line(many, images):
    recipes = (make_recipe({"model": {"name": "cnn"}, "data": {"path": str(path)}}) for path in (many, images))
    four, folder = (load_examples(recipe.data) for recipe in recipes)
    with pytest.raises(
        DataError, match=r"many.npz has arrays with 4 channels, but the network needs 3; build the network for"
    ):
        evaluation_batches(four, Preprocessing(40, 40))
    with pytest.raises(DataError, match=r"images has encoded images with 1 or 3 channels, but the network needs 4"):
        evaluation_batches(folder, Preprocessing(40, 40, 4))
    assert evaluation_batches(folder, Preprocessing(40, 40, 1)).element_spec[0].shape[1:] == (40, 40, 1)
