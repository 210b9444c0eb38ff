"""Augmentation: each part against its closed form or Pillow, and that pixels depend on nothing but image and seed."""

import colorsys
import errno
import functools
import hashlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from kerazoo.errors import RecipeError
from kerazoo.pipelines.checks.preview import draw_grid
from kerazoo.pipelines.input import randaugment as operations
from kerazoo.pipelines.input.augmentation import Augmentation
from kerazoo.recipes.augmentation import POLICIES
from kerazoo.recipes.recipe import Recipe

EVERYTHING = Augmentation(
    shift=0.1,
    rotate=10,
    zoom=0.1,
    flip=True,
    crop=0.3,
    flip_vertical=True,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    randaugment=2,
    erase=0.5,
    mixup=0.2,
    cutmix=1.0,
)


def seed_of(number):
    return tf.constant([number, 2**40 + number], tf.int64)


def draw(augmentation, image, number):
    return augmentation(tf.constant(image), seed_of(number)).numpy()


def draws(augmentation, image, count):
    """(count, H, W, C): one graph, many seeds."""
    call = tf.function(augmentation)
    return np.stack([call(tf.constant(image), seed_of(number)).numpy() for number in range(count)])


def photograph(height=40, width=56, channels=3):
    """Smooth shapes, an edge and grain, of less than the full range in two channels."""
    rows, columns = np.mgrid[:height, :width]
    waves = [127 + 90 * np.sin(columns / 7 + rows / 11), 120 + 120 * np.cos(rows / 5), 40 + columns * 3.0]
    pixels = np.stack(waves[:channels], -1) + np.random.default_rng(0).normal(0, 6, (height, width, channels))
    pixels[rows > columns] *= 0.7
    return np.clip(pixels, 5, 250).astype(np.uint8)


# -- what is promised of all parts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"shift": 0.1}, "da08c500a8c2bf80"),
        ({"flip": True}, "82b7b095e3b22db9"),
        ({"rotate": 25}, "79d91d7c4ef1c7fe"),
        ({"zoom": 0.3}, "6ded0b99f245caf7"),
        ({"shift": 0.07, "rotate": 7, "zoom": 0.05}, "672c78def3f979f1"),
        ({"shift": 0.2, "rotate": 20, "zoom": 0.2, "flip": True}, "0de39de4f86275a4"),
    ],
)
def test_the_first_four_parts_draw_what_they_always_drew(parts, expected):
    """Published numbers depend on it: hashes of the code before there were other parts."""
    rng, digest = np.random.default_rng(0), hashlib.sha256()
    for shape in [(28, 28, 1), (24, 36, 3)]:
        image = rng.integers(0, 256, shape, dtype=np.uint8)
        for number in range(12):
            digest.update(draw(Augmentation(**parts), image, number).tobytes())
    assert digest.hexdigest()[:16] == expected


STRONG = pytest.param(
    Augmentation(policy="strong"), id="strong", marks=pytest.mark.slow
)  # the other has all of it, too


@pytest.mark.parametrize("augmentation", [pytest.param(EVERYTHING, id="everything"), STRONG])
def test_the_same_seed_is_the_same_image_wherever_it_is_made(augmentation):
    images = np.stack([np.roll(photograph(), 5 * i, axis=1) for i in range(8)])

    def example(index):
        seed = tf.random.experimental.stateless_fold_in(tf.constant([0, 3], tf.int64), index)
        return augmentation(tf.constant(images)[index % 8], seed), tf.one_hot(index % 5, 5), seed

    def batches(threads):
        dataset = tf.data.Dataset.range(16).map(example, num_parallel_calls=threads).batch(8)
        return list(dataset.map(augmentation.mix, num_parallel_calls=threads).as_numpy_iterator())

    def by_hand(call, mix):
        for start in range(0, 16, 8):
            rows = [call(tf.constant(i, tf.int64)) for i in range(start, start + 8)]
            yield [x.numpy() for x in mix(*(tf.stack(part) for part in zip(*rows, strict=True)))]

    first = batches(1)
    eager = by_hand(example, augmentation.mix)
    graph = by_hand(tf.function(example), tf.function(augmentation.mix))
    for other in (batches(8), eager, graph):
        for (x, y), (x_first, y_first) in zip(other, first, strict=True):
            np.testing.assert_array_equal(x, x_first)
            np.testing.assert_array_equal(y, y_first)
    assert len({x.tobytes() for x, _ in first}) == 2


