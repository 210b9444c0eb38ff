"""Malformed images given to an export: each has a right answer or says why not, and its neighbours keep their bits."""

import random
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from bombs import bmp, chunk, gif, jpeg, mutated, png, samples, segment, texts, webp
from conftest import make_images

from kerazoo.errors import DataError
from kerazoo.exports.export import export_run
from kerazoo.exports.formats.answering import FormatModel
from kerazoo.exports.formats.table import FORMATS
from kerazoo.exports.layout import OK
from kerazoo.exports.saved_model import ExportedModel
from kerazoo.models.saved import load_model
from kerazoo.recipes.recipe import make_recipe
from kerazoo.training.train import train

SECONDS, BYTES = 2.0, 500_000_000  # what an image below 2 MB may cost
BATCH, EVERY = 8, 2  # each batch has a malformed image in every second place


def several(contents):
    """A JPEG that says that it holds two images (MPF), which Pillow takes for another format."""
    entries = b"".join(struct.pack("<5I", 0x30000, len(contents), at, 0, 0)[:16] for at in (0, len(contents)))
    fields = struct.pack("<HHI4s", 0xB000, 7, 4, b"0100") + struct.pack("<HHII", 0xB001, 4, 1, 2)
    fields += struct.pack("<HHII", 0xB002, 7, 32, 50)
    index = b"II*\0" + struct.pack("<IH", 8, 3) + fields + struct.pack("<I", 0) + entries
    return contents[:2] + segment(0xE2, b"MPF\0" + index) + contents[2:]


BOMBS = (
    gif(13_000, 13_000, (10, 10)), gif(10, 10, (20_000, 20_000)), jpeg(64, 64, scans=1000), jpeg(7000, 5000, scans=13),
    jpeg(64, 0), png(12_000, 12_000, before=chunk(b"abCd", b"\0\0\0\1" * 2)), png(4_000, 4_000, 16, 6), png(70_000, 1),
    png(9, 9, middle=texts(9)), png(9, 9, middle=b"\x7f\xff\xff\xfftEXtkey\0"),
    jpeg(7000, 5000, frame=0xC0, components=4), several(jpeg(640, 480, scans=300)),
    webp(10_000, 10_000), webp(10_000, 10_000, lossless=True), bmp(9, 9)[:40],
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    images = make_images(tmp_path_factory.mktemp("images"), count=8, size=24)
    values = {
        "model": {"name": "bottleneck_cnn"}, "data": {"path": str(images), "size": 16, "channels": 3},
        "training": {"epochs": 1},
    }  # fmt: skip
    return train(make_recipe(values), name="shapes", root=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def export(run, tmp_path_factory):
    return export_run(run, formats="onnx", root=tmp_path_factory.mktemp("saved_models"))


def malformed(count):
    """Bombs, then mutated images of every kind with random bytes among them; the same each time."""
    draw = random.Random(0)
    yield from BOMBS[:count]
    whole = samples()
    for number in range(max(0, count - len(BOMBS))):
        if number % 20:
            yield mutated(whole[number % len(whole)], draw)
        else:
            yield whole[number // 20 % len(whole)][: draw.randrange(16)] + draw.randbytes(draw.randrange(200))


def memory(name):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024


def begin():
    """The bytes that this process has; its peak begins anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def seconds_of(call):
    before = time.process_time()
    call()
    return time.process_time() - before


def fuzz(run, export, count):
    """(seconds for an image of the dearest batch, bytes over the start, images answered) of `count` malformed ones."""
    spec, network = load_model(run.folder)
    model = ExportedModel(export)
    good = samples()[:BATCH]
    alone = model.outputs(good)
    assert set(alone["status"]) == {OK.encode()}
    usual = min(seconds_of(lambda: model.outputs(good)) for _ in range(5))
    inputs = list(malformed(count))
    places = range(1, BATCH, EVERY)
    beside = range(0, BATCH, EVERY)
    start, longest, answered = begin(), 0.0, 0
    for first in range(0, len(inputs), len(places)):
        batch = list(good)
        some = dict(zip(places, inputs[first:], strict=False))
        for place, contents in some.items():
            batch[place] = contents
        before = time.process_time()
        found = model.outputs(batch)
        longest = max(longest, (time.process_time() - before - usual) / len(some))
        for name, values in found.items():
            np.testing.assert_array_equal(values[beside], alone[name][beside], err_msg=f"{name}, {first}")
        for place, contents in some.items():
            status = found["status"][place].decode()
            try:
                prepared = spec.preprocessing(contents)
            except tf.errors.InvalidArgumentError:
                assert status.startswith("not decoded: "), (first, status)
                assert np.isnan(found["probabilities"][place]).all()
                assert found["label"][place] == b""
                continue
            answered += 1
            assert status == OK, (first, status)
            expected = spec.answers(network(prepared[None], training=False))[0]
            np.testing.assert_allclose(found["probabilities"][place], expected, atol=1e-5)
    return longest, memory("VmHWM") - start, answered


def test_malformed_images_are_answered_or_say_why(run, export):
    seconds, taken, answered = fuzz(run, export, 200)
    assert seconds < SECONDS
    assert taken < BYTES
    assert 0 < answered < 200


@pytest.mark.slow  # minutes
def test_ten_thousand_malformed_images_are_answered_or_say_why(run, export):
    seconds, taken, answered = fuzz(run, export, 10_000)
    print(f"longest {seconds:.2f} s, {taken / 1e6:.0f} MB, {answered:,} answered")
    assert seconds < SECONDS
    assert taken < BYTES


def fuzz_reference(export, count):
    """As `fuzz`, of another format, whose images numpy and Pillow prepare: (seconds, bytes, answered)."""
    model = FormatModel(export, FORMATS["onnx"])
    start, longest, answered, said = begin(), 0.0, 0, set()
    for contents in malformed(count):
        before = time.process_time()
        try:
            assert np.isfinite(model.answer(contents)).all()
            answered += 1
        except DataError as error:
            said.add(str(error).split(":")[0])
        longest = max(longest, time.process_time() - before)
    assert said == {"not decoded"}
    return longest, memory("VmHWM") - start, answered


def test_malformed_images_of_another_format_are_answered_or_say_why(export):
    seconds, taken, answered = fuzz_reference(export, 500)
    assert seconds < SECONDS
    assert taken < BYTES
    assert 0 < answered < 500


@pytest.mark.slow  # a minute
def test_ten_thousand_malformed_images_of_another_format_are_answered_or_say_why(export):
    seconds, taken, answered = fuzz_reference(export, 10_000)
    print(f"longest {seconds:.2f} s, {taken / 1e6:.0f} MB, {answered:,} answered")
    assert seconds < SECONDS
    assert taken < BYTES
