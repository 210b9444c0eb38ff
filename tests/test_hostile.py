"""Hostile files: what costs too much is refused from its header, in words; what never ends is not read."""

import io
import os
import random
import re
import resource
import threading
import time
import zlib

import numpy as np
import pytest
import tensorflow as tf
from bombs import chunk, gif, jpeg, mutated, png, samples, texts
from PIL import Image

from kerazoo.errors import DataError
from kerazoo.files import NotRegularError
from kerazoo.pipelines.checks.inspection import inspect_contents, inspect_file
from kerazoo.pipelines.data.load import load_examples
from kerazoo.preprocessing.image_files import TooLargeError, read_image
from kerazoo.preprocessing.png_chunks import TYPES
from kerazoo.preprocessing.preprocessing import Preprocessing
from kerazoo.serving.predict import find_files

SMALL = Preprocessing(8, 8)
GREY = Preprocessing(8, 8, channels=1)
SECONDS, BYTES = 2.0, 500_000_000  # what a file below 2 MB may cost


@pytest.fixture(scope="module", autouse=True)
def graphs():
    """The graphs are built before anything is timed."""
    for preprocessing in (SMALL, GREY):
        preprocessing.read(tf.constant(png(9, 9)))
    inspect_contents(png(9, 9), ".png")


def long_chunk(kind, place, before=b""):
    """A PNG with a chunk that says that it has 2 GB, before its chunk `place`."""
    whole = png(9, 9, middle=before)
    at = whole.index(place) - 4
    return whole[:at] + b"\x7f\x00\x1e\xf5" + kind + b"key\0\0" + whole[at:]


SMALL_SIZE = chunk(b"abCd", b"\0\0\0\1" * 2)  # a chunk that looks like an IHDR of one pixel where it lies
REFUSED = {
    "GIF frame over its screen": (lambda: gif(13_000, 13_000, (10, 10)), "announces 13000 x 13000 pixels"),
    "GIF screen": (lambda: gif(10, 10, (20_000, 20_000)), "announces 20000 x 20000 pixels"),
    "a thousand scans": (lambda: jpeg(64, 64, scans=1000), "the JPEG has 101 scans, but at its size at most 100"),
    "13 scans of 35 megapixels": (lambda: jpeg(7000, 5000, scans=13), "the JPEG has 13 scans, but .* at most 12"),
    "no height": (lambda: jpeg(64, 0), "announces 64 x 0 pixels|Invalid JPEG data"),
    "IHDR is not first": (lambda: png(12_000, 12_000, before=SMALL_SIZE), "first PNG chunk is not IHDR"),
    "16-bit RGBA": (lambda: png(4_000, 4_000, 16, 6), "announces 4000 x 4000 pixels; .* 13125000 pixels in its format"),
    "interlaced": (
        lambda: png(6_000, 5_000, interlaced=True),
        "announces 6000 x 5000 pixels; .* 26250000 pixels in its",
    ),
    "CMYK": (
        lambda: jpeg(6_000, 5_000, frame=0xC0, components=4),
        "announces 6000 x 5000 pixels; .* 26250000 pixels in its",
    ),
    "too wide": (lambda: png(70_000, 1), "65535 a side"),
    "many chunks": (
        lambda: long_chunk(b"tEXt", b"IDAT", before=chunk(b"abCd") * 50_000),
        "longer than the file, or the PNG has too",
    ),
    "many marks": (lambda: png(9, 9)[:8] + png(9, 9)[8:33] + b"TXt" * 1_000_000, "or the PNG has too many chunks"),
    "texts": (lambda: png(9, 9, middle=texts(9)), "more than 8 texts that may be compressed"),
}


REFUSED |= {
    f"a long {kind.decode()} before {place.decode()}": (
        lambda kind=kind, place=place: long_chunk(kind, place), "a PNG chunk says that it is longer than the file"
    )
    for kind, place in [*((kind, b"IDAT") for kind in TYPES), (b"tEXt", b"IEND"), (b"zTXt", b"IEND")]
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_bomb_is_refused_before_it_costs_anything(name):
    make, words = REFUSED[name]
    contents = make()
    start = time.process_time()
    found = inspect_contents(contents, ".x").bad
    assert found is not None
    with pytest.raises(tf.errors.InvalidArgumentError):
        SMALL.read(tf.constant(contents))
    assert time.process_time() - start < 5  # a slow machine takes one for 50,000 chunks
    assert re.search(words, found[1]), found


@pytest.mark.parametrize("kind", TYPES)
def test_image_data_that_looks_like_a_long_chunk_is_decoded(kind):
    """Also where it begins with the name of the chunk."""
    pixels = np.frombuffer((kind + b"\x7f\0\1\2" + kind + b"\xff\xff\xff\xff" + kind) * 9, np.uint8)[:150]
    rows = pixels.reshape(5, 30)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows), 0)  # neither filtered nor packed
    contents = png(10, 5)
    start = contents.index(b"IDAT") - 4
    contents = contents[:start] + chunk(b"IDAT", data) + chunk(b"IEND")
    assert contents.count(b"\x7f\0\1\2" + kind) > 2
    np.testing.assert_array_equal(SMALL.decode(contents), rows.reshape(5, 10, 3))


