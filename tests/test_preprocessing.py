"""Pixels: decoded as Pillow decodes them, upright, and fitted as Pillow resizes them; the same in any graph."""

import io
import tarfile
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from kerazoo.errors import ModelError
from kerazoo.preprocessing.decoding import luma, over_white
from kerazoo.preprocessing.preprocessing import RESIZES, SCALINGS, Preprocessing

RGB, GREY = Preprocessing(32, 32), Preprocessing(32, 32, channels=1)


def photo(height=45, width=61, mode="RGB"):
    """A smooth random image, which JPEG keeps well."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


# in a graph, as training and serving run it
DECODERS = {p: tf.function(p.decode, input_signature=[tf.TensorSpec((), tf.string)]) for p in (RGB, GREY)}


def decode(contents, preprocessing=RGB):
    return DECODERS[preprocessing](tf.constant(contents)).numpy()


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpeg_is_bit_identical_to_pillow(subsampling):
    contents = encode(photo(), "JPEG", quality=83, subsampling=subsampling)
    expected = np.array(Image.open(io.BytesIO(contents)))
    np.testing.assert_array_equal(decode(contents), expected)
    np.testing.assert_array_equal(
        decode(contents, GREY)[..., 0], np.array(Image.open(io.BytesIO(contents)).convert("L"))
    )


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned(orientation, endian):
    exif = Image.Exif()
    exif.endian = endian
    exif[0x010F] = "a maker whose name comes before"
    exif[0x0112] = orientation
    contents = encode(photo(), "JPEG", exif=exif.tobytes(), icc_profile=bytes(3000), quality=90)
    expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(contents))))
    assert expected.shape[:2] == ((45, 61) if orientation < 5 else (61, 45))
    np.testing.assert_array_equal(decode(contents), expected)


@pytest.mark.parametrize(
    "exif",
    [
        b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"http://ns.adobe.com/xap",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0",  # orientation 9
    ],
)  # fmt: skip
def test_broken_exif_is_no_orientation(exif):
    plain = encode(photo(), "JPEG")
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    np.testing.assert_array_equal(decode(plain[:2] + segment + plain[2:]), np.array(Image.open(io.BytesIO(plain))))


@pytest.mark.parametrize(
    ("kind", "mode"), [(kind, mode) for kind in ("PNG", "GIF") for mode in ("RGB", "L", "P", "1")] + [("BMP", "RGB")]
)
def test_other_formats_and_modes(kind, mode):
    image = photo(mode=mode)
    contents = encode(image, kind)
    stored = Image.open(io.BytesIO(contents))
    np.testing.assert_array_equal(decode(contents), np.array(stored.convert("RGB")))
    np.testing.assert_array_equal(decode(contents, GREY)[..., 0], np.array(stored.convert("RGB").convert("L")))


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_bmp_with_a_palette_is_refused(mode):
    with pytest.raises(tf.errors.InvalidArgumentError, match="BMP images with a palette, compression or another"):
        decode(encode(photo(mode=mode), "BMP"))


@pytest.mark.parametrize("shape", [(256, 256, 4), (2048, 1024, 4)])  # at once, and in bands
def test_every_color_with_every_alpha_is_blended_as_whole_numbers_are(shape):
    pairs = np.stack(np.meshgrid(np.arange(256), np.arange(256)), axis=-1).reshape(-1, 2)
    color, alpha = np.resize(pairs, (shape[0] * shape[1], 2)).T.reshape(2, *shape[:2])
    image = np.stack([color, 255 - color, color, alpha], axis=-1)
    expected = (image[..., :3] * image[..., 3:] + 255 * (255 - image[..., 3:]) + 127) // 255
    blended = tf.function(over_white, autograph=False)(tf.constant(image, tf.uint8))
    np.testing.assert_array_equal(blended, expected)


def test_luma_is_that_of_whole_numbers_for_every_color():
    values = np.arange(256, dtype=np.int64)
    compiled = tf.function(luma, autograph=False)
    for red in values:
        image = np.stack(np.meshgrid([red], values, values, indexing="ij"), axis=-1)[0]
        expected = (image @ [19595, 38470, 7471] + 32768) // 65536
        np.testing.assert_array_equal(compiled(tf.constant(image, tf.uint8))[..., 0], expected)


def test_a_palette_with_alpha():
    image = photo(mode="P")
    contents = encode(image, "PNG", transparency=bytes([0] * 128 + [255] * 128))
    clear = np.array(image) < 128
    found = decode(contents)
    assert (found[clear] == 255).all()
    np.testing.assert_array_equal(found[~clear], np.array(image.convert("RGB"))[~clear])


def test_webp_and_its_alpha():
    lossless = encode(photo(), "WEBP", lossless=True)
    np.testing.assert_array_equal(decode(lossless), np.array(photo()))
    clear = photo().convert("RGBA")
    clear.putalpha(0)
    assert (decode(encode(clear, "WEBP", lossless=True)) == 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_over_white(mode):
    image = photo().convert(mode)
    alpha = Image.linear_gradient("L").resize(image.size)
    image.putalpha(alpha)
    over = Image.new("RGBA", image.size, "white")
    over.alpha_composite(image.convert("RGBA"))
    found = decode(encode(image, "PNG"))
    assert np.abs(found.astype(int) - np.array(over.convert("RGB"))).max() <= 1
    opaque = np.array(alpha) == 255
    np.testing.assert_array_equal(found[opaque], np.array(image.convert("RGB"))[opaque])


def test_cmyk_jpeg_is_near_pillow():
    contents = encode(photo().convert("CMYK"), "JPEG", quality=95)
    found, expected = decode(contents).astype(int), np.array(Image.open(io.BytesIO(contents)).convert("RGB"))
    assert np.abs(found - expected).max() <= 1


def test_sixteen_bits_keep_the_upper_eight():
    values = np.random.default_rng(0).integers(0, 65536, (20, 30)).astype(np.uint16)
    contents = encode(Image.fromarray(values), "PNG")
    np.testing.assert_array_equal(decode(contents)[..., 1], values >> 8)


def test_what_is_no_image_is_refused():
    good = encode(photo(), "JPEG")
    for bad in (b"", b"\xff\xd8\xff", b"<html></html>", good[: len(good) // 2], b"RIFF", b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode(bad)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "GIF"])
def test_a_header_cut_short_is_refused_in_readable_words(kind):
    """An error that quotes the image's bytes reaches Python as UnicodeDecodeError, now and then."""
    whole = encode(photo(), kind)
    for length in range(2, 40):
        with pytest.raises(tf.errors.InvalidArgumentError) as error:
            decode(whole[:length])
        assert "out of range" not in str(error.value)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (48, 31), (30, 90)])