def test_all_parts_together_are_each_alone_in_turn():
    """The order, and that no part changes what another draws."""
    turns = [
        ["crop"],
        ["flip"],
        ["flip_vertical"],
        ["shift", "rotate", "zoom"],
        ["randaugment"],
        ["brightness", "contrast", "saturation", "hue"],
        ["erase"],
    ]
    alone = [Augmentation(**{name: getattr(EVERYTHING, name) for name in names}) for names in turns]
    for number in range(12):
        expected = functools.reduce(lambda x, part: draw(part, x, number), alone, photograph())
        np.testing.assert_array_equal(draw(EVERYTHING, photograph(), number), expected)


def test_no_two_parts_draw_from_the_same_seed(monkeypatch):
    uniform, seeds = tf.random.stateless_uniform, []

    def recorded(shape, seed, *arguments, **options):
        seeds.append(tuple(seed.numpy()))
        return uniform(shape, seed, *arguments, **options)

    monkeypatch.setattr(tf.random, "stateless_uniform", recorded)
    draw(EVERYTHING.model_copy(update={"erase": 1.0}), photograph(), 3)
    assert len(seeds) == 7  # the old four share one; erasing has one for where and one for its noise
    EVERYTHING.mix(tf.zeros((1, 4, 4, 1), tf.uint8), tf.ones((1, 1)), seed_of(3)[None])
    assert len(set(seeds)) == len(seeds) == 8


@pytest.mark.parametrize("shape", [(20, 32, 1), (33, 17, 3), (2, 2, 3), (1, 5, 1)])
def test_shape_and_dtype_stay(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for policy in (Augmentation(policy="standard"), EVERYTHING):
        traced = tf.function(policy).get_concrete_function(
            tf.TensorSpec(shape, tf.uint8), tf.TensorSpec((2,), tf.int64)
        )
        assert traced.output_shapes == shape
        assert traced.output_dtypes == tf.uint8
    for number in range(6):
        assert draw(EVERYTHING, image, number).shape == shape
    for strength in (-1.0, 1.0):
        for operation in operations.OPERATIONS.values():
            assert operation(tf.constant(image), tf.constant(strength)).shape == shape


def test_off_is_off():
    off, mixing = Augmentation(), Augmentation(mixup=0.2)
    assert not off
    assert not off.mixes
    assert off.describe() == {}
    assert not mixing
    assert mixing.mixes
    assert Augmentation(erase=0.1)
    assert not Augmentation(erase=0.1, magnitude=3).mixes
    assert Augmentation(randaugment=1, flip=True).describe() == {"flip": True, "randaugment": 1, "magnitude": 9.0}
    np.testing.assert_array_equal(draw(off, photograph(), 0), photograph())
    batch, targets = photograph()[None].repeat(3, 0), np.eye(3, dtype=np.float32)
    for x in (batch, batch[:1]):
        for augmentation in (off, EVERYTHING) if len(x) == 1 else (off,):
            mixed, shares = augmentation.mix(
                tf.constant(x), tf.constant(targets[: len(x)]), tf.zeros((len(x), 2), tf.int64)
            )
            assert mixed.dtype == tf.float32
            np.testing.assert_array_equal(mixed, x)
            np.testing.assert_array_equal(shares, targets[: len(x)])


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("shift", 1, "a number in [0, 1)"),
        ("rotate", 181, "a number in [0, 180]"),
        ("zoom", -0.1, "a number in [0, 1)"),
        ("flip", 1, "true or false"),
        ("crop", 1.1, "a number in [0, 1]"),
        ("flip_vertical", "yes", "true or false"),
        ("brightness", 1.0, "a number in [0, 1)"),
        ("contrast", float("nan"), "a number in [0, 1)"),
        ("saturation", True, "a number in [0, 1)"),
        ("hue", 0.51, "a number in [0, 0.5]"),
        ("randaugment", 1.5, "a whole number in [0, inf)"),
        ("magnitude", 10.5, "a number in [0, 10]"),
        ("erase", -1, "a number in [0, 1]"),
        ("mixup", float("inf"), "a number in [0, inf)"),
        ("cutmix", None, "a number in [0, inf)"),
    ],
)
def test_a_value_out_of_range_is_named(field, value, allowed):
    with pytest.raises(RecipeError) as error:
        Recipe.for_training("mlp", "x", augmentation={field: value})
    assert str(error.value) == f"recipe key augmentation.{field} must be {allowed}, got {value!r}"
    with pytest.raises(ValueError, match=field):
        Augmentation(**{field: value})


