"""Receptive fields against the gradient: size and position on the networks of keras.applications, and closed forms."""

import re
from fractions import Fraction

import keras
import numpy as np
import pytest
import tensorflow as tf
from empirical_field import linear, seen_columns
from keras import layers, ops

from kerazoo.insight.anatomy import anatomy_of

SLOW = pytest.mark.slow(reason="a gradient in float64 through an image wider than the receptive field: up to minutes")
APPLICATIONS = {  # height of the image, width: more than the receptive field, and without pixels that no window reaches
    "VGG16": (64, 320), "ResNet50": (64, 590), "ResNet50V2": (64, 590), "MobileNet": (64, 420),
    "MobileNetV2": (64, 600), "MobileNetV3Small": (64, 740), "EfficientNetB0": (64, 960), "Xception": (75, 1195),
    "InceptionV3": (75, 1451), "ConvNeXtTiny": (64, 1792), "DenseNet121": (64, 2176), "NASNetMobile": (96, 2528),
    "InceptionResNetV2": (75, 3179),
}  # fmt: skip
UNREACHED = {"NASNetMobile": 1}  # pixels at the right edge in no window: its first one is "valid" and has a stride


def field_along(model, size, layer=None):
    """The field along the columns of a layer, by default the last."""
    rows = anatomy_of(model, size)
    return (rows.layers[-1] if layer is None else rows.layer(layer)).field


