"""What the dearest files below 2 MB cost: bombs, and what is still decoded, of every kind, by each of the ways.

Each way has a process of its own, which goes through all files. Before each its memory is given back and its peak begun
anew; what a file takes counts from the start, when TensorFlow was imported and the graphs were built. TensorFlow keeps
some of what earlier files took, and readies the part of a graph for a kind of image when the first one comes. So
whatever comes near a limit there is measured by itself, in a new process: its memory from its first time, its seconds
from its second.

Cores differ, and one core differs from hour to hour, by more than a file near the limit could bear. So each file is
timed between two runs of a yardstick, and its seconds are those of a core that needs YARDSTICK seconds for that.
"""

import ctypes
import json
import os
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bombs import bmp, chunk, gif, jpeg, png, texts, turned, webp
from conftest import make_images

SECONDS = 2.0  # of processor time
YARDSTICK = 0.25  # seconds, see `yardstick`
MEGABYTES = 500
NEAR = 0.8  # of a limit
FILE = 2_000_000  # bytes
WAYS = ("check", "training crop", "training pad", "predict", "SavedModel", "ONNX")

BOMBS = {
    "GIF frame over its screen": lambda: gif(13_000, 13_000, (10, 10)),
    "GIF screen": lambda: gif(10, 10, (20_000, 20_000)),
    "JPEG, 5,000 scans": lambda: jpeg(64, 64, scans=5_000),
    "JPEG, 13 scans of 35 MP": lambda: jpeg(7000, 5000, scans=13),
    "JPEG of 49 MP": lambda: jpeg(7000, 7000, frame=0xC0),
    "PNG, IHDR not first": lambda: png(12_000, 12_000, before=chunk(b"abCd", b"\0\0\0\1" * 2)),
    "PNG, 16-bit RGBA of 100 MP": lambda: png(10_000, 10_000, 16, 6),
    "PNG, 100 texts": lambda: png(9, 9, middle=texts(100)),
    "PNG, text of 2 GB": lambda: png(9, 9, middle=b"\x7f\xff\xff\xfftEXtkey\0"),
    "PNG, 160,000 chunks and a text of 2 GB": lambda: png(
        9, 9, middle=chunk(b"abCd") * 160_000 + b"\x7f\xff\xff\xfftEXtkey\0"
    ),
    "PNG, 660,000 marks of texts": lambda: png(9, 9)[:33] + b"TXt" * 660_000,
    "PNG, too wide": lambda: png(400_000, 100),
    "WebP of 100 MP": lambda: webp(10_000, 10_000),
    "WebP lossless of 100 MP": lambda: webp(10_000, 10_000, lossless=True),
    "BMP announces 100 MP": lambda: bmp(9, 9).replace(b"\x09\0\0\0\x09\0\0\0", b"\x10\x27\0\0\x10\x27\0\0"),
}
DEAREST = {
    "JPEG baseline, 35 MP": lambda: jpeg(7000, 5000, frame=0xC0),
    "JPEG turned, 35 MP": lambda: jpeg(7000, 5000, frame=0xC0, before=turned(6)),
    "JPEG turned by 180 degrees, 35 MP": lambda: jpeg(7000, 5000, frame=0xC0, before=turned(3)),
    "JPEG, 12 scans of 35 MP": lambda: jpeg(7000, 5000, scans=12),
    "JPEG turned, 12 scans of 35 MP": lambda: jpeg(7000, 5000, scans=12, before=turned(7)),
    "JPEG, 70 scans of 6 MP": lambda: jpeg(2440, 2440, scans=70),
    "JPEG CMYK, 26 MP": lambda: jpeg(5250, 5000, frame=0xC0, components=4),
    "JPEG CMYK, 12 scans of 26 MP": lambda: jpeg(5250, 5000, scans=12, components=4),
    "JPEG grey, 12 scans of 35 MP": lambda: jpeg(7000, 5000, scans=12, components=1),
    "JPEG arithmetic, 35 MP": lambda: jpeg(7000, 5000, frame=0xC9),
    "JPEG thin, 65,535 x 534": lambda: jpeg(65_500, 534, frame=0xC0),
    "PNG RGB, 35 MP": lambda: png(7000, 5000),
    "PNG RGB filtered, 35 MP": lambda: png(7000, 5000, filtered=4),
    "PNG RGB interlaced, 26 MP": lambda: png(5250, 5000, interlaced=True),
    "PNG palette, 26 MP": lambda: png(5250, 5000, 8, 3),
    "PNG black and white, 35 MP": lambda: png(7000, 5000, 1, 0),
    "PNG RGBA, 26 MP": lambda: png(5250, 5000, 8, 6),
    "PNG RGBA interlaced, 17 MP": lambda: png(5000, 3500, 8, 6, interlaced=True),
    "PNG 16-bit RGB, 17 MP": lambda: png(5000, 3500, 16, 2),
    "PNG 16-bit RGBA, 13 MP": lambda: png(5250, 2500, 16, 6),
    "PNG 16-bit RGBA interlaced, 9 MP": lambda: png(3500, 2500, 16, 6, interlaced=True),
    "PNG grey and alpha, 26 MP": lambda: png(5250, 5000, 8, 4),
    "PNG, 8 texts": lambda: png(9, 9, middle=texts(8)),
    "PNG thin, 65,535 x 534": lambda: png(65_535, 534),
    "PNG high, 534 x 65,535": lambda: png(534, 65_535),
    "GIF, 26 MP": lambda: gif(5250, 5000, (5250, 5000)),
    "GIF interlaced, 26 MP": lambda: gif(5250, 5000, (5250, 5000), interlaced=True),
    "WebP, 35 MP": lambda: webp(7000, 5000),
    "WebP with alpha, 13 MP": lambda: webp(5250, 2500, alpha=True),
    "WebP lossless, 13 MP": lambda: webp(5250, 2500, lossless=True),
    "BMP, 0.6 MP": lambda: bmp(800, 800),
}


