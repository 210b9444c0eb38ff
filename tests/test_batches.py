"""Batches: order and pixels depend on nothing but seed, epoch and position; caches change nothing and break nothing."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import change_in_silence, make_images
from PIL import Image

from kerazoo.caches import cache_folder
from kerazoo.errors import DataError, RecipeError
from kerazoo.exports.signatures import write_saved_model
from kerazoo.models.description import ModelSpec
from kerazoo.pipelines.data.examples import Examples
from kerazoo.pipelines.data.load import load_examples
from kerazoo.pipelines.input.augmentation import Augmentation
from kerazoo.pipelines.input.batches import evaluation_batches, training_batches
from kerazoo.pipelines.input.images import cache_path, prepared
from kerazoo.preprocessing.preprocessing import Preprocessing

STRONG = Augmentation(policy="strong")
SMALL = Preprocessing(16, 16)


def make_batches(examples, *, seed=0, batch_size=5, augmentation=STRONG, **options):
    return training_batches(examples, SMALL, batch_size=batch_size, seed=seed, augmentation=augmentation, **options)


def digest(dataset):
    """sha256 over the pixels and labels of all batches, in order."""
    found = hashlib.sha256()
    for parts in dataset.as_numpy_iterator():
        for part in parts:
            found.update(part.tobytes())
    return found.hexdigest()


def with_threads(dataset, threads):
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    return dataset.with_options(options)


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv("KERAZOO_CACHE", str(tmp_path / "caches"))


@pytest.fixture
def train(tmp_path):
    """The training split of 28 small images."""
    return load_examples(make_images(tmp_path / "many", count=14, size=20)).split("train")


def cache_of(examples):
    return prepared(examples, SMALL, cache="always", passes=1)


@pytest.mark.slow  # half a minute: each cache and number of threads
def test_an_epoch_is_the_same_whatever_makes_it(train):
    """Threads, a cache, another process's cache: the bits are those of (seed, epoch), with the strongest policy."""
    batches = make_batches(train)
    batches.epoch.assign(3)
    first = digest(batches.dataset)
    assert digest(batches.dataset) == first  # twice in a row
    assert batches.steps == int(batches.dataset.cardinality()) == len(train) // 5
    for threads in (1, 8):
        assert digest(with_threads(batches.dataset, threads)) == first
    cached = make_batches(train, stored=cache_of(train))
    cached.epoch.assign(3)
    for threads in (1, 8):
        assert digest(with_threads(cached.dataset, threads)) == first
    assert digest(batches.at(3, 0)) == first
    others = {digest(batches.at(4, 0)), digest(make_batches(train, seed=1).at(3, 0))}
    assert len(others | {first}) == 3


@pytest.mark.parametrize("policy", ["none", pytest.param("strong", marks=pytest.mark.slow)])
def test_any_step_of_any_epoch_is_reached_without_the_ones_before(train, policy):
    batches = make_batches(train, augmentation=Augmentation(policy=policy))
    whole = list(batches.at(3, 0).as_numpy_iterator())
    for step in (1, batches.steps - 1):
        tail = batches.at(3, step)
        assert int(tail.cardinality()) == batches.steps - step
        for found, expected in zip(tail.as_numpy_iterator(), whole[step:], strict=True):
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_array_equal(one, other)
    # the variables that training turns do the same
    batches.epoch.assign(3)
    batches.start.assign(5)
    rows = batches.dataset.as_numpy_iterator()
    for expected in whole[5:]:
        np.testing.assert_array_equal(next(rows)[0], expected[0])


def test_the_order_of_an_epoch_is_that_of_its_batches(train):
    batches = training_batches(train, Preprocessing(16, 16, 3), batch_size=5, seed=3, augmentation=Augmentation())
    for epoch in (0, 1):
        labels = np.concatenate([batch[1] for batch in batches.at(epoch, 0).as_numpy_iterator()])
        np.testing.assert_array_equal(train.labels[batches.order(epoch)], labels)
        assert len(batches.order(epoch)) == batches.steps * 5