def same_as_the_gradient(model, height, width, unreached=0, along=(1,)):
    """The columns (rows along 0) that the gradient reaches are those of the formula, in the middle and at both ends."""
    field = field_along(model, (height, width))
    clone = linear(model)
    for number in along:
        axis = field.axes[number]
        for position in (axis.count // 2, 0, axis.count - 1):
            first, end = axis.of(position)
            wanted = max(int(first), 0), min(int(end), (height, width)[number] - unreached) - 1
            assert seen_columns(clone, height, width, position, number) == wanted, (number, position)
    return field.axes[1]


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW) for name in APPLICATIONS])
def test_the_gradient_reaches_the_field(name):
    keras.backend.clear_session()
    height, width = APPLICATIONS[name]
    model = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(height, width, 3))
    axis = same_as_the_gradient(model, height, width, UNREACHED.get(name, 0))
    first, end = axis.of(axis.count // 2)
    assert first >= 0 or end <= width  # wide enough to see one edge at least


def maps(*parts, side=None):
    """A network without a head, from images of any size."""
    inputs = keras.Input((side, side, 3))
    x = inputs
    for part in parts:
        x = part(x)
    return keras.Model(inputs, x)


def inception(x):
    """Four branches, one of them pooling, joined by channels."""
    one = layers.Conv2D(2, 1, padding="same")(x)
    three = layers.Conv2D(2, 3, padding="same")(layers.Conv2D(2, 1)(x))
    five = layers.Conv2D(2, (1, 7), padding="same")(x)
    pooled = layers.MaxPooling2D(3, strides=1, padding="same")(x)
    return layers.Concatenate()([one, three, five, pooled])


def offset(x):
    """Branches that see different sides: the sum sees both."""
    right = layers.Cropping2D(((0, 0), (4, 0)))(layers.Conv2D(3, 3, padding="same")(x))
    return layers.Add()([layers.Cropping2D(((0, 0), (0, 4)))(x), right])


def residual(x):
    """A stride in the branch and in the shortcut."""
    y = layers.Conv2D(4, 3, strides=2, padding="same")(layers.Conv2D(4, 3, padding="same")(x))
    return layers.Add()([y, layers.Conv2D(4, 1, strides=2, padding="same")(x)])


def dilated(x):
    """An atrous pyramid."""
    return layers.Concatenate()([layers.Conv2D(2, 3, padding="same", dilation_rate=rate)(x) for rate in (1, 2, 5)])


def nested(x):
    """A network in a network in a network."""
    inputs = keras.Input((None, None, 3))
    inner = keras.Model(inputs, layers.Conv2D(2, 5, strides=2, padding="same")(inputs))
    return keras.Sequential([layers.ZeroPadding2D(((1, 2), (3, 1))), inner, layers.AveragePooling2D(3, strides=2)])(x)


OWN = {
    "inception": (inception, residual), "offset": (offset,), "residual": (residual, residual),
    "dilated": (dilated, residual), "nested": (nested, dilated),
    "depthwise": (layers.DepthwiseConv2D(4, strides=2, padding="same"), layers.SeparableConv2D(2, 5)),
    "valid": (layers.Conv2D(2, 4, strides=3), layers.MaxPooling2D(2)),
}  # fmt: skip


@pytest.mark.parametrize("name", list(OWN))
def test_the_gradient_reaches_the_field_of_blocks(name):
    same_as_the_gradient(maps(*OWN[name]), 64, 61, along=(0, 1))
    same_as_the_gradient(maps(*OWN[name]), 61, 64, along=(0, 1))  # "same" with a stride pads an even size elsewhere


@pytest.mark.parametrize(
    "part",
    [
        layers.UpSampling2D(3), layers.UpSampling2D(2, interpolation="bilinear"),
        layers.UpSampling2D(3, interpolation="bilinear"),
        layers.Conv2DTranspose(2, 4, strides=2, padding="same"), layers.Conv2DTranspose(2, 3, strides=2),
        layers.Conv2DTranspose(2, 2, strides=2), layers.Conv2DTranspose(2, 5, strides=3, padding="same"),
    ],
    ids=lambda part: f"{type(part).__name__}-{getattr(part, 'kernel_size', '')}{getattr(part, 'interpolation', '')}",
)  # fmt: skip
def test_behind_upsampling_no_position_sees_more_and_some_see_each_end(part):
    model = maps(layers.Conv2D(2, 3, padding="same"), part)
    field = field_along(model, (12, 40))
    axis = field.axes[1]
    assert field.upper_bound
    assert field.text().startswith("<=")
    clone = linear(model)
    before, behind = [], []
    for column in range(axis.count // 3, axis.count // 3 + 6):
        first, last = seen_columns(clone, 12, 40, column)
        before.append(first - axis.of(column)[0])
        behind.append(axis.of(column)[1] - 1 - last)
    assert min(before) == min(behind) == 0  # the ends are reached
    assert max(*before, *behind) < 3 * axis.jump + axis.size


def test_the_closed_form_of_a_chain():
    """r = 1 + sum of (k' - 1) times the strides before it."""
    chain = [(3, 1, 1), (5, 2, 1), (3, 1, 4), (2, 2, 1), (7, 3, 1)]
    parts = [layers.Conv2D(2, k, strides=s, dilation_rate=d) for k, s, d in chain]
    size, jump = 1, 1
    for k, s, d in chain:
        size += d * (k - 1) * jump
        jump *= s
    axis = field_along(maps(*parts), (200, 200)).axes[0]
    assert (axis.size, axis.jump, axis.start) == (size, jump, 0)


def test_same_padding_of_an_even_size_begins_later():
    """W = 224, k = 3, s = 2: nothing before, one pixel behind; PyTorch pads one on each side."""
    conv = layers.Conv2D(1, 3, strides=2, padding="same")
    assert field_along(maps(conv), (224, 225)).axes[0].start == 0
    assert field_along(maps(conv), (224, 225)).axes[1].start == -1


def test_what_is_the_same_everywhere():
    image = field_along(maps(layers.Conv2D(2, 3), layers.GlobalAveragePooling2D()), (20, 30))
    assert image.is_whole_image
    assert image.text() == "whole image"
    cut = field_along(maps(layers.Conv2D(2, 4, strides=4), layers.Flatten(), side=18), (18, 18))
    assert not cut.is_whole_image  # 16 of 18 pixels
    assert (cut.text(), cut.axes[0].start) == ("16", 0)
    flat = maps(layers.Flatten(), layers.Dense(3), side=8)
    assert field_along(flat, None).is_whole_image


def test_a_factor_of_the_whole_image_is_cut_and_said():
    def gated(x):
        y = layers.Conv2D(3, 3, padding="same")(x)
        gate = layers.Dense(3, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(y))
        return layers.Multiply()([y, gate])

    field = field_along(maps(gated, layers.Conv2D(2, 3)), (20, 20))
    assert (field.text(), field.global_context) == ("5+", True)
    summed = field_along(maps(lambda x: layers.Add()([x, layers.GlobalAveragePooling2D(keepdims=True)(x)])), (9, 9))
    assert summed.is_whole_image
    grouped = field_along(maps(layers.Conv2D(4, 3), layers.GroupNormalization(2)), (9, 9))
    assert grouped.text() == "3+"
    assert field_along(maps(layers.LayerNormalization(), layers.Conv2D(4, 3)), (9, 9)).text() == "3"


def test_branches_of_different_strides_are_misaligned():
    def branches(x):
        pooled = layers.MaxPooling2D(2)(x)
        return layers.Concatenate()([pooled, layers.Conv2D(2, 1)(x)[:, :8, :8]])

    field = field_along(maps(branches), (16, 16))
    assert field.text() == "unknown"
    assert field.unknown == "it joins branches whose positions are 1 and 2 pixels apart"


def test_operations_between_layers_are_followed():
    def block(x):
        x = ops.relu(layers.Conv2D(4, 3)(x))[:, 1::2, 2:]
        x = ops.pad(x, ((0, 0), (2, 0), (1, 1), (0, 0)))
        return ops.transpose(ops.max_pool(x, 2, 1), (0, 2, 1, 3))

    field = field_along(maps(block), (20, 20))
    rows, columns = field.axes
    assert (rows.place, rows.start, rows.jump, rows.size) == (2, 1 - 2 * 2, 2, 5)
    assert (columns.place, columns.start, columns.jump, columns.size) == (1, 2 - 1, 1, 4)


def test_attention_sees_the_whole_image():
    def tokens(x):
        x = layers.Reshape((16, 4))(layers.Conv2D(4, 5, strides=5)(x))
        return layers.Add()([x, layers.MultiHeadAttention(2, 3)(x, x)])

    model = maps(tokens, side=20)
    assert anatomy_of(model).layers[1].kind == "Reshape"
    assert anatomy_of(model).layers[1].field.text() == "5"
    assert field_along(model, None).is_whole_image


def test_some_of_the_tokens_see_at_most_what_all_of_them_see():
    """As behind the class token of DINOv2: attention over the others still sees the whole image."""

    def tokens(x, attend):
        x = layers.Reshape((16, 4))(layers.Conv2D(4, 5, strides=5)(x))[:, 4:]
        return layers.MultiHeadAttention(2, 3)(x, x) if attend else x

    cut = field_along(maps(lambda x: tokens(x, attend=False), side=20), None)
    assert (cut.upper_bound, cut.is_whole_image) == (True, True)
    assert cut.text() == "<=whole image"
    assert field_along(maps(lambda x: tokens(x, attend=True), side=20), None).is_whole_image


def test_what_has_no_rule_is_unknown_and_says_why():
    class Raw(layers.Layer):
        def call(self, x):
            return tf.cumsum(x, axis=1)

    windows = maps(lambda x: ops.mean(ops.reshape(x, (-1, 4, 2, 4, 2, 3)), axis=(2, 4)), side=8)
    for model, reason in (
        (maps(Raw(name="raw"), layers.Conv2D(2, 3)), "raw does not run on symbolic tensors: A KerasTensor cannot"),
        (windows, r"it cuts positions in pieces: \(8, 8, 3\)"),
        (maps(lambda x: ops.flip(x, axis=2)), "Flip has no rule"),
        (maps(lambda x: x[:, ::-1]), "it reverses positions"),
        (maps(layers.UpSampling2D(2, interpolation="bicubic")), "bicubic interpolation has no rule"),
    ):
        field = field_along(model, (8, 8))
        assert field.text() == "unknown"
        assert re.match(reason, field.unknown), field.unknown
        assert field.to_json()["size"] == []


def test_a_layer_that_inherits_has_no_rule_of_its_parent():
    class Reversed(layers.Conv2D):
        def call(self, x):
            return super().call(ops.flip(x, axis=1))

    assert field_along(maps(Reversed(2, 3)), (8, 8)).unknown == "Flip has no rule for its receptive field"


def test_numbers_of_a_field():
    axis = field_along(maps(layers.Conv2D(2, 3, strides=2), layers.UpSampling2D(4)), (21, 21)).axes[0]
    assert axis.jump == Fraction(1, 2)
    field = field_along(maps(layers.Conv2D(2, (3, 5), strides=(1, 2))), (21, 21))
    assert field.text() == "3x5"
    assert field.to_json() == {
        "size": [3, 5], "jump": [1, 2], "start": [0, 0], "whole_image": False, "global_context": False,
        "upper_bound": False, "unknown": "",
    }  # fmt: skip
    np.testing.assert_array_equal(field.axes[1].of(3), (6, 11))