def tried(way, folder, only=""):
    """{name: [seconds, megabytes, what came of it]} of the files in `folder`, one `way`; runs in its own process."""
    from kerazoo.startup import start_tensorflow

    start_tensorflow()
    import tensorflow as tf  # the ONNX model's way needs none; its memory is counted from here on

    files = [path for path in sorted(folder.glob("*.image")) if not only] or [folder / f"{only}.image"] * 2
    ask = asking(way, folder, files)
    tiny = folder / "tiny.png"
    ask(tiny)
    ask(tiny)
    start = memory("VmRSS")
    rows = {}
    for path in files:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        slowness = yardstick()
        before = time.process_time()
        try:
            said = ask(path)
        except tf.errors.OpError as error:
            said = error.message.split("[[")[0].strip()
        seconds = time.process_time() - before
        peak = memory("VmHWM")
        slowness = (slowness + yardstick()) / 2
        taken = max((peak - start) / 1e6, rows.get(path.stem, [0, -1e3])[1])
        rows[path.stem] = [seconds * YARDSTICK / slowness, taken, str(said)[-160:]]
    return rows


PACKED = zlib.compress(bytes(1_000_000))


def yardstick():
    """Processor time, in seconds, for unpacking 100 MB, which is most of the work for a PNG."""
    before = time.process_time()
    for _ in range(100):
        zlib.decompress(PACKED)
    return time.process_time() - before


def memory(name):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024


def asking(way, folder, files):
    """What a file is given to; it says in words what came of it, or raises."""
    if way == "predict":
        return predicting(folder, files)
    return {"check": checking, "SavedModel": serving, "ONNX": other_format}.get(way, training)(way, folder)


def checking(way, folder):
    from kerazoo.pipelines.checks.inspection import inspect_file

    return lambda path: inspect_file(str(path)).bad or "decoded"