def test_reaching_a_step_reads_nothing_before_it(tmp_path):
    """Constant time: the files of earlier steps may be gone."""
    train = load_examples(make_images(tmp_path / "many", count=40, size=20)).split("train")
    plain = make_batches(train, augmentation=Augmentation())
    last = plain.steps - 1
    expected = next(plain.at(0, last).as_numpy_iterator())[0]
    order = tf.random.experimental.index_shuffle(
        tf.range(last * 5, len(train), dtype=tf.int64), [0, 0], tf.constant(len(train) - 1, tf.int64)
    )
    needed = {train.paths[i] for i in order.numpy()}
    for path in train.paths:
        if path not in needed:
            Path(path).unlink()
    np.testing.assert_array_equal(next(plain.at(0, last).as_numpy_iterator())[0], expected)


def test_the_last_partial_batch_is_kept_by_choice(train):
    kept = make_batches(train, drop_last=False, batch_size=7)
    sizes = [len(y) for _, y in kept.dataset.as_numpy_iterator()]
    assert sizes == [7] * (len(train) // 7) + [len(train) % 7]
    assert kept.steps == len(sizes)


def test_what_travels_with_the_batches(train):
    batches = make_batches(train)
    assert batches.class_names == ("circle", "square")
    assert batches.counts == train.counts("train")
    assert batches.manifest is None


# -- balance ------------------------------------------------------------------------------------------------------


@pytest.fixture
def uneven(tmp_path):
    """40 images of class 0, 8 of class 1, 3 of class 2; each image's pixels are its number."""
    x = np.arange(51, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    y = np.repeat([0, 1, 2], [40, 8, 3])
    np.savez(tmp_path / "uneven.npz", x_train=x, y_train=y, x_val=x[[0, 45, 50]], y_val=[0, 1, 2])
    return load_examples(tmp_path / "uneven.npz").split("train")


def numbers(dataset):
    return np.concatenate([row[0][:, 0, 0, 0] for row in dataset.as_numpy_iterator()]).astype(int)


def test_balanced_sampling_goes_through_each_class_in_turn(uneven):
    plain = Preprocessing(2, 2, channels=1, scaling="none")
    batches = training_batches(
        uneven, plain, batch_size=17, seed=0, augmentation=Augmentation(), balance="sampling", drop_last=False
    )
    epochs = [numbers(batches.at(epoch, 0)) for epoch in range(5)]
    for drawn in epochs:
        assert len(drawn) == 51
        assert np.bincount(uneven.labels[drawn]).tolist() == [17, 17, 17]
        seen = np.bincount(drawn, minlength=51)
        assert seen[:40].max() <= 2  # 17 of 40: an epoch may hold the end of one round and the start of the next
        assert set(seen[40:48].tolist()) <= {1, 2, 3}
        assert set(seen[48:].tolist()) <= {5, 6, 7}
    total = np.bincount(np.concatenate(epochs), minlength=51)
    assert set(total[:40].tolist()) <= {2, 3}  # 85 draws of 40
    assert not np.array_equal(epochs[0], epochs[1])
    np.testing.assert_array_equal(numbers(batches.at(2, 1)), epochs[2][17:])


def test_class_weights(uneven):
    plain = Preprocessing(2, 2, channels=1, scaling="none")
    batches = training_batches(uneven, plain, batch_size=51, seed=0, augmentation=Augmentation(), balance="weights")
    _, labels, weights = next(batches.dataset.as_numpy_iterator())
    for label, size in enumerate((40, 8, 3)):
        np.testing.assert_allclose(weights[labels == label], 51 / (3 * size), rtol=1e-6)
    assert weights.mean() == pytest.approx(1)


def test_only_classes_are_balanced(tmp_path):
    x = np.zeros((8, 2, 2), np.uint8)
    np.savez(tmp_path / "n.npz", x_train=x, y_train=np.arange(8) / 2, x_val=x, y_val=np.arange(8) / 2)
    train = load_examples(tmp_path / "n.npz").split("train")
    with pytest.raises(RecipeError, match="training.balance='weights' applies only to one class per image, but th"):
        make_batches(train, balance="weights")


# -- caches -------------------------------------------------------------------------------------------------------


def test_a_cache_holds_the_fitted_pixels_and_is_announced(train, said):
    said.clear()
    stored = cache_of(train)
    size = f"{len(train) * 768 / 1000:.1f} kB"
    assert said == [f"writing {len(train)} prepared images to {cache_path(train, SMALL)} ({size})"]
    for index in (0, 7, len(train) - 1):
        pixels = SMALL.resize_pixels(SMALL.decode(tf.io.read_file(train.paths[index])))
        np.testing.assert_array_equal(stored[index], pixels)
    assert cache_of(train).filename == stored.filename
    assert len(said) == 1  # it was there


def test_a_cache_is_named_by_content_and_by_fitting(train):
    path = cache_path(train, SMALL)
    assert cache_path(train, Preprocessing(16, 16, scaling="tf")) == path
    assert (
        len({path, cache_path(train, Preprocessing(16, 17)), cache_path(train, Preprocessing(16, 16, resize="pad"))})
        == 3
    )
    assert cache_path(train.take(range(len(train) - 1)), SMALL) != path


def test_a_cache_that_was_cut_short_is_written_anew(train):
    path = cache_path(train, SMALL)
    whole = np.array(cache_of(train))
    path.write_bytes(path.read_bytes()[:-100])
    np.testing.assert_array_equal(cache_of(train), whole)


@pytest.mark.parametrize("where", [200, -3], ids=["pixels", "checksums"])
def test_a_cache_with_other_bytes_is_written_anew(train, where, said):
    """Zeroed bytes were trained on."""
    path = cache_path(train, SMALL)
    whole = np.array(cache_of(train))
    contents = bytearray(path.read_bytes())
    contents[where] ^= 64
    path.write_bytes(contents)
    said.clear()
    np.testing.assert_array_equal(cache_of(train), whole)
    assert said[0] == f"{path} is damaged or has an older format; writing it again"


def test_an_image_changed_under_its_size_and_time_is_not_kept_under_its_old_hash(train):
    """A manifest takes a file for the one it hashed by its size and time."""
    known = replace(train, known_hashes=train.hashes)
    change_in_silence(Path(train.paths[1]))
    with pytest.raises(DataError, match=f"{train.keys[1]} in .* has changed since its hash was computed"):
        cache_of(known)
    assert not cache_path(known, SMALL).exists()


def test_when_a_cache_is_made_unasked(train, tmp_path):
    assert prepared(train, SMALL, cache="never", passes=9) is None
    assert prepared(train, SMALL, cache="auto", passes=1) is None
    assert prepared(train, SMALL, cache="auto", passes=2) is not None


WRITER = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
from kerazoo.startup import start_tensorflow
start_tensorflow()
import resource, signal
from kerazoo.errors import KerazooError
from kerazoo.preprocessing.preprocessing import Preprocessing
from kerazoo.models.description import ModelSpec
from kerazoo.pipelines.data.load import load_examples
from kerazoo.pipelines.input.images import prepared
if len(sys.argv) > 2:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
train = load_examples(sys.argv[1]).split("train")
try:
    stored = prepared(train, Preprocessing(64, 64), cache="always", passes=1)
    print(stored.shape, stored.astype(int).sum())
except KerazooError as error:
    print("error:", error)
"""


def write_in_a_process(folder, *arguments):
    return subprocess.Popen([sys.executable, "-c", WRITER, folder, *arguments], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow  # two processes
def test_two_processes_may_write_one_cache_at_once(tmp_path):
    root = make_images(tmp_path / "many", count=100, size=20)
    before = set(cache_folder("images").iterdir())
    both = [write_in_a_process(root) for _ in range(2)]
    answers = {process.communicate(timeout=120)[0].splitlines()[-1] for process in both}
    assert len(answers) == 1
    (made,) = set(cache_folder("images").iterdir()) - before
    assert made.suffix == ".npy"


@pytest.mark.slow  # processes of their own; test_full_disk.py fills a disk, too
def test_a_disk_that_fills_up_is_one_clear_line_and_nothing_is_left(tmp_path):
    """A limit on the size of files stands in for the disk: the write fails in the middle, as on a full one."""
    root = make_images(tmp_path / "many", count=100, size=20)
    before = set(cache_folder("images").iterdir())
    process = write_in_a_process(root, "1000000")
    said = process.communicate(timeout=120)[0].splitlines()
    assert process.returncode == 0
    assert "2.2 MB)" in said[0]
    assert "cannot be written: File too large; free some disk space, set KERAZOO_CACHE" in said[-1]
    assert set(cache_folder("images").iterdir()) == before


def test_a_cache_that_cannot_fit_is_refused_before_it_is_begun(train, monkeypatch):
    import collections
    import shutil

    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10_000, 0, 10_000))
    with pytest.raises(DataError, match=r"the prepared images need [\d.]+ kB, but .* has only 10.0 kB free; free"):
        cache_of(train)
    assert prepared(train, SMALL, cache="auto", passes=2) is None
    assert not cache_path(train, SMALL).exists()


# -- what a batch holds -------------------------------------------------------------------------------------------


def test_each_example_comes_once_an_epoch(tmp_path):
    x = np.arange(23, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=np.arange(23) % 2, x_val=x[:1], y_val=[0])
    examples = load_examples(tmp_path / "a.npz")
    plain = Preprocessing(2, 2, channels=1, scaling="none")
    batches = training_batches(examples.split("train"), plain, batch_size=5, seed=0, augmentation=Augmentation())
    orders = set()
    for number in range(3):
        batches.epoch.assign(number)
        seen = np.concatenate([x[:, 0, 0, 0] for x, _ in batches.dataset.as_numpy_iterator()])
        assert len(seen) == 20  # the last three make no whole batch
        assert len(set(seen.tolist())) == 20
        orders.add(tuple(seen.tolist()))
    assert len(orders) == 3
    small = training_batches(examples.split("train"), plain, batch_size=50, seed=0, augmentation=Augmentation())
    assert [len(y) for _, y in small.dataset.as_numpy_iterator()] == [23]
    rows = list(evaluation_batches(examples.split("train"), plain, batch_size=10).as_numpy_iterator())
    np.testing.assert_array_equal(np.concatenate([x[:, 0, 0, 0] for x, _ in rows]), np.arange(23))


def test_augmentation_differs_by_position_and_epoch(tmp_path):
    """The same image at every position: what differs is augmentation alone."""
    x = np.random.default_rng(0).integers(0, 256, (1, 9, 9)).astype(np.uint8).repeat(12, axis=0)
    np.savez(tmp_path / "same.npz", x_train=x, y_train=np.arange(12) % 2, x_val=x[:2], y_val=[0, 1])
    train = load_examples(tmp_path / "same.npz").split("train")
    batches = training_batches(
        train, Preprocessing(9, 9, channels=1), batch_size=12, seed=0, augmentation=Augmentation(shift=0.4)
    )
    epochs = []
    for number in range(2):
        batches.epoch.assign(number)
        epochs.append(next(batches.dataset.as_numpy_iterator())[0])
    for images in epochs:
        assert len({p.tobytes() for p in images}) > 6
    assert sum(not np.array_equal(a, b) for a, b in zip(*epochs, strict=True)) > 6


def test_shifts_move_whole_pixels():
    image = np.random.default_rng(0).integers(1, 256, (28, 28, 1)).astype(np.uint8)
    shift = Augmentation(shift=0.07)
    found = set()
    for seed in range(200):
        moved = shift(tf.constant(image), tf.constant([seed, 0])).numpy()
        where = [
            (dy, dx)
            for dy in range(-2, 3)
            for dx in range(-2, 3)
            if np.array_equal(moved[2:-2, 2:-2], image[2 + dy : 26 + dy, 2 + dx : 26 + dx])
        ]
        assert len(where) == 1
        found.add(where[0])
    assert len(found) == 25


def test_alternate_mirroring_shows_both_sides_in_any_two_epochs():
    """Half of the images are mirrored in the first epoch, and each is mirrored in every other epoch."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 4, 5, 1)).astype(np.uint8)
    examples = Examples("x", ("a",) * 40, np.arange(40) % 2, np.array(["train"] * 40), ("one", "two"), pixels=pixels)
    augmentation = Augmentation(flip=True, flip_alternately=True)
    batches = training_batches(
        examples, Preprocessing(4, 5, channels=1), batch_size=8, seed=3, augmentation=augmentation
    )
    seen = []
    for epoch in range(4):
        images = np.concatenate([x for x, _ in batches.at(epoch, 0).as_numpy_iterator()])
        original = pixels[batches.order(epoch)] / np.float32(255)
        plain = [np.allclose(a, b) for a, b in zip(images, original, strict=True)]
        turned = [np.allclose(a, b[:, ::-1]) for a, b in zip(images, original, strict=True)]
        assert all(a != b for a, b in zip(plain, turned, strict=True))
        seen.append(np.array(turned)[np.argsort(batches.order(epoch))])
    np.testing.assert_array_equal(seen[0], ~seen[1])
    np.testing.assert_array_equal(seen[0], seen[2])
    np.testing.assert_array_equal(seen[1], seen[3])
    assert 10 <= seen[0].sum() <= 30


def test_augmentation_parts():
    image = np.zeros((9, 9, 1), np.uint8)
    image[4, 6] = 255
    flips = {Augmentation(flip=True)(tf.constant(image), tf.constant([s, 0])).numpy().argmax() for s in range(20)}
    assert flips == {4 * 9 + 6, 4 * 9 + 2}
    image = np.zeros((21, 21, 1), np.uint8)
    image[9:12, 13:16] = 255  # near enough that its reflections stay out of the image
    turned = [Augmentation(rotate=90)(tf.constant(image), tf.constant([s, 0])).numpy()[..., 0] for s in range(60)]
    assert set(np.unique(turned)) == {0, 255}  # moved, never blended
    rows, columns = np.array([np.mean(np.nonzero(t), axis=1) for t in turned]).T
    np.testing.assert_allclose(np.hypot(rows - 10, columns - 10), 4, atol=0.7)  # it goes round the centre
    assert rows.min() < 7.5
    assert rows.max() > 12.5
    assert not Augmentation()
    assert Augmentation(zoom=0.1)


@pytest.mark.slow  # a training and an export each; test_pipeline.py has one
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_training_sees_what_the_export_sees(tmp_path, fit):
    """Prepared from a path in training = prepared from bytes in an exported graph, to the last bit."""
    kinds = [("JPEG", {"exif": orientation}) for orientation in range(1, 9)]
    kinds += [("PNG", {}), ("GIF", {}), ("BMP", {}), ("WEBP", {})]
    for number, (kind, options) in enumerate(kinds):
        rng = np.random.default_rng(number)
        size = (20, 26) if number % 2 else (70, 51)  # smaller and larger than what the network takes
        image = Image.fromarray(rng.integers(0, 256, (5, 6, 3)).astype(np.uint8)).resize(size)
        if "exif" in options:
            exif = Image.Exif()
            exif[0x0112] = options.pop("exif")
            options["exif"] = exif
        folder = tmp_path / "data" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{number}.{kind.lower()}", kind, **options)
    examples = load_examples(tmp_path / "data", hold_out=False)
    preprocessing = Preprocessing(40, 32, resize=fit, scaling="torch")
    inputs = keras.Input(preprocessing.shape)
    network = keras.Model(inputs, keras.layers.Flatten()(inputs))
    names = tuple(map(str, range(40 * 32 * 3)))
    spec = ModelSpec("mlp", {}, preprocessing, names, "regression")  # its answers are the pixels it is given
    write_saved_model(tmp_path / "export", spec, network)
    served = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"]
    contents = tf.constant([Path(path).read_bytes() for path in examples.paths])
    answers = served(image_bytes=contents)["values"].numpy()
    batches = training_batches(examples, preprocessing, batch_size=12, seed=0, augmentation=Augmentation())
    pixels = next(batches.dataset.as_numpy_iterator())[0]
    order = tf.random.experimental.index_shuffle(tf.range(12, dtype=tf.int64), [0, 0], tf.constant(11, tf.int64))
    np.testing.assert_array_equal(pixels.reshape(12, -1), answers[order.numpy()])
