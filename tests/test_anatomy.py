"""Anatomy: parameters, MACs and receptive fields as published, closed forms, files, drawings, and the command."""

import html
import io
import json
import re
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import call, make_images
from keras import layers, ops
from PIL import Image

import kerazoo
from kerazoo import api
from kerazoo.errors import InputError, ModelError
from kerazoo.insight.anatomy import anatomy_of
from kerazoo.insight.field_picture import BEYOND, EDGE, Box, box_of, draw_field
from kerazoo.keras_private import without_variables
from kerazoo.models.macs import macs
from kerazoo.models.registry import ENTRIES, construct

# side in px, parameters, trainable ones (None: not stated), GMACs as published (torchvision, or the paper), their
# decimals, receptive field, jump; include_top, as keras.applications builds it. Fields: Google's table of receptive
# fields, distill.pub/2019/computing-receptive-fields, and the gradient (test_receptive_field.py)
PINNED = {
    "VGG16": (224, 138_357_544, None, 15.470, 3, 212, 32),
    "VGG19": (224, 143_667_240, None, 19.632, 3, 268, 32),
    "ResNet50": (224, 25_636_712, 25_583_592, 3.858, 3, 483, 32),
    "ResNet101": (224, 44_707_176, None, 7.570, 3, 1027, 32),
    "ResNet152": (224, 60_419_944, None, 11.282, 3, 1507, 32),
    "ResNet50V2": (224, 25_613_800, None, 3.482, 3, 483, 32),
    "InceptionV3": (299, 23_851_784, 23_817_352, 5.713, 3, 1311, 32),
    "InceptionResNetV2": (299, 55_873_736, None, 13.156, 3, 3039, 32),
    "Xception": (299, 22_910_480, None, 8.357, 3, 1083, 32),
    "MobileNet": (224, 4_253_864, None, 0.569, 3, 315, 32),
    "MobileNetV2": (224, 3_538_984, 3_504_872, 0.3008, 4, 491, 32),
    "MobileNetV3Small": (224, 2_554_968, None, 0.0565, 4, 639, 32),
    "MobileNetV3Large": (224, 5_507_432, 5_483_032, 0.2166, 4, 595, 32),
    "DenseNet121": (224, 8_062_504, 7_978_856, 2.834, 3, 2071, 32),
    "DenseNet169": (224, 14_307_880, None, 3.360, 3, 3351, 32),
    "DenseNet201": (224, 20_242_984, None, 4.291, 3, 3863, 32),
    "NASNetMobile": (224, 5_326_716, None, 0.564, 3, 2407, 32),
    "NASNetLarge": (331, 88_949_818, None, 23.783, 3, 3303, 32),
    "EfficientNetB0": (224, 5_330_571, 5_288_548, 0.3858, 4, 851, 32),
    "EfficientNetB1": (240, None, None, 0.687, 3, 1183, 32),
    "EfficientNetB2": (288, None, 9_109_994, 1.088, 3, None, 32),
    "EfficientNetB3": (300, None, None, 1.827, 3, 1407, 32),
    "EfficientNetB4": (380, None, None, 4.394, 3, 1799, 32),
    "EfficientNetB5": (456, None, 30_389_784, 10.266, 3, 2131, 32),
    "EfficientNetB7": (600, None, None, 37.746, 3, 3079, 32),
    "EfficientNetV2S": (384, 21_612_360, None, 8.366, 3, 1487, 32),
    "EfficientNetV2M": (480, 54_431_388, 54_139_356, 24.582, 3, 2219, 32),
    "ConvNeXtTiny": (224, 28_589_128, None, 4.456, 3, 1688, 32),
    "ConvNeXtSmall": (224, 50_223_688, None, 8.684, 3, 3416, 32),
    "ConvNeXtBase": (224, 88_591_464, None, 15.355, 3, 3416, 32),
}
GATED = ("MobileNetV3", "EfficientNet")  # with squeeze and excitation
ENDPOINTS = {  # the fields of inner layers, of Google's table
    "VGG16": {"block1_pool": 6, "block2_pool": 16, "block3_pool": 44, "block4_pool": 100, "block5_pool": 212},
    "ResNet50": {"conv2_block3_out": 35, "conv3_block4_out": 99, "conv4_block6_out": 291, "conv5_block3_out": 483},
    "InceptionV3": {"mixed0": 63, "mixed3": 159, "mixed7": 927, "mixed8": 1055, "mixed9": 1183, "mixed10": 1311},
}
PADDING = {"VGG16": 90, "InceptionV3": 618, "InceptionResNetV2": 1482, "MobileNet": 126}  # of the same table
QUICK = ("VGG16", "ResNet50", "MobileNetV3Small")
SLOW_HUB = pytest.mark.slow(reason="keras-hub builds and saves each family")
SLOW = pytest.mark.slow(reason="building 30 networks of keras.applications takes a minute or two")


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=SLOW) for name in PINNED])
def test_the_numbers_are_those_published(name):
    keras.backend.clear_session()
    side, parameters, trainable, gmacs, decimals, size, jump = PINNED[name]
    with without_variables():
        model = getattr(keras.applications, name)(weights=None, input_shape=(side, side, 3))
        rows = anatomy_of(model)
    assert parameters in (None, rows.parameters)
    assert trainable in (None, rows.trainable)
    assert sum(row.parameters for row in rows.layers) == rows.parameters
    assert round(rows.macs / 1e9, decimals) == gmacs
    axes = rows.last_map.field.axes
    assert {axis.jump for axis in axes} == {jump}
    assert size is None or {axis.size for axis in axes} == {size}
    assert rows.last_map.field.global_context == name.startswith(GATED)
    for layer, field in ENDPOINTS.get(name, {}).items():
        assert rows.layer(layer).field.text() == str(field)
    if name in PADDING:
        assert -axes[0].start == PADDING[name]
    assert rows.layers[-1].field.is_whole_image
    assert not any(row.field.unknown for row in rows.layers)