def test_stretch_is_pillows_antialiased_bilinear(height, width):
    image = photo(240, 320)
    found = Preprocessing(height, width, resize="stretch").resize_pixels(np.array(image)).numpy()
    expected = np.array(image.resize((width, height), Image.Resampling.BILINEAR))
    assert found.shape == (height, width, 3)
    assert np.abs(found.astype(float) - expected).mean() <= 0.5


@pytest.mark.parametrize(("rows", "columns"), [(40, 90), (90, 40), (50, 50)])
def test_crop_keeps_the_centre_and_pad_keeps_all(rows, columns):
    image = np.zeros((rows, columns, 3), np.uint8)
    side = min(rows, columns)
    top, left = (rows - side) // 2, (columns - side) // 2
    image[top : top + side, left : left + side] = 200
    assert (Preprocessing(20, 20, resize="crop").resize_pixels(image).numpy() == 200).all()
    padded = Preprocessing(90, 90, resize="pad").resize_pixels(np.full((rows, columns, 3), 77, np.uint8)).numpy()
    share = min(rows, columns) / max(rows, columns)
    assert (padded == 77).all(axis=-1).mean() == pytest.approx(share, abs=0.03)


def test_pad_keeps_a_pixel_of_a_thin_image_and_is_tensorflows_for_all_others():
    for rows, columns in ((1, 65_535), (65_535, 1), (500, 1)):
        padded = Preprocessing(24, 20, resize="pad").resize_pixels(np.full((rows, columns, 3), 77, np.uint8)).numpy()
        assert padded.any(axis=-1).sum() == (20 if columns > rows else 24)
        assert padded.max() == 77
    rng = np.random.default_rng(0)
    for rows, columns in ((24, 20), (25, 20), (7, 9), (200, 31), (31, 200), (480, 60), (333, 500)):
        image = rng.integers(0, 256, (rows, columns, 3)).astype(np.uint8)
        antialias = rows > 24 or columns > 20
        expected = tf.image.resize_with_pad(image, 24, 20, antialias=antialias)
        expected = np.rint(expected).clip(0, 255).astype(np.uint8)
        np.testing.assert_array_equal(Preprocessing(24, 20, resize="pad").resize_pixels(image), expected)