def test_every_field_has_a_range_and_its_ends_are_allowed():
    assert set(Augmentation.model_fields) == {"policy", "flip_alternately", *EVERYTHING.describe()}
    Augmentation(shift=0, rotate=180, zoom=0.99, crop=1, brightness=0.99, hue=0.5, magnitude=0, erase=1, mixup=1e9)


def test_policies():
    assert list(POLICIES) == ["none", "light", "standard", "strong"]
    assert [len(policy) for policy in POLICIES.values()] == [0, 2, 6, 7]
    policies = [Augmentation(policy=policy) for policy in POLICIES]
    for policy, values in zip(policies, POLICIES.values(), strict=True):
        assert policy.describe() == values
    assert [policy.mixes for policy in policies] == [False, False, False, True]


# -- moves --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(48, 48), (30, 90)])
def test_a_crop_keeps_its_share_inside_the_image(height, width):
    """A ramp to the right and one downwards tell where a crop was."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([2 * columns, 2 * rows, 0 * rows], -1).astype(np.uint8)
    x = draws(Augmentation(crop=0.3), image, 150).astype(int)
    across, down = x[:, height // 2, :, 0], x[:, :, width // 2, 1]
    assert (np.diff(across) >= 0).all()
    assert (np.diff(down) >= 0).all()
    assert (x[..., 0] == across[:, None]).all()  # upright
    assert across.min() >= 0
    assert across.max() <= 2 * (width - 1)
    # each crop from end to end, in pixels: a resized ramp loses up to half a pixel at each end
    columns, rows = ((np.ptp(ramp, axis=1) / 2 + 1) for ramp in (across, down))
    share = rows * columns / (height * width)
    assert 0.27 < share.min() < 0.4
    assert 0.9 < share.max() <= 1
    assert abs(share.mean() - 0.65) < 0.06
    aspect = np.log(columns / rows)
    if height == width:
        assert np.abs(aspect).max() < np.log(4 / 3) + 0.08
        assert aspect.min() < -0.15
        assert aspect.max() > 0.15
        # it reaches every corner of the image
        assert len({(a == 0, b == 0) for a, b in zip(across[:, 0] > 12, down[:, 0] > 12, strict=True)}) == 4
    np.testing.assert_array_equal(draw(Augmentation(crop=1), image, 0), image)


def test_a_vertical_flip_comes_half_of_the_time_and_apart_from_the_other():
    image = photograph(6, 9)
    kinds = {image[::a, ::b].tobytes(): (a, b) for a in (1, -1) for b in (1, -1)}
    found = [kinds[x.tobytes()] for x in draws(Augmentation(flip=True, flip_vertical=True), image, 200)]
    for kind in kinds.values():
        assert 30 < found.count(kind) < 70


# -- colours ------------------------------------------------------------------------------------------------------


def test_brightness_and_contrast():
    flat = np.full((5, 7, 3), (100, 60, 20), np.uint8)
    bright = draws(Augmentation(brightness=0.5), flat, 200)
    assert (np.ptp(bright, axis=(1, 2)) == 0).all()
    factors = bright[:, 0, 0, 0] / 100
    assert 0.5 <= factors.min() < 0.53
    assert 1.47 < factors.max() <= 1.5
    np.testing.assert_allclose(bright[:, 0, 0, 1] / 60, factors, atol=0.02)
    # a flat grey image has no contrast, and brightness draws as before
    grey = flat[..., :1]
    np.testing.assert_array_equal(draws(Augmentation(contrast=0.5), grey, 20), grey[None].repeat(20, 0))
    both = draws(Augmentation(brightness=0.5, contrast=0.5), grey, 20)
    np.testing.assert_array_equal(both, draws(Augmentation(brightness=0.5), grey, 20))
    # two levels go apart or together about their mean
    levels = np.array([[80, 160]] * 4, np.uint8)[..., None]
    low, high = draws(Augmentation(contrast=0.5), levels, 200)[:, 0, :, 0].T.astype(int)
    np.testing.assert_allclose(low + high, 240, atol=1)
    assert 40 <= (high - low).min() < 43
    assert 117 < (high - low).max() <= 120
    assert draws(Augmentation(brightness=0.9), photograph(), 20).max() == 255  # cut off, not wrapped


def test_saturation():
    image = np.full((4, 4, 3), (160, 100, 80), np.uint8)
    luma = np.asarray(Image.fromarray(image).convert("L"))[0, 0]
    x = draws(Augmentation(saturation=0.5), image, 200)[:, 0, 0].astype(float) - luma
    factors = x[:, 0] / (160.0 - luma)
    assert 0.5 <= factors.min() + 0.01 < 0.55
    assert 1.45 < factors.max() - 0.01 <= 1.5
    np.testing.assert_allclose(x[:, 2], factors * (80.0 - luma), atol=1.1)


def test_hue_goes_round_the_circle_and_keeps_the_extremes():
    image = np.full((3, 3, 3), (200, 80, 20), np.uint8)
    before = colorsys.rgb_to_hsv(200, 80, 20)[0]
    for hue in (0.1, 0.5):
        x = draws(Augmentation(hue=hue), image, 200)[:, 0, 0]
        assert set(x.max(1)) == {200}
        assert set(x.min(1)) == {20}
        turned = (np.array([colorsys.rgb_to_hsv(*map(int, rgb))[0] for rgb in x]) - before + 0.5) % 1 - 0.5
        assert hue - 0.02 < turned.max() <= hue + 0.003
        assert -hue - 0.003 <= turned.min() < -hue + 0.02
    assert (np.histogram(turned, 12, (-0.5, 0.5))[0] > 4).all()


def test_grey_images_have_no_colour():
    for channels in (1, 3):
        grey = photograph(channels=1).repeat(channels, -1)
        x = draws(Augmentation(saturation=0.9, hue=0.5), grey, 5)
        np.testing.assert_array_equal(x, grey[None].repeat(5, 0))


# -- RandAugment --------------------------------------------------------------------------------------------------


def pillow(name, image, strength):
    factor = 1 + 0.9 * strength
    return {
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "solarize": lambda: ImageOps.solarize(image, 255 - round(255 * abs(strength))),
        "posterize": lambda: ImageOps.posterize(image, 8 - round(4 * abs(strength))),
        "color": lambda: ImageEnhance.Color(image).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
    }[name]()


@pytest.mark.parametrize(
    ("name", "tolerance"),  # Pillow cuts fractions off where we round to the nearest
    [
        ("autocontrast", 1),
        ("equalize", 0),
        ("solarize", 0),
        ("posterize", 0),
        ("color", 1),
        ("contrast", 1),
        ("brightness", 1),
        ("sharpness", 1),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_operations_are_those_of_pillow(name, tolerance, channels):
    for array in (photograph(channels=channels), np.full((9, 9, channels), 77, np.uint8)):
        image = Image.fromarray(array[..., 0] if channels == 1 else array)
        for strength in (-0.9, -0.3, 0.3, 0.9):
            x = operations.OPERATIONS[name](tf.constant(array), tf.constant(strength)).numpy().astype(int)
            expected = np.asarray(pillow(name, image, strength)).astype(int).reshape(x.shape)
            assert np.abs(x - expected).max() <= tolerance
            assert np.ptp(array) == 0 or (x != array).any() or name == "color"
    luma = np.asarray(Image.fromarray(photograph()).convert("L"))
    np.testing.assert_array_equal(operations.luma(tf.constant(photograph()))[..., 0], luma)


@pytest.mark.parametrize(
    ("name", "matrix", "offset"),  # of the pixel (column, row) that comes, at the strength s
    [
        (
            "rotate",
            lambda s: ((np.cos(s * np.pi / 6), -np.sin(s * np.pi / 6)), (np.sin(s * np.pi / 6), np.cos(s * np.pi / 6))),
            0,
        ),
        ("shear_x", lambda s: ((1, 0.3 * s), (0, 1)), 0),
        ("shear_y", lambda s: ((1, 0), (0.3 * s, 1)), 0),
        ("translate_x", lambda s: np.eye(2), (56 * 150 / 331, 0)),
        ("translate_y", lambda s: np.eye(2), (0, 40 * 150 / 331)),
    ],
)
def test_geometric_operations(name, matrix, offset):
    """Nearest neighbour; checked where no reflection comes in and no pixel lies between two."""
    image = photograph()
    height, width = image.shape[:2]
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    points = np.stack(np.mgrid[:height, :width][::-1], -1)  # (H, W, 2) of (column, row)
    for strength in (-0.8, 0.25, 1.0):
        x = operations.OPERATIONS[name](tf.constant(image), tf.constant(strength)).numpy()
        shift = np.round(strength * np.broadcast_to(offset, 2))
        source = (points - centre) @ np.array(matrix(strength)).T + centre + shift
        nearest = np.round(source).astype(int)
        sure = ((nearest >= 0) & (nearest < (width, height)) & (np.abs(source % 1 - 0.5) > 0.01)).all(-1)
        assert sure.mean() > 0.45
        np.testing.assert_array_equal(x[sure], image[nearest[sure][:, 1], nearest[sure][:, 0]])
        assert (x != image).any()
        assert set(np.unique(x)) <= set(np.unique(image))  # moved, never blended


def test_randaugment_draws_all_operations_both_ways(monkeypatch):
    def reports(index):
        return lambda pixels, s: (
            tf.cast(pixels * 0, tf.uint8) + tf.cast(10 * index, tf.uint8) + tf.cast(s * 4 + 4, tf.uint8)
        )

    assert len(operations.OPERATIONS) == 14
    monkeypatch.setattr(operations, "OPERATIONS", {str(i): reports(i) for i in range(14)})
    x = draws(Augmentation(randaugment=1, magnitude=5), np.zeros((1, 1, 1), np.uint8), 700).ravel()
    assert set(x // 10) == set(range(14))
    assert set(x % 10) == {2, 6}  # strength -1/2 and 1/2
    assert np.bincount(x // 10).min() > 25
    assert 280 < (x % 10 == 2).sum() < 420
    # the second of two is drawn apart, and the first stays
    seen = []
    monkeypatch.setattr(operations, "OPERATIONS", {str(i): lambda p, s, i=i: seen.append(i) or p for i in range(14)})
    for number in range(30):
        draw(Augmentation(randaugment=2), photograph(4, 4), number)
    pairs = np.reshape(seen, (30, 2))
    np.testing.assert_array_equal(pairs[:, 0], x[:30] // 10)
    assert (pairs[:, 0] != pairs[:, 1]).sum() > 20


# -- erasing ------------------------------------------------------------------------------------------------------


def test_erasing_fills_one_rectangle_with_noise():
    image = np.zeros((64, 48, 3), np.uint8)
    x = draws(Augmentation(erase=1), image, 200)
    shares, aspects, centres, noise, boxes = [], [], [], [], []
    for erased in x:
        rows, columns = np.nonzero(erased.any(-1))
        box = erased[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (box.any(-1)).mean() > 0.98  # full but for noise that is black
        shares.append(box.shape[0] * box.shape[1] / image[..., 0].size)
        aspects.append(box.shape[1] / box.shape[0])
        centres.append((rows.mean() / 64, columns.mean() / 48))
        noise.append(box.ravel())
        boxes.append((slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)))
    assert 0.018 < min(shares) < 0.06
    assert 0.29 < max(shares) < 0.345
    assert abs(np.mean(shares) - 0.175) < 0.02
    assert 0.27 < min(aspects) < 0.4
    assert 2.5 < max(aspects) < 3.6
    assert np.ptp(centres, axis=0).min() > 0.5
    counts = np.bincount(np.concatenate(noise), minlength=256)
    np.testing.assert_allclose(counts / counts.mean(), 1, atol=0.15)
    # around it nothing moves, and the noise is of the seed alone
    photo = photograph(64, 48)
    for box, black, erased in zip(boxes, x, draws(Augmentation(erase=1), photo, 20), strict=False):
        expected = photo.copy()
        expected[box] = black[box]
        np.testing.assert_array_equal(erased, expected)
    half = draws(Augmentation(erase=0.5), image, 200)
    on = half.any(axis=(1, 2, 3))
    assert 70 < on.sum() < 130
    np.testing.assert_array_equal(half[on], x[on])


# -- mixing -------------------------------------------------------------------------------------------------------


def mixed(augmentation, pixels, targets, first=0, by="mix"):
    numbers = np.arange(first, first + len(pixels))
    seeds = tf.constant(np.stack([numbers, 2**40 + numbers], axis=1))
    x, y = tf.function(getattr(augmentation, by))(tf.constant(pixels), tf.constant(targets), seeds)
    return x.numpy(), y.numpy()


def test_mixup_is_a_convex_combination_with_the_next():
    rng = np.random.default_rng(0)
    pixels, targets = rng.integers(0, 256, (24, 6, 5, 3), dtype=np.uint8), np.eye(24, dtype=np.float32)
    x, y = mixed(Augmentation(mixup=1.0), pixels, targets)
    own, other = np.diag(y), y[np.arange(24), (np.arange(24) + 1) % 24]
    np.testing.assert_allclose(own + other, 1, atol=1e-6)
    assert (np.count_nonzero(y, axis=1) == 2).all()
    assert len(set(own)) == 24
    lam = own[:, None, None, None]
    np.testing.assert_allclose(x, lam * pixels + (1 - lam) * np.roll(pixels, -1, axis=0), atol=1e-3)


@pytest.mark.parametrize("shape", [(7,), (4, 5), (3, 2, 6)])
def test_outputs_of_layers_are_mixed_in_the_shares_of_their_images(shape):
    augmentation = Augmentation(mixup=0.4)
    outputs = np.random.default_rng(0).normal(size=(24, *shape)).astype(np.float16)
    targets = np.eye(24, dtype=np.float32)
    _, shares = mixed(augmentation, np.zeros((24, 2, 2, 1), np.uint8), targets, first=5)
    x, y = mixed(augmentation, outputs, targets, first=5, by="mix_outputs")
    np.testing.assert_array_equal(y, shares)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, np.tensordot(shares, outputs, 1), atol=1e-5)


@pytest.mark.parametrize("shape", [(20, 31, 1), (16, 16, 3)])
def test_cutmix_shares_are_those_of_the_pixels(shape):
    pixels = (np.arange(40, dtype=np.uint8)[:, None, None, None] + np.zeros(shape, np.uint8)).astype(np.uint8)
    x, y = mixed(Augmentation(cutmix=1.0), pixels, np.eye(40, dtype=np.float32))
    next_one = (np.arange(40) + 1) % 40
    taken = x == next_one[:, None, None, None]
    np.testing.assert_array_equal(taken, x != pixels)
    share = taken[..., 0].sum(axis=(1, 2)) / np.float64(shape[0] * shape[1])
    np.testing.assert_array_equal(y[np.arange(40), next_one], share.astype(np.float32))
    np.testing.assert_array_equal(y.diagonal(), 1 - share.astype(np.float32))
    assert share.min() < 0.1
    assert share.max() > 0.6
    for rectangle in taken[..., 0]:
        rows, columns = rectangle.any(1), rectangle.any(0)
        np.testing.assert_array_equal(rectangle, rows[:, None] & columns)
        for side in (rows, columns):
            assert np.count_nonzero(np.diff(side.astype(int))) <= 2  # without a gap
    counts = taken[..., 0].mean(0)
    assert counts.min() > 0  # it comes everywhere


def test_one_example_takes_one_of_the_two():
    pixels = (np.arange(200, dtype=np.uint8) % 2 * 200)[:, None, None, None] + np.zeros((1, 8, 8, 1), np.uint8)
    targets = np.eye(2, dtype=np.float32)[np.arange(200) % 2]
    x, y = mixed(Augmentation(mixup=1.0, cutmix=1.0), pixels, targets)
    cuts = np.isin(x, (0, 200)).all(axis=(1, 2, 3))
    assert 70 < cuts.sum() < 130
    only_mixup, only_cutmix = (mixed(Augmentation(**{name: 1.0}), pixels, targets) for name in ("mixup", "cutmix"))
    for which, alone in ((~cuts, only_mixup), (cuts, only_cutmix)):
        np.testing.assert_array_equal(x[which], alone[0][which])
        np.testing.assert_array_equal(y[which], alone[1][which])


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_lambda_is_beta_and_belongs_to_its_own_seed(alpha):
    count = 4000
    pixels, targets = np.zeros((count, 1, 1, 1), np.uint8), np.eye(2, dtype=np.float32)[np.arange(count) % 2]
    own = (mixed(Augmentation(mixup=alpha), pixels, targets)[1] * targets).sum(1)
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(own.mean() - 0.5) < 4 * np.sqrt(variance / count)
    fourth = ((own - 0.5) ** 4).mean()
    assert abs(((own - 0.5) ** 2).mean() - variance) < 4 * np.sqrt((fourth - variance**2) / count)
    # moments of a symmetric Beta: kurtosis 3 - 6 / (2a + 3)
    assert abs(fourth / variance**2 - (3 - 6 / (2 * alpha + 3))) < 0.15
    part = mixed(Augmentation(mixup=alpha), pixels[:10], targets[:10], first=1000)[1]
    np.testing.assert_array_equal((part * targets[:10]).sum(1), own[1000:1010])


# -- the grid -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_shows_what_training_sees(tmp_path, channels):
    images = np.stack([np.roll(photograph(12, 15, channels), 4 * i, axis=0) for i in range(3)])
    path = tmp_path / "grid.png"
    strong = Augmentation(policy="strong")
    draw_grid(path, images, strong, seed=7, columns=6)
    assert [p.name for p in tmp_path.iterdir()] == ["grid.png"]
    grid = np.asarray(Image.open(path)).reshape(3, 12, 6, 15, channels).swapaxes(1, 2)
    np.testing.assert_array_equal(grid[:, 0], images)
    for epoch in range(5):
        order = tf.constant([7, epoch], tf.int64)
        seeds = [tf.random.experimental.stateless_fold_in(order, tf.constant(i, tf.int64)) for i in range(3)]
        expected = tf.stack([strong(tf.constant(p), s) for p, s in zip(images, seeds, strict=True)])
        if epoch >= 3:  # the last two of five
            expected = np.round(strong.mix(expected, tf.zeros((3, 1)), tf.stack(seeds))[0])
        np.testing.assert_array_equal(grid[:, epoch + 1], expected)
    with pytest.raises(RecipeError, match="columns must be at least 2, got 1"):
        draw_grid(path, images, strong, columns=1)


def test_a_grid_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "grid.png"
    path.write_bytes(b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("kerazoo.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        draw_grid(path, photograph()[None], Augmentation(), columns=2)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["grid.png"]