@pytest.mark.parametrize(
    "name",
    [
        entry.name if entry.name in ("cnn", "recurrent", "mobilenet_025") else pytest.param(entry.name, marks=SLOW)
        for entry in ENTRIES
    ],
)  # fmt: skip
def test_the_macs_of_the_list_are_those_of_the_models(name):
    keras.backend.clear_session()
    with without_variables():
        rows = anatomy_of(construct(name))
    head = 0 if kerazoo.describe(name).kind == "network" else rows.layer("logits").macs
    assert kerazoo.describe(name).macs == macs()[name] == rows.macs - head
    assert not any(row.field.unknown for row in rows.layers)


def test_the_list_has_every_model_with_accuracy_and_license():
    assert list(macs()) == [entry.name for entry in ENTRIES]
    info = kerazoo.describe("resnet50")
    assert (info.top1, info.top5, info.license) == (74.9, 92.1, "MIT")
    assert info.to_json()["macs"] == 3_855_925_248
    assert kerazoo.describe("mlp").top1 is None
    assert kerazoo.describe("hub:dinov3_vit_small_lvd1689m").license == "DINOv3 License"
    assert kerazoo.describe("hub:dinov2_small").macs is None


def one(*parts, shape=(10, 12, 6)):
    inputs = keras.Input(shape)
    x = inputs
    for part in parts:
        x = part(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize(
    ("part", "parameters", "macs_of_one"),
    [
        (layers.Conv2D(8, 3), 8 * (9 * 6) + 8, 8 * 10 * 9 * 6 * 8),
        (layers.Conv2D(8, 3, groups=2, use_bias=False), 8 * 9 * 3, 8 * 10 * 9 * 3 * 8),
        (layers.Conv2D(8, (1, 5), strides=2, padding="same"), 8 * 5 * 6 + 8, 5 * 6 * 5 * 6 * 8),
        (layers.DepthwiseConv2D(3, depth_multiplier=2), 9 * 6 * 2 + 12, 8 * 10 * 9 * 6 * 2),
        (layers.SeparableConv2D(8, 3), 9 * 6 + 6 * 8 + 8, 8 * 10 * (9 * 6 + 6 * 8)),
        (layers.Conv2DTranspose(8, 3, strides=2), 9 * 6 * 8 + 8, 10 * 12 * 9 * 6 * 8),
        (layers.Dense(7), 6 * 7 + 7, 10 * 12 * 6 * 7),
        (layers.BatchNormalization(), 24, 0),
        (layers.BatchNormalization(scale=False, center=False), 12, 0),
        (layers.LayerNormalization(), 12, 0),
        (layers.GroupNormalization(2), 12, 0),
        (layers.MaxPooling2D(2), 0, 0),
        (layers.EinsumDense("abcd,de->abce", (10, 12, 7)), 42, 10 * 12 * 6 * 7),
        (lambda x: layers.LSTM(5)(layers.Reshape((10, 72))(x)), 4 * (72 + 5 + 1) * 5, 10 * 4 * 5 * (72 + 5)),
        (lambda x: layers.GRU(5)(layers.Reshape((10, 72))(x)), 3 * 5 * (72 + 5 + 2), 10 * 3 * 5 * (72 + 5)),
        (lambda x: ops.matmul(x, ops.transpose(x, (0, 1, 3, 2))), 0, 10 * 12 * 6 * 12),
        (lambda x: ops.einsum("bhwc,bhwd->bhcd", x, x), 0, 10 * 12 * 6 * 6),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else type(value).__name__,
)
def test_the_cost_of_one_layer(part, parameters, macs_of_one):
    rows = anatomy_of(one(part))
    assert rows.parameters == parameters
    assert rows.macs == macs_of_one


def test_attention_has_the_macs_of_its_formula():
    """N D h (2 d_k + d_v) + h N^2 (d_k + d_v) + N h d_v D."""

    def attend(x):
        x = layers.Reshape((120, 6))(x)
        return layers.MultiHeadAttention(3, 4, value_dim=5)(x, x)

    tokens, width, heads, key, value = 120, 6, 3, 4, 5
    wanted = tokens * width * heads * (2 * key + value) + heads * tokens**2 * (key + value)
    assert anatomy_of(one(attend)).macs == wanted + tokens * heads * value * width


def test_a_vision_transformer_has_the_macs_of_torchvision():
    """ViT-B/16 at 224 px: 17.564 G."""
    inputs = keras.Input((224, 224, 3))
    x = layers.Reshape((196, 768))(layers.Conv2D(768, 16, strides=16)(inputs))
    x = ops.pad(x, ((0, 0), (1, 0), (0, 0)))  # the class token
    for _ in range(12):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(12, 64)(y, y)
        y = layers.Dense(3072, activation="gelu")(layers.LayerNormalization()(x))
        x = x + layers.Dense(768)(y)
    model = keras.Model(inputs, layers.Dense(1000)(x[:, 0]))
    assert round(anatomy_of(model).macs / 1e9, 3) == 17.564


HUB = {  # why the last field is not known: windows of attention, and a call that gives None beside its output
    "DeiTBackbone": "does not run on symbolic tensors", "SwinTransformerBackbone": "it cuts positions in pieces",
}  # fmt: skip
FAMILIES = ("ViTBackbone", "DINOV2Backbone", "DINOV3Backbone", "HGNetV2Backbone", "EfficientNetBackbone", *HUB)


@pytest.mark.parametrize(
    "kind", [name if name == "ViTBackbone" else pytest.param(name, marks=SLOW_HUB) for name in FAMILIES]
)
def test_backbones_of_keras_hub(kind, tmp_path):
    pytest.importorskip("keras_hub")
    from hub_presets import save_preset

    save_preset(tmp_path / "preset", kind)
    rows = kerazoo.anatomy(f"hub:{tmp_path / 'preset'}")
    last = rows.layers[-1].field
    assert sum(row.parameters for row in rows.layers) == rows.parameters
    if kind in HUB:
        assert HUB[kind] in last.unknown
    else:
        assert last.is_whole_image
    if kind == "ViTBackbone":  # patches of 8 px, then 17 tokens of width 16 in two blocks
        projections = 17 * 16 * (4 * 16 + 2 * 32)
        attention = 2 * 17 * 17 * (8 + 8)
        head = rows.layer("logits").macs
        assert rows.macs == 16 * 8 * 8 * 3 * 16 + 2 * (projections + attention) + head
        assert rows.last_map.field.text() == "8"


class Own(keras.Model):
    """A subclassed network, whose convolution is called twice."""

    def __init__(self):
        super().__init__(name="own")
        self.conv = layers.Conv2D(3, 3, name="twice")
        self.head = layers.Dense(2, name="head")

    def call(self, x):
        return self.head(ops.mean(self.conv(self.conv(x)), axis=(1, 2)))


class Block(layers.Layer):
    """A layer made of layers, with a weight of its own."""

    def __init__(self, **words):
        super().__init__(**words)
        self.conv = layers.Conv2D(6, 3, padding="same")

    def build(self, shape):
        self.scale = self.add_weight(shape=(6,), initializer="ones")
        self.conv.build(shape)

    def call(self, x, training=False):
        y = ops.relu(self.conv(x)) * self.scale
        return x + (ops.flip(y, axis=1) if training else y)


def test_subclassed_and_nested_models_and_layers_made_of_layers():
    own = Own()
    own(np.zeros((1, 9, 9, 3), np.float32))
    rows = anatomy_of(own, (9, 9, 3))
    assert [row.name.partition("_")[0] for row in rows.layers] == ["twice", "twice:1", "mean", "head"]
    assert [row.parameters for row in rows.layers] == [84, 0, 0, 8]
    assert rows.macs == 49 * 81 + 25 * 81 + 6
    assert rows.layer("twice:1").field.text() == "5"
    inner = keras.Sequential(
        [keras.Input((10, 12, 6)), layers.Conv2D(6, 3, name="conv"), Block(name="block")], name="net"
    )
    outer = one(layers.Conv2D(6, 1, name="first"), inner)
    rows = anatomy_of(outer)
    assert [row.name for row in rows.layers] == ["first", "net/conv", "net/block"]
    assert rows.layer("net/block").macs == 8 * 10 * 9 * 36
    assert rows.layer("block").field.text() == "5"
    assert rows.layer("block").parameters == 6 * 54 + 6 + 6
    assert rows.parameters == outer.count_params()


def test_the_model_is_left_as_it_was():
    block = Block(name="block")
    model = one(layers.Dropout(0.5), block, layers.ActivityRegularization(0.1))
    before = [dict(vars(each)) for each in model.layers]
    weights = model.get_weights()
    for _ in range(2):
        anatomy_of(model, 20)
    assert [dict(vars(each)) for each in model.layers] == before
    assert block.output is not None  # Keras raises an error for a layer with more than one call
    assert len(model.get_layer("block").conv._inbound_nodes) == 0
    assert model.losses == []
    for one_array, other in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one_array, other)


def test_other_sizes():
    model = one(layers.Conv2D(4, 3, strides=2, padding="same"), shape=(None, None, 6))
    with pytest.raises(ModelError, match="takes images of any size; give input_size"):
        anatomy_of(model)
    assert anatomy_of(model, 20).layers[0].output_shape == (10, 10, 4)
    rows = anatomy_of(model, (20, 31))
    assert rows.input_shape == (20, 31, 6)
    assert rows.layers[0].activation_bytes == rows.activation_bytes == 10 * 16 * 4 * 4
    assert anatomy_of(one(layers.Conv2D(4, 3, dtype="mixed_float16"))).activation_bytes == 8 * 10 * 4 * 2
    flat = one(layers.Flatten(), layers.Dense(3))
    with pytest.raises(
        ModelError, match="cannot be inspected: functional.* does not run on symbolic tensors: .*[Ii]nput"
    ):
        anatomy_of(flat, 20)
    with pytest.raises(ModelError, match=r"takes images with 6 channels, got input_size=\(8, 8, 3\)"):
        anatomy_of(model, (8, 8, 3))
    for wrong in (0, (3,), "224"):
        with pytest.raises(ModelError, match="input_size must be a side in px"):
            anatomy_of(model, wrong)
    with pytest.raises(ModelError, match="call it on an image first"):
        anatomy_of(Own())


def test_what_is_not_counted_is_not_guessed():
    import tensorflow as tf

    class Raw(layers.Layer):
        def call(self, x):
            return tf.linalg.matmul(x, x, transpose_a=True)

    rows = anatomy_of(one(layers.Dense(3), Raw(name="raw")))
    assert rows.layer("raw").macs is None
    assert rows.macs is None
    assert rows.to_json()["macs"] is None
    assert anatomy_of(one(lambda x: ops.inner(x, x))).macs is None


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("here")
    make_images(folder / "photos", count=6, size=40)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.mark.slow  # a training, which takes ten seconds
def test_a_run_has_the_anatomy_of_its_network(here):
    settings = {"data.channels": 3, "training.epochs": 1}
    kerazoo.train("cnn", "photos", size=16, batch_size=4, devices="cpu", settings=settings, name="first")
    wanted = kerazoo.anatomy(kerazoo.build("cnn", input_shape=(16, 16, 3), num_classes=2)).to_json()
    assert kerazoo.anatomy("first").to_json() == kerazoo.anatomy(kerazoo.open_run("first")).to_json() == wanted
    assert kerazoo.anatomy("runs/first", input_size=20).layers[0].output_shape == (20, 20, 32)


def test_names_files_and_models_are_the_same(here):
    model = kerazoo.build("cnn", input_shape=(16, 16, 3), num_classes=2)
    wanted = kerazoo.anatomy(model).to_json()
    assert kerazoo.anatomy("cnn", input_size=(16, 16, 3)).layer("conv2").to_json() in wanted["layers"]
    (here / "cnn.json").write_text(model.to_json())
    model.save(here / "cnn.keras")
    for file in ("cnn.json", here / "cnn.keras"):
        assert kerazoo.anatomy(file).to_json() == wanted
    assert kerazoo.anatomy("bottleneck_cnn", input_size=32).input_shape == (32, 32, 1)
    resnet = kerazoo.build("resnet20", input_shape=(32, 32, 3))
    (here / "resnet.json").write_text(resnet.to_json())  # with a layer of kerazoo's own
    assert kerazoo.anatomy("resnet.json").macs == kerazoo.describe("resnet20").macs


EVIL = {
    "Lambda": {"module": "keras.layers", "class_name": "Lambda", "config": {"function": "x"}, "registered_name": None},
    "function": {"module": "builtins", "class_name": "function", "config": "eval", "registered_name": "function"},
    "get_file": {"module": "keras.utils", "class_name": "get_file", "config": {}, "registered_name": None},
    "Popen": {"module": "subprocess", "class_name": "Popen", "config": {"args": "touch x"}, "registered_name": None},
    "TFSMLayer": {"module": "keras.layers", "class_name": "TFSMLayer", "config": {}, "registered_name": None},
    "StringLookup": {
        "class_name": "StringLookup",
        "config": {"vocabulary": "x"},
        "registered_name": "kerazoo>PatchWhitening",
    },
    "ShortcutA": {"class_name": "ShortcutA", "config": {}, "registered_name": "kerazoo>ShortcutA"},  # by name alone
    "Mine": {"module": "mine", "class_name": "Mine", "config": {}, "registered_name": "kerazoo>Mine"},
}


@pytest.mark.parametrize("kind", list(EVIL))
def test_a_file_builds_layers_of_keras_only(here, kind):
    values = json.loads(one(layers.Conv2D(4, 3)).to_json())
    values["config"]["layers"][1]["config"]["kernel_initializer"] = EVIL[kind]
    (here / "evil.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match=rf"evil.json has '.*{kind}', which is not a class of Keras that may be built"):
        kerazoo.anatomy("evil.json")
    assert not (here / "x").exists()


def test_bad_files_are_one_line(here):
    (here / "list.json").write_text("[1]")
    (here / "deep.json").write_text("[" * 100_000)
    (here / "half.keras").write_bytes(b"PK\x03\x04")
    with zipfile.ZipFile(here / "empty.keras", "w") as archive:
        archive.writestr("other", "x")
    with zipfile.ZipFile(here / "broken.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", one(layers.Flatten(), layers.Dense(8)).to_json())
    content = bytearray((here / "broken.keras").read_bytes())
    content[60:90] = bytes(30)
    (here / "broken.keras").write_bytes(content)
    for name in ("list.json", "deep.json", "half.keras", "empty.keras", "broken.keras"):
        with pytest.raises(ModelError, match=rf"{name} must be a file that model.to_json\(\) made"):
            kerazoo.anatomy(name)
    layer = {"module": "keras.layers", "class_name": "Dense", "config": {"units": 2}, "registered_name": None}
    (here / "layer.json").write_text(json.dumps(layer))
    with pytest.raises(ModelError, match="layer.json describes Dense, not a model"):
        kerazoo.anatomy("layer.json")
    (here / "kind.json").write_text(json.dumps(layer | {"class_name": []}))
    with pytest.raises(ModelError, match="which is not a class of Keras that may be built"):
        kerazoo.anatomy("kind.json")
    layer["config"] = {"units": "many"}
    (here / "layer.json").write_text(json.dumps(layer))
    with pytest.raises(ModelError, match="does not describe a model that Keras can build: "):
        kerazoo.anatomy("layer.json")
    with pytest.raises(ModelError, match="there is no file none.json"):
        kerazoo.anatomy("none.json")
    with pytest.raises(ModelError, match="model must be a keras.Model, a name, a run or a file, got int"):
        kerazoo.anatomy(3)
    with pytest.raises(ModelError, match="no model is called 'resnet5': did you mean"):
        kerazoo.anatomy("resnet5")


def test_a_huge_architecture_allocates_nothing(here):
    values = json.loads(one(layers.Flatten(), layers.Dense(8)).to_json())
    values["config"]["layers"][2]["config"]["units"] = 10**9
    (here / "huge.json").write_text(json.dumps(values))
    assert kerazoo.anatomy("huge.json").parameters == 721 * 10**9


def test_the_picture_shows_what_a_position_sees():
    rng = np.random.default_rng(0)
    pixels = rng.integers(60, 256, (224, 448, 3)).astype(np.uint8)
    field = anatomy_of(one(layers.Conv2D(2, 65, strides=32, padding="same"), shape=(224, 448, 3))).layers[0].field
    box = box_of(field, (3, 7), "conv")
    assert box == Box(80, 208, 145, 273)
    picture = draw_field(pixels, box)
    assert picture.shape == (448, 896, 3)  # with larger pixels
    assert (picture[160, 2 * 208 : 2 * 273] == EDGE).all()
    assert (picture[2 * 80 : 2 * 145, 2 * 208] == EDGE).all()
    np.testing.assert_array_equal(picture[2 * 100, 2 * 220], pixels[100, 220])  # inside
    np.testing.assert_array_equal(picture[0, 0], (pixels[0, 0] * 0.35).round())  # outside
    corner = draw_field(pixels, box_of(field, (0, 13), "conv"))
    assert corner.shape[0] == 448 + 2 * 16
    assert (corner[8, 8] == BEYOND).all()  # padding
    with pytest.raises(ModelError, match="the row of the unit must be from 0 to 6 in conv, got 7"):
        box_of(field, (7, 0), "conv")


def test_drawing_on_a_file(here):
    drawn = api.draw_receptive_field("cnn", "photos/circle/00.png", "field.png", layer="pool2")
    assert (drawn.unit, drawn.bottom - drawn.top) == ((3, 3), 10)
    picture = np.asarray(Image.open(here / "field.png"))
    assert picture.shape == (448, 448, 3)
    inside = (picture == EDGE).all(axis=-1)
    assert np.argwhere(inside).min(axis=0).tolist() == [16 * drawn.top, 16 * drawn.left]
    whole = api.draw_receptive_field("cnn", "photos/circle/00.png", "whole.png", layer="logits", unit=(0, 0))
    assert (whole.top, whole.bottom) == (-3, 31)
    (here / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="broken.png cannot be decoded"):
        api.draw_receptive_field("mlp", "broken.png", "field.png", layer="flatten")
    with pytest.raises(InputError, match=r"the picture field.svg must be a .png file"):
        api.draw_receptive_field("mlp", "photos/circle/00.png", "field.svg")
    with pytest.raises(ModelError, match="cnn has no layer 'pool'; the nearest names are"):
        api.draw_receptive_field("cnn", "photos/circle/00.png", "field.png", layer="pool")


def test_what_a_bottleneck_saves():
    """He et al. 2015, Figure 5."""
    plain, narrow = api.compare_convolutions("3x3+3x3, 1x1+3x3+1x1")
    assert (plain.weights, narrow.weights) == (1_179_648, 69_632)
    assert narrow.macs == 56 * 56 * 69_632
    assert (plain.receptive_field, narrow.receptive_field) == ((5, 5), (3, 3))
    single, point = api.compare_convolutions("3x3,1x1", channels=8)
    assert single.weights == 9 * point.weights
    [stated] = api.compare_convolutions("1x3:16+3x1", channels=8, size=10)
    assert (stated.weights, stated.macs) == (3 * 8 * 16 + 3 * 16 * 8, 100 * 768)
    inputs = keras.Input((56, 56, 256))
    x = inputs
    for one_of_them in narrow.convolutions:
        x = layers.Conv2D(one_of_them.filters, one_of_them.height, padding="same", use_bias=False)(x)
    rows = anatomy_of(keras.Model(inputs, x))
    assert (rows.parameters, rows.macs) == (narrow.weights, narrow.macs)
    for wrong in ("3x", "3x3+", "0x1", "3x3:0", "100x1"):
        with pytest.raises(InputError, match="must be windows|channels must be from 1"):
            api.compare_convolutions(wrong)
    with pytest.raises(InputError, match="channels must be a whole number from 1 to 65,536, got 0"):
        api.compare_convolutions("3x3", channels=0)


def test_the_command(here, capsys):
    code, out, _ = call(capsys, "inspect", "cnn", "--json")
    assert (code, json.loads(out)) == (0, kerazoo.anatomy("cnn").to_json())
    code, out, _ = call(capsys, "inspect", "cnn", "--input-size", "32x40")
    assert out.splitlines()[0].split() == [
        "layer",
        "kind",
        "output",
        "parameters",
        "MACs",
        "memory",
        "field",
        "jump",
        "start",
    ]
    assert "cnn on 32x40x1: " in out
    assert "receptive field of pool2: 10 px, every 4 px" in out
    code, out, _ = call(capsys, "inspect", "resnet20", "--layer", "logits")
    assert code == 0
    assert "receptive field  whole image" in out
    code, out, _ = call(capsys, "inspect", "--compare", "3x3+3x3,1x1+3x3+1x1", "--input-size", "56")
    assert "69,632" in out
    assert "5.9%" in out
    code, out, _ = call(capsys, "inspect", "--compare", "3x3,1x1", "--channels", "8", "--json")
    assert [chain["weights"] for chain in json.loads(out)["chains"]] == [576, 64]
    words = ["inspect", "cnn", "--image", "photos/circle/00.png", "--output", "f.png", "--unit", "1,2"]
    code, out, _ = call(capsys, *words)
    assert out == "pool2, position 1,2: rows 1 to 10, columns 5 to 14; drawn: f.png\n"
    code, out, _ = call(capsys, *words, "--json")
    assert json.loads(out)["unit"] == [1, 2]
    assert Image.open(io.BytesIO((here / "f.png").read_bytes())).format == "PNG"


def test_the_picture_of_the_terminal_shows_what_the_command_prints(capsys):
    """`python docs/reference/terminal.py` draws it again."""
    picture = (Path(__file__).parents[1] / "docs/terminal.svg").read_text()
    shown = re.findall(r">([^<]*)</text>", picture)
    words = " ".join(html.unescape(part).replace("\N{NO-BREAK SPACE}", " ") for part in shown).split()
    _, out, _ = call(capsys, "inspect", "bottleneck_cnn")
    assert words[:4] == ["kerazoo", "$", "kerazoo", "inspect"]
    assert words[5:] == out.split()
    assert "url(" not in picture.replace("url(#", "")  # nothing is loaded from elsewhere


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inspect"], "needs either a model or --compare"),
        (["inspect", "cnn", "--compare", "3x3"], "needs either a model or --compare"),
        (["inspect", "cnn", "--input-size", "big"], "--input-size must be as 224"),
        (["inspect", "cnn", "--image", "a.png"], "--image needs --output"),
        (["inspect", "cnn", "--image", "a.png", "--output", "b.png"], "a.png: it cannot be read: No such file"),
        (["inspect", "cnn", "--image", "a.png", "--output", "b.png", "--unit", "1"], "--unit must be ROW,COLUMN"),
        (["inspect", "cnn", "--layer", "conv"], "cnn has no layer 'conv'; the nearest names are"),
        (["inspect", "nosuch"], "no model is called 'nosuch'"),
        (["inspect", "no/run"], "there is no run no/run"),
    ],
)
def test_bad_words_are_one_line(here, capsys, words, message):
    code, out, err = call(capsys, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_the_list_of_models_shows_cost_accuracy_and_license(capsys):
    _, out, _ = call(capsys, "models", "--filter", "resnet50")
    assert "3.86 GMACs" in out.splitlines()[0]
    assert "74.9 %  MIT" in out.splitlines()[0]
