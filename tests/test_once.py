"""The check before training and the cache of resized images, in one pass over the files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kerazoo.errors import DataError
from kerazoo.exports.synthetic import encoded_images
from kerazoo.pipelines.checks import once, scan
from kerazoo.pipelines.checks.check import check_images
from kerazoo.pipelines.checks.inspection import inspect_file
from kerazoo.pipelines.checks.once import check_and_prepare
from kerazoo.pipelines.data.load import load_examples
from kerazoo.pipelines.input.images import cache_path, prepared
from kerazoo.preprocessing.preprocessing import Preprocessing
from kerazoo.recipes.parts import DataPart

SIZE = Preprocessing(24, 20)
TWICE = {"train": 2, "val": 2}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def examples(tmp_path):
    """Images of every format and shape, turned, with alpha, and one over the limit for large ones."""
    for label in ("a", "b"):
        for split in ("train", "val"):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for number, (name, contents) in enumerate(encoded_images().items()):
                ending = name.split()[1].lower()
                (folder / f"{number}.{ending}").write_bytes(contents)
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    Image.fromarray(noise).resize((5200, 4900)).save(tmp_path / "data/train/a/large.jpg", quality=60)
    return load_examples(DataPart(path=str(tmp_path / "data")))


SLOW = pytest.mark.slow  # as the case beside it


@pytest.mark.parametrize("how", ["crop", pytest.param("pad", marks=SLOW), pytest.param("stretch", marks=SLOW)])
def test_the_kept_images_are_those_that_decoding_gives(examples, how):
    size = replace(SIZE, resize=how)
    opened = check_and_prepare(examples, size, cache="always", passes=TWICE)
    assert set(opened) == {"train", "val"}
    for split, images in opened.items():
        paths = examples.split(split).paths
        expected = [size.read(Path(path).read_bytes()).numpy() for path in paths]
        np.testing.assert_array_equal(images, expected)


def test_what_is_decoded_together_is_inspected_as_alone(examples, monkeypatch):
    """Also a large image, which is decoded alone, what comes after a bad one, and a file that is no plain one."""
    alone = []

    def noted(path, then=None):
        alone.append(Path(path).name)
        return inspect_file(path, then)

    monkeypatch.setattr(scan, "inspect_file", noted)
    monkeypatch.setattr(scan, "A_BLOCK", 2)
    monkeypatch.setattr(scan, "AT_ONCE", 4)
    folder = Path(examples.split("train").paths[0]).parent
    (folder / "3a.png").write_bytes(b"no image")
    paths = sorted(str(path) for path in folder.iterdir())
    bad, large = str(folder / "3a.png"), [str(folder / "large.jpg")]
    for some, plain in ((paths, True), ([path for path in paths if path != bad], True), ([*paths, str(folder)], False)):
        found = []
        blocks = list(scan.inspect_and_resize(some, SIZE, found))
        assert found == [inspect_file(path) for path in some]
        assert alone == [Path(path).name for path in (some[some.index(bad) :] if bad in some else large)] or not plain
        alone.clear()
        good = next((number for number, row in enumerate(found) if row.bad), len(found) + 1)
        assert sum(map(len, blocks)) == min(good // 2 * 2, len(found))
        with scan.Inspections() as known:
            assert known.find(some) == [row if row.sha256 else None for row in found]


def test_each_file_is_decoded_once(examples, monkeypatch):
    """Neither the cache nor the check that follows decodes again."""
    check_and_prepare(examples, SIZE, cache="auto", passes=TWICE)

    def again(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(scan, "inspect_file", again)
    monkeypatch.setattr("kerazoo.pipelines.input.images._fitted", again)
    check_images(examples)
    assert check_and_prepare(examples, SIZE, cache="auto", passes=TWICE)["train"] is not None
    assert prepared(examples.split("val"), SIZE, cache="auto", passes=2) is not None


def test_bad_images_of_all_splits_are_named_and_none_are_kept(examples):
    """The first 64 of a split are given before a bad one is seen."""
    folder = Path(examples.split("train").paths[0]).parent
    for number in range(70):
        Image.new("RGB", (30, 30), (number, 0, 0)).save(f"{folder}/more{number:02}.png")
    bad, other = f"{folder}/zz.png", examples.split("val").paths[0]
    for path in (bad, other):
        Path(path).write_bytes(b"no image")
    data = load_examples(DataPart(path=examples.source))
    with pytest.raises(DataError, match="2 images cannot be decoded") as error:
        check_and_prepare(data, SIZE, cache="always", passes=TWICE)
    assert bad in str(error.value)
    assert other in str(error.value)
    for split in ("train", "val"):
        assert not cache_path(data.split(split), SIZE).exists()
    assert not list(cache_path(data, SIZE).parent.glob("*.tmp"))


def test_without_a_cache_and_for_gray_the_check_is_made_all_the_same(examples):
    for size, cache in ((SIZE, "never"), (replace(SIZE, channels=1), "always")):
        opened = check_and_prepare(examples, size, cache=cache, passes=TWICE)
        assert not any(images is not None for images in opened.values())
    path = examples.paths[0]
    Path(path).write_bytes(b"no image at all")
    data = load_examples(DataPart(path=examples.source))
    for size, cache in ((SIZE, "never"), (replace(SIZE, channels=1), "always")):
        with pytest.raises(DataError, match="1 image cannot be decoded"):
            check_and_prepare(data, size, cache=cache, passes=TWICE)


def test_an_image_that_changed_after_its_hash_is_not_kept(examples):
    paths = examples.split("train").paths
    examples = replace(examples, known_hashes=examples.hashes)
    Path(paths[3]).write_bytes(next(iter(encoded_images().values())) + b"changed")
    with pytest.raises(DataError, match="has changed"):
        check_and_prepare(examples, SIZE, cache="always", passes=TWICE)
    assert not cache_path(examples.split("train"), SIZE).exists()


def test_arrays_need_no_check(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (60, 24, 20, 3), np.uint8)
    labels = np.arange(60) % 3
    np.savez(tmp_path / "x.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    examples = load_examples(DataPart(path=str(tmp_path / "x.npz")))
    assert once.check_and_prepare(examples, SIZE, cache="auto", passes=TWICE) == {}
