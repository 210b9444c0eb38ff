"""Other formats: their preprocessing is the zoo's, their answers are the run's, and what differs is refused."""

import io
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import tensorflow as tf
from conftest import make_images
from PIL import Image, PngImagePlugin
from test_full_disk import mounted

import kerazoo
from kerazoo.errors import GateError, InputError, KerazooError, RunError
from kerazoo.exports.export import export_run, verify_export
from kerazoo.exports.formats import onnx_files, portable, reference, write
from kerazoo.exports.formats.answering import FormatModel
from kerazoo.exports.formats.onnx_files import to_onnx
from kerazoo.exports.formats.rounding import effect_of_rounding
from kerazoo.exports.formats.table import FORMATS, REFERENCE, SETTINGS, find_formats
from kerazoo.exports.hashes import file_hashes
from kerazoo.exports.layout import PASSPORT
from kerazoo.exports.questions import Question
from kerazoo.exports.synthetic import encoded_images
from kerazoo.files import read_json, write_json
from kerazoo.models.description import ModelSpec
from kerazoo.models.saved import load_model
from kerazoo.preprocessing.preprocessing import INTERPOLATIONS, RESIZES, Preprocessing
from kerazoo.recipes.recipe import make_recipe
from kerazoo.training.train import train

CHEAP = ("onnx", "litert")
SIZES = ((61, 90), (90, 61), (17, 200), (20, 7), (32, 24), (7, 7), (300, 301))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"), count=16, size=40)


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    values = {
        "model": {"name": "bottleneck_cnn"},
        "data": {"path": str(images), "size": 24, "channels": 3, "validation": 0.25},
        "training": {"epochs": 3, "batch_size": 4}, "optimizer": {"learning_rate": 0.003},
    }  # fmt: skip
    return train(make_recipe(values), name="shapes", root=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def export(run, tmp_path_factory):
    return export_run(run, formats=CHEAP, root=tmp_path_factory.mktemp("saved_models"))


def random_pixels(rows, columns, channels):
    rng = np.random.default_rng(rows * columns)
    smooth = np.add.outer(np.arange(rows) * 2, np.arange(columns) * 3)[..., None] % 256
    return (0.6 * smooth + rng.integers(0, 100, (rows, columns, channels))).astype(np.uint8)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("resize", RESIZES)
def test_both_ways_to_resize_are_the_zoo_s(resize, interpolation):
    """By matrices in the graph and in numpy; a rounding to the other whole number is allowed in one pixel of 200."""
    preprocessing = Preprocessing(32, 24, 3, resize=resize, interpolation=interpolation)
    settings = portable.settings_of(preprocessing)
    for rows, columns in SIZES:
        pixels = random_pixels(rows, columns, 3)
        expected = preprocessing.resize_pixels(pixels).numpy().astype(int)
        for name, found in (
            ("numpy", reference.fit(pixels, settings)),
            ("graph", portable.fitted(pixels[None], preprocessing)[0].numpy()),
        ):
            difference = np.abs(found.astype(int) - expected)
            assert difference.max() <= 1, (name, rows, columns, difference.max())
            assert (difference > 0).mean() < 0.005, (name, rows, columns)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_all_kinds_are_decoded_as_the_zoo_decodes_them(channels):
    preprocessing = Preprocessing(8, 8, channels)
    settings = portable.settings_of(preprocessing)
    deep = io.BytesIO()
    Image.fromarray(random_pixels(30, 20, 1)[..., 0].astype(np.uint16) * 251).save(deep, "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned: of a JPEG only, as the zoo has it
    others = {"16 bits": deep.getvalue()}
    for kind in ("PNG", "WEBP"):
        turned = io.BytesIO()
        Image.fromarray(random_pixels(20, 10, 3)).save(turned, kind, exif=exif.tobytes(), lossless=True)
        others[f"{kind} with an orientation"] = turned.getvalue()
    for name, content in {**encoded_images(), **others}.items():
        found = reference.decode(content, settings)
        np.testing.assert_array_equal(found, preprocessing.decode(content).numpy(), err_msg=name)


@pytest.mark.parametrize("scaling", ["none", "unit", "tf", "torch", "caffe"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_scaled_as_the_zoo_scales_them(scaling, channels):
    preprocessing = Preprocessing(8, 8, channels, scaling=scaling)
    pixels = random_pixels(8, 8, channels)
    found = reference.scale(pixels, portable.settings_of(preprocessing))
    np.testing.assert_array_equal(found, preprocessing.scale(pixels).numpy())


def test_each_format_answers_as_the_run_did(run, export, images):
    recorded = np.load(run.folder / "evaluation" / "val.npy")
    # or no format could be told from another
    assert recorded.std(axis=0).min() > 0.01
    passport = read_json(export / PASSPORT)
    rows = {row["name"]: row for row in passport["formats"]}
    assert list(rows) == ["saved_model", *CHEAP]
    for row in rows.values():
        assert row["images"] == len(recorded)
        assert row["agreement"] == 1
        assert row["largest_difference"] < FORMATS["onnx"].tolerance
        assert row["metric"] == "accuracy"
        assert row["quality"] == passport["metrics"]["val_accuracy"]
        assert all(value > 0 for value in (row["bytes"], row["memory"], *row["milliseconds"]))
    assert kerazoo.open_export(export).formats[1].name == "onnx"
    assert rows["onnx"]["memory"] < rows["saved_model"]["memory"] / 2  # its process has no TensorFlow
    assert {"onnx/model.onnx", "onnx/weights.bin", "litert/model.tflite", REFERENCE, SETTINGS} <= set(passport["files"])
    files = sorted(images.rglob("*.png"))[:4]
    expected = kerazoo.open_export(export).probabilities(files)
    for name in CHEAP:
        model = FormatModel(export, FORMATS[name])
        found = np.stack([model.answer(path.read_bytes()) for path in files])
        np.testing.assert_allclose(found, expected, atol=0.002)


def test_all_onnx_files_agree_and_share_their_weights(export, images):
    import onnxruntime

    pixels = np.asarray(Image.open(next(images.rglob("*.png"))).convert("RGB"))[None]
    settings = reference.load(export / SETTINGS)
    prepared = reference.scale(reference.fit(pixels[0], settings), settings)[None]
    answers = []
    for name, given in (("model", pixels), ("images", pixels.astype(np.float32)), ("prepared", prepared)):
        session = onnxruntime.InferenceSession(str(export / f"onnx/{name}.onnx"))
        assert session.get_outputs()[0].name == "probabilities"
        answers.append(session.run(None, {session.get_inputs()[0].name: given})[0])
    np.testing.assert_allclose(answers[1], answers[0], atol=1e-6)
    np.testing.assert_allclose(answers[2], answers[0], atol=0.002)
    import onnx

    model = onnx.load(str(export / "onnx/model.onnx"), load_external_data=False)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == 18
    assert (export / "onnx/weights.bin").stat().st_size < 1.1 * (export / "variables").stat().st_size + 200_000


def test_a_format_needs_neither_tensorflow_nor_keras(export, images, tmp_path):
    code = """
import sys
sys.modules["tensorflow"] = sys.modules["keras"] = None
import kerazoo
found = list(kerazoo.predict(sys.argv[1], sys.argv[2], format=sys.argv[3]))
assert len(found) == 32, len(found)
print(sum(one.top[0][0] == one.path.parent.name for one in found))
"""
    for name in CHEAP:
        command = [sys.executable, "-c", code, str(export), str(images), name]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) == sum(
            one.top[0][0] == one.path.parent.name for one in kerazoo.predict(str(export), str(images))
        )


GUIDE = Path(__file__).parents[1] / "docs/guides/export.md"


def of_the_guide(words):
    """The program below `words` in the guide."""
    return GUIDE.read_text().split(words)[1].split("```python\n")[1].split("```")[0]


@pytest.mark.parametrize("words", ["ONNX Runtime:", "LiteRT, with", pytest.param("OpenVINO:", marks=pytest.mark.slow)])
def test_the_programs_of_the_guide_need_no_tensorflow(run, export, images, tmp_path, words):
    """OpenVINO's is slow: it is a package of its own, and an export."""
    place = export
    if words == "OpenVINO:":
        pytest.importorskip("openvino")
        place = export_run(run, formats=["openvino"], root=tmp_path / "saved_models")
    file = sorted(images.rglob("*.png"))[0]
    blocked = "import sys\nfor name in ('tensorflow', 'keras', 'kerazoo'):\n    sys.modules[name] = None\n"
    first = of_the_guide("ONNX Runtime:")
    if words == "OpenVINO:":
        first = first.split("session =")[0].replace("import onnxruntime\n", "")
    code = blocked + first + (of_the_guide(words) if words != "ONNX Runtime:" else "") + "print(probabilities.shape)"
    code = code.replace("saved_models/flowers/1", str(place)).replace("rose.jpg", str(file))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split()
    if words == "ONNX Runtime:":
        (expected,) = kerazoo.predict(str(export), [file])
        assert lines[0] == expected.top[0][0]
    assert done.stdout.strip().endswith("(1, 2)")


def test_a_bad_file_is_a_row(export, images, tmp_path):
    (tmp_path / "broken.png").write_bytes(next(images.rglob("*.png")).read_bytes()[:60])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no image")
    Image.new("L", (9000, 9000)).save(tmp_path / "zeros.png")  # 81 megapixels, of 79 kB
    Image.new("RGB", (8, 8)).save(tmp_path / "zzz.tif")
    texts = PngImagePlugin.PngInfo()
    texts.add_text("long", "x" * 2_000_000, zip=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "zzzz.png", pnginfo=texts)
    found = list(kerazoo.predict(str(export), [*sorted(tmp_path.iterdir()), *images.rglob("0*.png")], format="onnx"))
    assert [bool(one.error) for one in found] == [True] * 6 + [False] * (len(found) - 6)
    assert found[1].error == "it is empty"
    assert found[2].error.startswith("not decoded: cannot identify image file")
    assert found[3].error == "not decoded: its header announces 9000 x 9000 pixels; it may have 35,000,000"
    assert found[4].error.startswith("not decoded: cannot identify image file")
    assert found[5].error.startswith("not decoded: Decompressed data too large")


def test_a_large_image_is_resized_before_the_model(export):
    buffer = io.BytesIO()
    Image.fromarray(random_pixels(2000, 2100, 3)).save(buffer, "PNG", compress_level=1)
    model = FormatModel(export, FORMATS["onnx"])
    assert model.pixels(buffer.getvalue()).shape == (24, 24, 3)
    expected = kerazoo.open_export(export).probabilities(buffer.getvalue())[0]
    np.testing.assert_allclose(model.answer(buffer.getvalue()), expected, atol=0.005)


def test_constants_of_a_network_are_part_of_its_onnx_file():
    """EfficientNet's normalization has them; tf2onnx makes inputs of what is no variable."""
    import keras
    import onnxruntime

    layers = [
        keras.Input((8, 8, 3)),
        keras.layers.Normalization(mean=[100.0, 120.0, 90.0], variance=[400.0, 900.0, 100.0]),
        keras.layers.Flatten(),
        keras.layers.Dense(2),
    ]
    model = keras.Sequential(layers)
    spec = ModelSpec("any", {}, Preprocessing(8, 8, scaling="none"), ("a", "b"))
    session = onnxruntime.InferenceSession(to_onnx(spec, model, "fitted").SerializeToString())
    assert [one.name for one in session.get_inputs()] == ["pixels"]
    pixels = random_pixels(8, 8, 3)[None]
    expected = spec.answers(model(pixels.astype(np.float32)))
    np.testing.assert_allclose(session.run(None, {"pixels": pixels})[0], expected, atol=1e-5)


def other_pixels(change):
    """A `portable` whose networks get other pixels."""
    scale = Preprocessing.scale

    def write_it(folder, one, spec, model, train):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Preprocessing, "scale", lambda self, image: change(scale(self, image)))
            return write.write_format(folder, one, spec, model, train)

    return write_it


def test_what_rounding_does_is_measured_and_more_than_rounding_is_refused(run, images, tmp_path, monkeypatch):
    spec, model = load_model(run.folder)
    files = [tmp_path / path.name for path in sorted(images.rglob("*.png"))[:3]]
    for path in files:  # of the network's own size, so that nothing else is rounded
        Image.open(images / "circle" / path.name).resize((24, 24)).save(path)
    prepared = np.stack([spec.preprocessing(path.read_bytes()).numpy() for path in files])
    expected = np.array(spec.answers(model(prepared, training=False)))
    asked = [Question([path.name for path in files], list(map(str, files)), expected)]
    fit = reference.fit

    def other_by(amount, rows, columns=1):
        """A `fit` whose first rows and columns of red are larger by `amount`."""

        def changed(pixels, settings):
            result = fit(pixels, settings).copy()
            result[:rows, :columns, 0] += np.uint8(amount)
            return result

        return changed

    monkeypatch.setattr(reference, "fit", other_by(1, 8))  # 8 of 1,728 values
    pixels = [spec.preprocessing.read(path.read_bytes()).numpy() for path in files]
    for image in pixels:
        image[:8, :1, 0] += 1
    changed = np.stack([spec.preprocessing.scale(image).numpy() for image in pixels])
    own = float(np.abs(np.asarray(spec.answers(model(changed, training=False))) - expected).max())
    found = effect_of_rounding(spec, model, asked)
    assert own > 1e-5
    assert found == pytest.approx(own, rel=1e-2)
    monkeypatch.setattr(reference, "fit", other_by(2, 1))
    with pytest.raises(
        GateError, match=rf"{files[0].name}: preprocessing/reference.py gives other pixels .* up to 2 of"
    ):
        effect_of_rounding(spec, model, asked)
    monkeypatch.setattr(reference, "fit", other_by(1, 24, 9))  # 216 of 1,728 values
    with pytest.raises(GateError, match=r"other pixels than the run's preprocessing, by up to 1 of 255 and in 12.50%"):
        effect_of_rounding(spec, model, asked)
    monkeypatch.setattr(reference, "fit", fit)
    asked[0].expected[0] += 0.3
    assert effect_of_rounding(spec, model, asked) == 0.025  # at most


@pytest.mark.slow  # an export each; test_gate.py and test_export_faults.py refuse exports, too
@pytest.mark.parametrize("name", CHEAP)
def test_other_answers_are_refused(run, tmp_path, monkeypatch, name):
    monkeypatch.setattr("kerazoo.exports.export.write_format", other_pixels(lambda x: x[..., ::-1]))
    words = rf"format {name} does not give the same answers as the .* images, .*; it was not kept"
    with pytest.raises(GateError, match=words):
        export_run(run, formats=[name], root=tmp_path / "new")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["onnx", pytest.param("litert", marks=pytest.mark.slow)])  # ten seconds
def test_a_network_that_a_converter_cannot_write_is_one_line(run, tmp_path, monkeypatch, name):
    """The operation is one that neither ONNX nor LiteRT has."""
    answers = ModelSpec.answers
    monkeypatch.setattr(
        ModelSpec, "answers", lambda self, x: answers(self, tf.linalg.expm(x[:, :, None] * x[:, None])[0])
    )
    spec, model = load_model(run.folder)
    with pytest.raises(GateError, match=f"format {name} cannot be written for this network: .*; leave the format out"):
        write.write_format(tmp_path, FORMATS[name], spec, model, None)


def test_a_changed_file_of_a_format_is_named(run, export, tmp_path):
    copy = shutil.copytree(export, tmp_path / "1")
    (copy / "preprocessing/__pycache__").mkdir(exist_ok=True)  # as whoever imports the reference from there leaves it
    content = bytearray((copy / "onnx/weights.bin").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "onnx/weights.bin").write_bytes(content)
    with pytest.raises(GateError, match=r"onnx/weights.bin is not the file that was exported; export the run again"):
        verify_export(copy, run)


def test_what_is_not_there_is_one_line(export, run, tmp_path, monkeypatch):
    opened = kerazoo.open_run(run.folder)
    with pytest.raises(InputError, match="format 'tflite' must be one of saved_model, onnx, onnx-int8, litert"):
        opened.export(formats="onnx,tflite")
    with pytest.raises(RunError, match="has no format 'openvino'; export the run with --format openvino"):
        kerazoo.predict(str(export), [__file__], format="openvino")
    four = shutil.copytree(export, tmp_path / "1")
    write_json(four / SETTINGS, {**read_json(four / SETTINGS), "channels": 4})
    with pytest.raises(
        RunError, match="onnx/model.onnx is for images with 4 channels, which encoded images cannot have"
    ):
        kerazoo.predict(str(four), [__file__], format="onnx")
    with pytest.raises(RunError, match="is not an export, so it has no format 'onnx'"):
        kerazoo.predict(str(run.folder), [__file__], format="onnx")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"format 'litert' needs ai_edge_litert, .*run pip install 'kerazoo\[litert\]'"
    ):
        find_formats(["litert"])


