"""Planted faults that the gate must refuse, each in an export that is otherwise the run's own."""

import io
import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kerazoo.errors import GateError
from kerazoo.exports import export as exports
from kerazoo.exports import signatures
from kerazoo.exports.export import export_run, verify_export
from kerazoo.exports.layout import OK, PASSPORT, WARM_UP
from kerazoo.exports.saved_model import ExportedModel
from kerazoo.exports.signatures import write_saved_model
from kerazoo.files import read_json
from kerazoo.models.saved import load_model
from kerazoo.preprocessing import decoding, resizing
from kerazoo.preprocessing.preprocessing import Preprocessing
from kerazoo.recipes.recipe import make_recipe
from kerazoo.training.train import train

SLOW = pytest.mark.slow  # each is an export that a fresh process answers from


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """JPEGs of two colors, with noise that a hasty decoder gets wrong; large enough to be reduced."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(32):
        warm = number % 2
        pixels = rng.integers(0, 240, (50, 60, 3)) + np.array([[9, 2, 0], [0, 2, 9]][warm])
        path = folder / ("warm" if warm else "cold") / f"{number:02}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path, quality=90)
    return folder


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    values = {
        "model": {"name": "resnet20", "arguments": {"momentum": 0.5}},
        "data": {"path": str(photos), "size": 32, "validation": 0.25},
        "training": {"epochs": 2, "batch_size": 8}, "optimizer": {"name": "adamw", "learning_rate": 0.001},
    }  # fmt: skip
    return train(make_recipe(values), name="photos", root=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def export(run, tmp_path_factory):
    return export_run(run, root=tmp_path_factory.mktemp("saved_models"))


class Around(keras.layers.Layer):
    """A network with something done to its input, or called in another way."""

    def __init__(self, network, before=lambda x: x, **options):
        super().__init__()
        self.network, self.before, self.options = network, before, options

    def call(self, x):
        return self.network(self.before(x), **self.options)


def around(model, **planted):
    image = keras.Input(model.input_shape[1:])
    return keras.Model(image, Around(model, **planted)(image))


class OtherPixels(Preprocessing):
    """Preprocessing whose pixels are something else in the end."""

    change = staticmethod(lambda image: image)

    def scale(self, image):
        return self.change(super().scale(image))


def other_pixels(change):
    kind = type("Planted", (OtherPixels,), {"change": staticmethod(change)})
    return lambda spec: replace(spec, preprocessing=kind(**spec.preprocessing.to_json()))


def flipped(image):
    return tf.image.random_flip_left_right(image)


def with_a_file(image):
    return image + 0 * tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), tf.float32)


def of_another_epoch(model):
    other = keras.models.clone_model(model)
    other.set_weights([array * np.float32(1.0001) for array in model.get_weights()])
    return other


SPECS = {  # what is planted into the spec, and the gate's words
    "augmentation": (other_pixels(flipped), "answers by chance: it has the operation .*Random"),
    "a file is read": (other_pixels(with_a_file), "touches files, code or the network: it has the operation ReadFile"),
    "another resize": (lambda spec: replace(spec, preprocessing=replace(spec.preprocessing, resize="pad")), "answers"),
    "BGR": (other_pixels(lambda image: image[..., ::-1]), "not give the same answers as the evaluated model"),
    "labels permuted": (
        lambda spec: replace(spec, class_names=spec.class_names[::-1]),
        "class names of the export are",
    ),
    "temperature": (lambda spec: replace(spec, temperature=1.5), "not give the same answers as the evaluated model"),
}
MODELS = {
    "a random op": (
        lambda model: around(model, before=lambda x: x + tf.random.normal(tf.shape(x))), "chance: .*RandomStandardN"
    ),
    "batch norm in training mode": (lambda model: around(model, training=True), "changes weights: .* AssignVar"),
    "weights of another epoch": (of_another_epoch, "the export's weight .* is not that of the evaluated model"),
}  # fmt: skip
FAST = ("weights of another epoch",)  # the files alone show it, as they show augmentation and random operations


def planted(monkeypatch, change_spec=lambda spec: spec, change_model=lambda model: model):
    def write(folder, spec, model):
        return write_saved_model(folder, change_spec(spec), change_model(model))

    monkeypatch.setattr(exports, "write_saved_model", write)


def refused(run, folder, words):
    with pytest.raises(GateError, match=words) as error:
        export_run(run, root=folder / "new")
    assert str(error.value).endswith("; it was not kept")
    assert not list(folder.iterdir())


@pytest.mark.parametrize("fault", [name if name in FAST else pytest.param(name, marks=SLOW) for name in SPECS])
def test_another_preprocessing_or_description_is_refused(run, tmp_path, monkeypatch, fault):
    change, words = SPECS[fault]
    planted(monkeypatch, change_spec=change)
    refused(run, tmp_path, words)


@pytest.mark.parametrize("fault", [name if name in FAST else pytest.param(name, marks=SLOW) for name in MODELS])
def test_another_network_is_refused(run, tmp_path, monkeypatch, fault):
    change, words = MODELS[fault]
    planted(monkeypatch, change_model=change)
    refused(run, tmp_path, words)


def hasty(contents):
    return tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_FAST")


@pytest.mark.slow  # as above
@pytest.mark.parametrize(("name", "function"), [("_jpeg", hasty), ("_turned_jpeg", decoding._jpeg)])
def test_hasty_decoding_and_images_that_are_not_turned_are_refused(run, tmp_path, monkeypatch, name, function):
    def write(folder, spec, model):
        with monkeypatch.context() as patch:
            patch.setattr(decoding, name, function)
            resizing._compiled_reading.cache_clear()
            try:
                return write_saved_model(folder, spec, model)
            finally:
                resizing._compiled_reading.cache_clear()

    monkeypatch.setattr(exports, "write_saved_model", write)
    refused(run, tmp_path, "not give the same answers as")


@pytest.mark.slow  # as above
def test_decode_errors_that_spill_over_are_refused(run, tmp_path, monkeypatch):
    def unguarded(preprocessing, contents):
        spec = tf.TensorSpec(preprocessing.shape, tf.float32)
        return tf.map_fn(preprocessing, contents, fn_output_signature=spec), tf.fill(tf.shape(contents), OK)

    monkeypatch.setattr(signatures, "guarded", unguarded)
    refused(run, tmp_path, "the export cannot be used in a fresh process: .*")


def test_files_that_were_changed_after_the_export_are_named(run, export, tmp_path):
    for name in ("variables/variables.data-00000-of-00001", "saved_model.pb"):
        copy = tmp_path / name.replace("/", "-") / "1"
        shutil.copytree(export, copy)
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)
        with pytest.raises(GateError, match=f"1: {name} is not the file that was exported; export the run again"):
            verify_export(copy, run)
    assert set(read_json(export / PASSPORT)["files"]) == {
        "saved_model.pb", "variables/variables.data-00000-of-00001", "variables/variables.index",
    }  # fmt: skip


def test_all_signatures_were_asked(run, export):
    gate = read_json(export / PASSPORT)["gate"]
    recorded = np.load(run.folder / "evaluation" / "val.npy")
    assert gate["images"] == len(recorded)
    # or the gate could not tell one image from another, or one temperature from another
    assert recorded.std(axis=0).min() > 0.01
    assert 0.001 < recorded.min() < recorded.max() < 0.999
    assert gate["synthetic"] == 12
    usual = {"serving_default", "serve_images", "serve_pixels", "serve_prepared"}
    assert set(gate["signatures"]) == {*usual, "features", "prepare", "classify"}
    assert set(ExportedModel(export).signatures) == set(gate["signatures"])


def example(content):
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))
    return tf.train.Example(features=tf.train.Features(feature={"image_bytes": feature})).SerializeToString()


def test_a_bad_image_is_a_row_and_its_neighbours_keep_their_bits(export, photos):
    model = ExportedModel(export)
    files = [path.read_bytes() for path in sorted(photos.rglob("*.jpg"))[:6]]
    large = io.BytesIO()
    Image.new("L", (9000, 9000)).save(large, "PNG")  # 81 megapixels, of 79 kB
    bad = {1: files[1][:-200], 3: b"no image", 5: large.getvalue()}
    whole = model.outputs(files)
    assert set(whole["status"]) == {b"ok"}
    mixed = model.outputs([bad.get(number, content) for number, content in enumerate(files)])
    for name, values in mixed.items():
        if name != "status":
            np.testing.assert_array_equal(values[::2], whole[name][::2])
    assert [status.decode().split(":")[0] for status in mixed["status"]] == ["ok", "not decoded"] * 3
    assert mixed["status"][1] != mixed["status"][3] == mixed["status"][5]
    assert np.isnan(mixed["probabilities"][1::2]).all()
    assert np.isnan(mixed["top_probabilities"][1::2]).all()
    assert set(mixed["label"][1::2]) == {b""}
    assert (mixed["class_names"] == [b"cold", b"warm"]).all()
    features = model.ask("features", [files[0], b"", files[2]])
    assert np.isfinite(features["features"][::2]).all()
    assert np.isnan(features["features"][1]).all()
    assert np.isfinite(model.ask("prepare", files)["prepared"]).all()
    with pytest.raises(tf.errors.InvalidArgumentError):  # it has no guard
        model.ask("prepare", [files[0], b""])
    classes = model.ask("classify", [example(one) for one in (files[0], b"", files[2])])
    assert classes["classes"].tolist() == [[b"cold", b"warm"], [b"", b""], [b"cold", b"warm"]]
    np.testing.assert_array_equal(classes["scores"], model.outputs([files[0], b"", files[2]])["probabilities"])
    pixels = np.full((2, 40, 40, 3), 100, np.float32)
    pixels[1, 3, 3] = np.inf
    assert model.image_outputs(pixels)["status"].tolist() == [
        b"ok",
        b"not answered: its pixels are not all finite numbers",
    ]


def test_the_signatures_give_the_same_answers(run, export, photos):
    spec, network = load_model(run.folder)
    model = ExportedModel(export)
    files = [path.read_bytes() for path in sorted(photos.rglob("*.jpg"))[:4]]
    pixels = np.stack([spec.preprocessing.decode(content).numpy() for content in files])
    prepared = np.stack([spec.preprocessing(content).numpy() for content in files])
    expected = spec.answers(network(prepared, training=False)).numpy()
    given = {"serving_default": files, "serve_images": pixels.astype(np.float32), "serve_pixels": pixels,
             "serve_prepared": prepared}  # fmt: skip
    for signature, images in given.items():
        np.testing.assert_allclose(model.ask(signature, images)["probabilities"], expected, atol=1e-5)


def test_warm_up_requests_are_what_tensorflow_serving_reads(export):
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    asked = []
    model = ExportedModel(export)
    for record in tf.data.TFRecordDataset(str(export / WARM_UP)).as_numpy_iterator():
        request = PredictionLog.FromString(record).predict_log.request
        assert request.model_spec.name == export.parent.name
        ((name, tensor),) = request.inputs.items()
        images = tf.make_ndarray(tensor)
        outputs = model.ask(request.model_spec.signature_name, images)
        assert list(outputs.get("status", [b"ok"] * len(images))) == [b"ok"] * len(images), name
        numbers = [values for values in outputs.values() if values.dtype == np.float32]
        assert all(np.isfinite(values).all() for values in numbers), name
        asked.append((request.model_spec.signature_name, len(images)))
    assert asked == [(name, count) for name in model.signatures for count in (1, 8)]
