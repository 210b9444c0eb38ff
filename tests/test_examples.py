"""Examples from folders and arrays: what is read, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from conftest import make_images
from PIL import Image

from kerazoo.errors import DataError
from kerazoo.pipelines.checks.check import check_images
from kerazoo.pipelines.data.load import check_source, load_examples
from kerazoo.recipes.recipe import data_part


def test_a_folder_without_parts_is_split_by_content(images):
    examples = load_examples(images, validation=0.25)
    assert examples.class_names == ("circle", "square")
    for name, held in examples.counts("val").items():
        assert 1 <= held <= 6
        assert examples.counts("train")[name] == 12 - held
    # the choice follows the images, not their names
    chosen = {examples.hashes[i] for i in np.flatnonzero(examples.splits == "val")}
    for path in sorted(images.rglob("*.png")):
        path.rename(path.with_name(f"renamed-{hash(path.name) % 97:02d}-{path.name}"))
    again = load_examples(images, validation=0.25)
    assert {again.hashes[i] for i in np.flatnonzero(again.splits == "val")} == chosen


def test_a_folder_with_its_own_parts(tmp_path):
    make_images(tmp_path / "train", count=5)
    make_images(tmp_path / "validation", count=2, seed=1)
    make_images(tmp_path / "test", count=3, seed=2)
    (tmp_path / "train" / "circle" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / "circle" / ".hidden.png").write_text("not seen")
    examples = load_examples(tmp_path)
    assert [sum(examples.splits == split) for split in ("train", "val", "test")] == [10, 4, 6]
    assert examples.left_out == {
        str(Path("train", "circle", "notes.txt")): "its name does not have the extension of an image"
    }
    assert len(examples.split("test")) == 6


def test_npz(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (40, 6, 5)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=np.arange(40) % 4, x_test=x[:8], y_test=np.arange(8) % 4)
    examples = load_examples(tmp_path / "a.npz")
    assert examples.pixels.shape == (48, 6, 5, 1)
    assert [sum(examples.splits == split) for split in ("train", "val", "test")] == [36, 4, 8]
    assert examples.keys[40] == "x_test[0]"
    assert examples.class_names == ("0", "1", "2", "3")


def test_the_digest_follows_content_labels_and_splits(images):
    first = load_examples(images).digest()
    assert load_examples(images).digest() == first
    assert load_examples(images, validation=0.5).digest() != first
    image = next(images.rglob("*.png"))
    image.write_bytes(image.read_bytes() + b" ")
    assert load_examples(images).digest() != first


def test_bad_folders_are_named(tmp_path, images):
    with pytest.raises(DataError, match="there is no folder or file .*nowhere"):
        load_examples(tmp_path / "nowhere")
    with pytest.raises(DataError, match=f"current folder .it would be {Path('nowhere').resolve()}.$"):
        check_source(data_part({"path": "nowhere"}))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="empty is empty; use one"):
        load_examples(empty)
    (empty / "only").mkdir()
    with pytest.raises(DataError, match="empty has no images"):
        load_examples(empty)
    one = make_images(tmp_path / "one", classes=("alone",))
    with pytest.raises(DataError, match="only one class .'alone'."):
        load_examples(one)
    (one / "vacant").mkdir()
    with pytest.raises(DataError, match="class 'vacant' in .* has no images"):
        load_examples(one)
    Image.new("RGB", (4, 4)).save(one / "vacant" / "single.png")
    with pytest.raises(DataError, match="class 'vacant' in .* has one image"):
        load_examples(one)
    make_images(tmp_path / "parts" / "train")
    make_images(tmp_path / "parts" / "val", classes=("circle", "triangle"))
    with pytest.raises(DataError, match="class 'triangle' is in .*val but not in .*train"):
        load_examples(tmp_path / "parts")
    (tmp_path / "parts" / "extra").mkdir()
    with pytest.raises(
        DataError,
        match="has train, val, which look like splits, but also extra; remove the folders that are not splits",
    ):
        load_examples(tmp_path / "parts")
    flat = make_images(tmp_path / "flat" / "train").parent
    (flat / "val").mkdir()
    Image.new("RGB", (4, 4)).save(flat / "val" / "loose.png")
    with pytest.raises(DataError, match="flat/val has no images in class folders"):
        load_examples(flat)
    (tmp_path / "page.html").write_text("x")
    with pytest.raises(DataError, match=r"page.html must be an image folder, an .npz file or a table"):
        load_examples(tmp_path / "page.html")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_test": np.zeros((2, 3, 3), np.uint8)}, "has no x_train; it has x_test"),
        ({"x_train": np.zeros((2, 3, 3), np.float32)}, r"x_train must be .*, got \(2, 3, 3\) float32"),
        ({"x_train": np.zeros((2, 3, 3), np.uint8)}, "y_train must be 2 class numbers"),
        ({"x_train": np.zeros((2, 3, 3), np.uint8), "y_train": np.array([0, -1])}, "class numbers from 0"),
        (
            {"x_train": np.zeros((2, 3, 3), np.uint8), "y_train": np.array([0, 2]), "class_names": ["a", "b"]},
            "label 2 has no name",
        ),
        ({"x_train": np.zeros((3, 3, 3), np.uint8), "y_train": np.array([0, 0, 2])}, "class '1' .* has no images"),
    ],
)
def test_bad_npz_is_named(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=message) as error:
        load_examples(tmp_path / "bad.npz")
    assert "bad.npz" in str(error.value)


def test_a_damaged_npz_is_named(tmp_path):
    np.savez(tmp_path / "cut.npz", x_train=np.zeros((2, 3, 3), np.uint8))
    path = tmp_path / "cut.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="cut.npz cannot be read as .npz"):
        load_examples(path)


def test_preflight_names_every_bad_image(images):
    good = (images / "circle" / "00.png").read_bytes()
    bad = {"cut.png": good[:200], "empty.png": b"", "page.jpg": b"<html></html>"}
    for name, contents in bad.items():
        (images / "square" / name).write_bytes(contents)
    examples = load_examples(images)
    with pytest.raises(DataError, match="3 images cannot be decoded") as error:
        check_images(examples)
    assert all(name in str(error.value) for name in bad)
    assert "empty.png (empty: it has no bytes)" in str(error.value)
    assert "page.jpg (not an image: it is not a JPEG, PNG, GIF, BMP or WebP image)" in str(error.value)
    assert f"exclude them with `kerazoo check {images} --write`" in str(error.value)
    assert "00.png" not in str(error.value)
    assert "\n" not in str(error.value)