INTEGERS = ("onnx-int8", "litert-float16", "litert-dynamic", "litert-int8", "openvino", "openvino-int8")


@pytest.mark.slow  # six formats, some of which need packages of hundreds of MB
@pytest.mark.parametrize("name", INTEGERS)
def test_smaller_formats_lose_little(run, tmp_path, name):
    for package in FORMATS[name].packages:
        pytest.importorskip(package)
    folder = export_run(run, formats=["litert", name], root=tmp_path)
    _, whole, small = read_json(folder / PASSPORT)["formats"]
    assert small["quality"] >= whole["quality"] - 0.02
    assert small["bytes"] < whole["bytes"] or name.startswith(
        "openvino"
    )  # its graph alone is larger than these weights
    assert verify_export(folder, run).images == whole["images"]


def test_calibration_in_parts_sees_every_image(run, tmp_path, monkeypatch):
    """A network whose layers' outputs do not fit in memory for all images has the integers of one that does."""
    spec, model = load_model(run.folder)
    images = np.random.default_rng(0).integers(0, 60, (24, *spec.preprocessing.shape), np.uint8)
    images[20:] += 150  # the last ones are bright: without them, all scales are smaller
    scales = []
    for memory in (onnx_files.MEMORY, 1):
        monkeypatch.setattr(onnx_files, "MEMORY", memory)
        path = tmp_path / str(memory) / "model.onnx"
        path.parent.mkdir()
        onnx_files.quantize_onnx(path, spec, model, images)
        found = [one for one in onnx.load(path).graph.initializer if one.name.endswith("_scale") and not one.dims]
        scales.append([float(onnx.numpy_helper.to_array(one)) for one in found])
    assert len(scales[0]) > 3
    assert scales[1] == pytest.approx(scales[0], rel=0.03)