def training(way, folder):
    """An epoch of one image, whose file is another each time."""
    import numpy as np

    from kerazoo.pipelines.data.examples import Examples
    from kerazoo.pipelines.input.augmentation import Augmentation
    from kerazoo.pipelines.input.batches import training_batches
    from kerazoo.preprocessing.preprocessing import Preprocessing

    link = folder / f"{way} {os.getpid()}.link"  # two processes may go this way at once
    examples = Examples(
        source="one image", keys=("one",), labels=np.zeros(1, np.int64), splits=np.array(["train"]),
        class_names=("a", "b"), paths=(str(link),),
    )  # fmt: skip
    preprocessing = Preprocessing(224, 224, resize=way.split()[1])
    batches = training_batches(examples, preprocessing, batch_size=1, seed=0, augmentation=Augmentation())

    def ask(path):
        link.unlink(missing_ok=True)
        link.symlink_to(path)
        return [images.shape for images, _ in batches.dataset]

    return ask


def predicting(folder, files):
    """`kerazoo predict RUN` of all `files`, each with 31 tiny ones in its batch; the network is loaded once."""
    from kerazoo.exports.saved_model import BATCH
    from kerazoo.serving.predict import _from_run

    tiny = folder / "tiny.png"
    asked = [one for file in [tiny, tiny, *files] for one in [file] + [tiny] * (BATCH - 1)]
    answers, _, _ = _from_run(folder / "run", asked)

    def ask(path):
        found = [next(answers) for _ in range(BATCH)]
        assert found[0][0] == path
        assert not any(isinstance(answer, Exception) for _, answer in found[1:])
        return found[0][1]

    return ask


def serving(way, folder):
    """A session of the graph, which is what TensorFlow Serving runs."""
    import tensorflow as tf

    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(folder / "saved_models" / "run" / "1"))
    signature = loaded.signature_def["serving_default"]
    output = signature.outputs["probabilities"].name
    return lambda path: session.run(output, {signature.inputs["image_bytes"].name: [path.read_bytes()]}).shape


def other_format(way, folder):
    """`kerazoo predict --format onnx`, which decodes with Pillow."""
    from kerazoo.errors import DataError
    from kerazoo.exports.formats.answering import FormatModel
    from kerazoo.exports.formats.table import FORMATS

    model = FormatModel(folder / "saved_models" / "run" / "1", FORMATS["onnx"])

    def ask(path):
        try:
            return model.answer(path.read_bytes()).shape
        except DataError as error:
            return error

    return ask


@pytest.mark.slow  # minutes: 45 files of up to 35 megapixels, by six ways
def test_no_file_below_two_megabytes_costs_more_than_two_seconds_or_500_megabytes(tmp_path):
    made = {**BOMBS, **DEAREST}
    for name, make in made.items():
        contents = make()
        assert len(contents) < FILE, (name, len(contents))
        (tmp_path / f"{name}.image").write_bytes(contents)
    (tmp_path / "tiny.png").write_bytes(png(9, 9))
    make_images(tmp_path / "data")
    kerazoo = Path(sys.executable).with_name("kerazoo")
    for command in ("train mlp --data data --epochs 1 --size 64 --name run", "export run --format onnx"):
        subprocess.run([kerazoo, *command.split()], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "run").symlink_to(tmp_path / "runs" / "run")
    with ThreadPoolExecutor(2) as pool:
        costs = dict(zip(WAYS, pool.map(lambda way: child(way, tmp_path), WAYS), strict=True))
        cells = {(name, way): costs[way][name] for name in made for way in WAYS}
        near = [cell for cell, cost in cells.items() if cost[0] > NEAR * SECONDS or cost[1] > NEAR * MEGABYTES]
        again = pool.map(lambda cell: child(cell[1], tmp_path, cell[0])[cell[0]], near)
        cells |= dict(zip(near, again, strict=True))
    print(f"\n{'seconds, MB (* in a process of its own)':40}" + "".join(f"{way:>18}" for way in WAYS))
    for name in made:
        row = [(*cells[name, way][:2], "*" if (name, way) in near else " ") for way in WAYS]
        print(f"{name:40}" + "".join(f"{seconds:9.2f} {taken:7.0f}{star}" for seconds, taken, star in row))
    assert not {cell: cost for cell, cost in cells.items() if cost[0] > SECONDS or cost[1] > MEGABYTES}
    for name in made:
        told = {cells[name, way][2] for way in WAYS}
        assert ("decoded" in told) == (name in DEAREST), (name, told)


def child(*arguments):
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(tried(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])))