def test_large_images_are_decoded_one_at_a_time_and_failures_give_the_turn_back():
    large = png(5_200, 5_000, 1, 0)  # 26 megapixels
    damaged = large[:-40]
    files = tf.data.Dataset.from_tensor_slices([damaged, large, damaged, large])
    read = files.map(SMALL.read, num_parallel_calls=4).ignore_errors()
    assert len(list(read)) == 2


@pytest.mark.slow  # 19 s: 26 megapixels, four times
def test_large_images_have_the_same_bits_as_decoding_and_fitting_apart():
    rng = np.random.default_rng(0)
    pixels = np.repeat(np.repeat(rng.integers(0, 256, (52, 50, 4)).astype(np.uint8), 100, 0), 100, 1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    contents = tf.constant(buffer.getvalue())
    for preprocessing in (SMALL, GREY):
        apart = preprocessing.resize_pixels(preprocessing.decode(contents))
        np.testing.assert_array_equal(preprocessing.read(contents), apart)
    colour = pixels[..., :3].astype(int)
    alpha = pixels[..., 3:].astype(int)
    expected = (colour * alpha + 255 * (255 - alpha) + 127) // 255
    np.testing.assert_array_equal(SMALL.decode(contents), expected)


def fuzz(count):
    """(seconds, bytes over the start) that the dearest of `count` mutations took."""
    draw = random.Random(0)
    whole = samples()
    for contents in whole:
        SMALL.read(tf.constant(contents))
        inspect_contents(contents, ".png")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    longest = 0.0
    for number in range(count):
        contents = mutated(whole[number % len(whole)], draw)
        start = time.process_time()
        found = inspect_contents(contents, ".png").bad
        try:
            SMALL.read(tf.constant(contents))
        except tf.errors.InvalidArgumentError:
            assert found is not None, number
        else:
            assert found is None, (number, found)
        assert found is None or (found[1] and "File " not in found[1] and "[[" not in found[1]), found
        longest = max(longest, time.process_time() - start)
    return longest, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def test_mutations_cost_little_and_are_named():
    seconds, taken = fuzz(250)
    assert seconds < 2 * SECONDS
    assert taken < BYTES


@pytest.mark.slow  # minutes
def test_ten_thousand_mutations_cost_little_and_are_named():
    seconds, taken = fuzz(10_000)
    print(f"longest {seconds:.2f} s of both ways, {taken / 1e6:.0f} MB")
    assert seconds < 2 * SECONDS
    assert taken < BYTES


def in_time(function, seconds=10):
    """What `function` gives, or raises, where it ends at all."""
    found = []

    def run():
        try:
            found.append(function())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, "it waits for ever"
    return found[0]


def test_pipes_and_devices_are_named_and_never_waited_for(images):
    os.mkfifo(images / "circle" / "pipe.jpg")
    (images / "circle" / "zero.jpg").symlink_to("/dev/zero")
    (images / "circle" / "loop.jpg").symlink_to(images / "circle" / "loop.jpg")
    pipe, zero, loop = (str(images / "circle" / f"{name}.jpg") for name in ("pipe", "zero", "loop"))
    assert in_time(lambda: inspect_file(pipe)).bad == ("unreadable", "it is a named pipe; only regular files are read")
    assert in_time(lambda: inspect_file(zero)).bad == ("unreadable", "it is a device; only regular files are read")
    assert in_time(lambda: inspect_file(loop)).bad[0] == "unreadable"
    for path, error in ((pipe, NotRegularError), (zero, NotRegularError), (loop, OSError)):
        assert isinstance(in_time(lambda path=path: read_image(path)), error)
    found = in_time(lambda: load_examples(images), 30)
    assert isinstance(found, DataError)
    assert "cannot be read" in str(found)
    assert [str(path) for path in find_files([images / "circle" / "pipe.jpg"])] == [pipe]
    for name in ("data.npz", "data.csv"):
        os.mkfifo(images / name)
        assert isinstance(in_time(lambda name=name: load_examples(images / name)), DataError)


def test_a_file_over_the_limit_is_not_read(tmp_path):
    path = tmp_path / "huge.jpg"
    with path.open("wb") as file:
        file.truncate(300_000_000)  # a hole, which takes no disk
    assert inspect_file(str(path)).bad == ("enormous", "the file has 300.0 MB, but an image may have at most 256.0 MB")
    assert isinstance(in_time(lambda: read_image(path)), TooLargeError)