@pytest.mark.slow  # as above
def test_an_int8_that_loses_too_much_is_refused(run, tmp_path, monkeypatch):
    """Calibrated with black images, every activation is cut off."""
    monkeypatch.setattr(write, "calibration_images", lambda train, preprocessing: np.zeros((8, 24, 24, 3), np.uint8))
    with pytest.raises(GateError, match=r"format litert-int8: its accuracy on validation is .*; it may lose 0.071"):
        export_run(run, formats=["litert-int8"], root=tmp_path / "new")


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system is mounted")
@pytest.mark.parametrize("name", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])  # a package of its own
def test_a_full_disk_while_a_format_is_written_is_one_line_and_leaves_nothing(run, export, tmp_path, name):
    for package in FORMATS[name].packages:
        pytest.importorskip(package)
    others = [path for path in export.rglob("*") if path.is_file() and path.parent.name not in CHEAP]
    room = 32 + sum(-(-path.stat().st_size // 4096) * 4 for path in others)  # kB; there is none for the network
    with mounted(tmp_path / "disk", f"{room}k") as root:
        with pytest.raises(KerazooError, match="the export could not be written into .*No space left on device; not"):
            export_run(run, formats=[name], root=root)
        assert not list(root.iterdir())


@pytest.mark.slow  # twelve exports
def test_an_export_killed_at_any_moment_leaves_no_half_export(run, tmp_path):
    """And never touches a version that was there."""
    draw = random.Random(0)
    command = [sys.executable, "-m", "kerazoo", "export", run.folder, "--format", "onnx,litert"]
    begin = time.monotonic()
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    whole = time.monotonic() - begin
    folder = tmp_path / "saved_models" / "shapes"
    first = file_hashes(folder / "1")
    killed = 0
    for _ in range(12):
        process = subprocess.Popen([*command, "--new-version"], cwd=tmp_path, stdout=subprocess.DEVNULL)
        try:
            process.wait(draw.uniform(0.1, 0.98) * whole)
        except subprocess.TimeoutExpired:
            process.kill()
            killed += 1
        process.wait()
        for version in folder.iterdir():
            verify_export(version, run)
        assert {path.name for path in folder.parent.iterdir() if path.name[0] != "."} == {"shapes"}
    assert killed >= 6
    assert file_hashes(folder / "1") == first
    subprocess.run([*command, "--new-version"], cwd=tmp_path, check=True, capture_output=True)
    assert [path.name for path in folder.parent.iterdir()] == ["shapes"]  # what the killed ones left is removed