@pytest.mark.parametrize("fit", RESIZES)
def test_a_image_of_the_right_size_is_left_as_it_is(fit):
    image = np.array(photo(32, 32))
    np.testing.assert_array_equal(Preprocessing(32, 32, resize=fit).resize_pixels(image), image)
    # float pixels take the same way: what serving is given as floats is what training saw as bytes
    np.testing.assert_array_equal(Preprocessing(32, 32, resize=fit).resize_pixels(image.astype(np.float32)), image)


def test_channels_follow_the_network():
    grey = np.array(photo(mode="L"))[..., None]
    three = Preprocessing(45, 61).resize_pixels(grey).numpy()
    assert (three == grey).all()
    one = Preprocessing(45, 61, channels=1).resize_pixels(three).numpy()
    np.testing.assert_array_equal(one, grey)


def test_one_call_is_decode_fit_scale_and_the_graph_is_bit_equal():
    contents = encode(photo(), "JPEG")
    for scaling in SCALINGS:
        numbers = {"factor": (0.1, 0.2, 0.3), "offset": (1.5,)} if scaling == "numbers" else {}
        preprocessing = Preprocessing(24, 20, scaling=scaling, **numbers)
        eager = preprocessing.scale(preprocessing.resize_pixels(preprocessing.decode(contents))).numpy()
        data = tf.data.Dataset.from_tensors(contents).map(preprocessing)
        mapped = tf.function(
            lambda b, p=preprocessing: tf.map_fn(p, b, fn_output_signature=tf.TensorSpec(p.shape, tf.float32))
        )
        np.testing.assert_array_equal(eager, next(iter(data)))
        np.testing.assert_array_equal(eager, mapped(tf.constant([contents]))[0])


@pytest.mark.parametrize("preprocessing", [RGB, GREY])
def test_the_graph_holds_each_way_once(preprocessing):
    """Every iterator over files sets it up anew, at each epoch and validation: its size is paid for again and again."""
    graph = tf.function(preprocessing.read).get_concrete_function(tf.TensorSpec((), tf.string)).graph.as_graph_def()
    found = Counter(node.op for function in graph.library.function for node in function.node_def)
    # plain and turned; with alpha and without; GIF and WebP; down the rows twice
    wanted = {"DecodeJpeg": 2, "DecodePng": 2, "DecodeImage": 2, "DecodeBmp": 1, "ScaleAndTranslate": 2}
    assert {name: found[name] for name in wanted} == wanted


def test_it_travels_as_json_and_refuses_what_it_does_not_know():
    made = Preprocessing(24, 20, channels=1, resize="pad", scaling="tf")
    assert Preprocessing.from_json(made.to_json()) == made
    with pytest.raises(ModelError, match="unknown key 'sise'"):
        Preprocessing.from_json({"height": 1, "width": 1, "sise": 2})
    with pytest.raises(ModelError, match="resize='squash' must be one of stretch, crop, pad"):
        Preprocessing(8, 8, resize="squash")
    for channels in (0, 1.5, True):
        with pytest.raises(ModelError, match=f"channels={channels} must be a whole number of at least 1"):
            Preprocessing(8, 8, channels=channels)


def photos(shared, every):
    with tarfile.open(shared / "flowers240.tar") as archive:
        members = [m for m in archive if m.name.endswith(".jpg")][::every]
        return [archive.extractfile(m).read() for m in members]


def test_real_photos_are_bit_identical_to_pillow(shared):
    """All 3,670 of them, as JPEG; some of them once more as PNG."""
    files = photos(shared, 1)
    assert len(files) == 3670
    for number, contents in enumerate(files):
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(contents))).convert("RGB")
        np.testing.assert_array_equal(decode(contents), np.array(image))
        if number % 40 == 0:
            np.testing.assert_array_equal(decode(encode(image, "PNG")), np.array(image))


@pytest.mark.slow  # hundreds of photos; the tests beside it have one
@pytest.mark.parametrize("size", [96, 224])
def test_real_photos_are_fitted_as_pillow_fits_them(shared, size):
    """Mean difference from Pillow's antialiased bilinear, over an image: at most half of 1/255."""
    stretch, crop = Preprocessing(size, size, resize="stretch"), Preprocessing(size, size)
    for contents in photos(shared, 60):
        image = Image.open(io.BytesIO(contents)).convert("RGB")
        expected = np.array(image.resize((size, size), Image.Resampling.BILINEAR), float)
        found = stretch.resize_pixels(decode(contents)).numpy()
        assert np.abs(found - expected).mean() <= 0.5
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        part = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BILINEAR)
        assert np.abs(crop.resize_pixels(decode(contents)).numpy() - np.array(part, float)).mean() <= 0.5
