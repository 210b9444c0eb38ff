"""Which folders are splits and which are classes: read as meant, or refused in one line that says what to do."""

import shutil
import time

import numpy as np
import pytest
from conftest import make_images
from PIL import Image

from kerazoo.errors import DataError
from kerazoo.pipelines.checks.check import check
from kerazoo.pipelines.data import splits
from kerazoo.pipelines.data.load import load_examples
from kerazoo.recipes.recipe import data_part
from kerazoo.serving.predict import find_files
from kerazoo.training.plan import summary


def images(root, *folders, count=3):
    """`count` images, all unlike, in each of `folders` below `root`."""
    for folder in folders:
        make_images(root / folder, classes=("x",), count=count, size=16, seed=len(list(root.rglob("*"))))
        for path in (root / folder / "x").iterdir():
            path.rename(root / folder / path.name)
        (root / folder / "x").rmdir()
    return root


def sizes(examples):
    return {split: int(np.sum(examples.splits == split)) for split in examples.split_names}


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Train", "Validation", "Test"), ("training", "validation", "testing"), ("TRAIN", "Valid", "test1"),
        ("Training", "dev", "eval"),
    ],
)  # fmt: skip
def test_usual_names_of_splits_are_splits_in_any_case(tmp_path, train, val, test):
    images(tmp_path, *(f"{split}/{name}" for split in (train, val, test) for name in "ab"))
    examples = load_examples(tmp_path)
    assert examples.class_names == ("a", "b")
    assert sizes(examples) == {"train": 6, "val": 6, "test": 6}
    assert not check(data_part({"path": str(tmp_path)})).spoiled


def test_what_kerazoo_wrote_into_the_folder_is_no_class(tmp_path):
    """`kerazoo train --data .` within the folder of images."""
    for folder in (images(tmp_path / "plain", "a", "b"), images(tmp_path / "split", "train/a", "train/b", "val/a")):
        before = load_examples(folder).digest()
        images(folder, "runs/first/feature_maps", "saved_models/first/1/assets")
        assert load_examples(images(tmp_path / "other", "a", "runs")).class_names == ("a", "runs")
        (folder / "runs/first/run.json").write_text("{}")
        (folder / "saved_models/first/1/saved_model.pb").write_bytes(b"")
        assert load_examples(folder).digest() == before


REFUSED = {
    "two names": (["Train/a", "Train/b", "training/a", "training/b"], "two folders for train: Train and training"),
    "splits and classes": (["test/a", "test/b", "a", "b"], "has test, which look like splits, but also a, b"),
    "splits and another": (["train/a", "train/b", "more/a", "more/b"], "has train, .* but also more"),
    "no train": (["val/a", "val/b", "Test/a", "Test/b"], "has Test, val but no train; .* to evaluate, use .*/Test"),
    "names of nobody": (["fold1/a", "fold1/b", "fold2/a", "fold2/b"], "folders fold1 and fold2 look like splits"),
    "names with a year": (
        ["train2017/a", "train2017/b", "val2017/a", "val2017/b"],
        "look like splits.* name them train",
    ),
    "wrapped splits": (
        ["training_set/training_set/a", "training_set/training_set/b", "test_set/test_set/a", "test_set/test_set/b"],
        "test_set and training_set look like splits",
    ),
    "classes first": (["a/train", "a/test", "b/train", "b/test"], r"classes that contain splits.* \(test/a\)"),
    "classes in a class": (
        ["a", "b", "more/a", "more/b"],
        "the folder more looks like a split, .* a, b, which are also classes beside it",
    ),
    "one wrapping folder": (
        ["flowers/daisy", "flowers/rose"],
        "not a class: it contains the classes daisy, rose; use .*/flowers instead",
    ),
    "wrapped twice": (["x/y/daisy", "x/y/rose"], "contains the classes daisy, rose; use .*/x/y instead"),
    "wrapped split": (
        ["train/train/a", "train/train/b", "test/a"],
        "contains the classes a, b; move them directly into .*/train",
    ),
    "wrapped test": (["train/a", "train/b", "test/test/a", "test/test/b"], "class 'test' is in .*test but not in"),
    "one class": (["daisy"], "has only one class .'daisy'."),
    "images straight in train": (["train", "test1"], "train has images but no folders; put the images of each class"),
    "named like splits, without classes": (
        ["train_images", "Test-images"],
        "folders Test-images, train_images are named like splits; name them train, val and test, with a folder for",
    ),
    "named like splits, one without classes": (["train2017/a", "train2017/b", "val2017"], "are named like splits"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_is_not_understood_is_refused_by_check_and_training_alike(tmp_path, case):
    layout, message = REFUSED[case]
    images(tmp_path, *layout)
    with pytest.raises(DataError, match=message) as trained:
        load_examples(tmp_path)
    with pytest.raises(DataError, match=message) as checked:
        check(data_part({"path": str(tmp_path)}))
    assert str(trained.value) == str(checked.value)
    assert "\n" not in str(trained.value)


@pytest.mark.parametrize("beside", ["val", "dev", "Train", "valid"])
def test_a_class_named_like_a_split_beside_other_classes_stays_one_and_is_told(tmp_path, beside):
    images(tmp_path, beside, "bus", "car", count=4)
    examples = load_examples(tmp_path)
    assert set(examples.class_names) == {beside, "bus", "car"}
    assert f"; {beside}, named like a split, is used as a class" in summary(examples)
    report = check(data_part({"path": str(tmp_path)}))
    assert not report.spoiled
    assert [f.key for f in report.findings if f.kind == "split-like name"] == [beside]


def test_classes_in_nested_folders_stay_classes(tmp_path):
    images(tmp_path, "n01/images", "n02/images", "n03", "n03/more", count=4)
    assert load_examples(tmp_path).class_names == ("n01", "n02", "n03")


@pytest.mark.parametrize("test", ["test", "test/unknown", "Test1/test1"])
def test_images_without_labels_are_a_test_set_that_predict_takes(tmp_path, test):
    images(tmp_path, "train/a", "train/b", test, count=5)
    examples = load_examples(tmp_path)
    assert examples.split_names == ["train", "val"]
    folder = tmp_path / test.split("/")[0]
    why = f"a test set of 5 images without labels; use `kerazoo predict RUN {folder}` for them"
    assert examples.left_out == {folder.name: why}
    assert summary(examples).endswith(f"; 1 left out: {folder.name} ({why})")
    assert len(find_files([folder])) == 5
    report = check(data_part({"path": str(tmp_path)}))
    assert not report.spoiled
    assert [(f.kind, f.key) for f in report.findings] == [("left out", folder.name)]


@pytest.mark.parametrize("test", ["test", "Test1", "eval"])
def test_images_in_test_beside_classes_are_a_test_set_without_labels(tmp_path, test):
    images(tmp_path, "cat", "dog", test, count=4)
    examples = load_examples(tmp_path)
    assert examples.class_names == ("cat", "dog")
    assert examples.left_out.keys() == {test}
    assert "a test set of 4 images without labels" in summary(examples)
    report = check(data_part({"path": str(tmp_path)}))
    assert not report.spoiled
    assert [(f.kind, f.key) for f in report.findings] == [("left out", test)]


def test_test_beside_one_folder_is_a_class(tmp_path):
    images(tmp_path, "control", "test", count=4)
    examples = load_examples(tmp_path)
    assert examples.class_names == ("control", "test")
    assert "; test, named like a split, is used as a class" in summary(examples)


def test_folders_of_like_names_in_classes_of_named_splits_are_no_splits(tmp_path):
    images(tmp_path, *(f"{split}/{name}/{side}" for split in ("train", "val") for name in "ab" for side in ("l", "r")))
    assert sizes(load_examples(tmp_path)) == {"train": 12, "val": 12}


def test_check_refuses_what_holding_out_leaves_too_small(tmp_path):
    images(tmp_path, "a", "b", count=4)
    for path in sorted((tmp_path / "b").iterdir())[1:]:
        path.unlink()
    with pytest.raises(DataError, match="class 'b' .* has one image to train on") as trained:
        load_examples(tmp_path)
    (finding,) = check(data_part({"path": str(tmp_path)})).spoiled
    assert (finding.kind, finding.detail) == ("untrainable", str(trained.value))


def test_formats_that_tensorflow_does_not_decode_are_named(tmp_path):
    images(tmp_path, "a", "b", count=2)
    for path in sorted(tmp_path.rglob("*.png")):
        Image.open(path).save(path.with_suffix(".tif"))
    assert load_examples(tmp_path).left_out["a/00.tif"] == "TensorFlow cannot decode .tif; convert it to PNG or JPEG"
    for path in (tmp_path / "b").glob("*.png"):
        path.unlink()
    shutil.copy(tmp_path / "b" / "00.tif", tmp_path / "b" / "00.HEIC")
    message = r"b has no images that can be used; it has 2 .tif files and 1 .heic file, which TensorFlow cannot decode"
    with pytest.raises(DataError, match=message):
        load_examples(tmp_path)
    with pytest.raises(DataError, match=message.replace("b has no images that can be used", "no images in .*b")):
        find_files([tmp_path / "b"])
    with pytest.raises(DataError, match=r"https://example.org/a.jpg: URLs are not read; download the image"):
        find_files(["https://example.org/a.jpg"])


def test_splits_in_tables_go_by_the_same_names(tmp_path):
    images(tmp_path, "a", "b", count=3)
    rows = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in sorted(tmp_path.rglob("*.png"))]
    table = tmp_path / "list.csv"
    names = ["Training", "dev", "EVAL"]
    table.write_text("\n".join(["path,label,split", *(f"{row},{names[n % 3]}" for n, row in enumerate(rows))]))
    assert sizes(load_examples(table)) == {"train": 2, "val": 2, "test": 2}
    names = ["train", "dev", "val"]
    table.write_text("\n".join(["path,label,split", *(f"{row},{names[n % 3]}" for n, row in enumerate(rows))]))
    with pytest.raises(DataError, match="row 3: split is 'val', but 'dev' in earlier rows; use one name for val"):
        load_examples(table)


def test_splits_in_arrays_go_by_the_same_names(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (8, 4, 4)).astype(np.uint8)
    y = np.arange(8) % 2
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_valid=x, y_valid=y, x_testing=x, y_testing=y)
    assert sizes(load_examples(tmp_path / "a.npz")) == {"train": 8, "val": 8, "test": 8}
    np.savez(tmp_path / "b.npz", x_train=x, y_train=y, x_val=x, y_val=y, x_dev=x, y_dev=y)
    with pytest.raises(DataError, match="two arrays for x_val; remove one"):
        load_examples(tmp_path / "b.npz")


def test_damaged_arrays_are_named_whatever_the_damage(tmp_path):
    """300 files with bytes changed anywhere, and cut anywhere: each is read, or refused in one line."""
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x_train=np.zeros((4, 4, 4), np.uint8), y_train=np.arange(4) % 2, class_names=["a", "b"])
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = []
    for number in range(300):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), rng.integers(1, 6)):
            data[at] = rng.integers(0, 256)
        path.write_bytes(data if number % 3 else data[: rng.integers(0, len(data))])
        try:
            load_examples(path)
        except DataError as error:
            refused.append(str(error))
    assert len(refused) > 200
    assert all("a.npz" in line and "\n" not in line for line in refused)


def test_a_pattern_that_never_ends_is_given_up_and_named(tmp_path, monkeypatch):
    images(tmp_path, "a", "b")
    (tmp_path / "a" / "00.png").rename(tmp_path / "a" / f"{'a' * 40}.png")
    monkeypatch.setattr(splits, "SECONDS", 1)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"data.group='\(a\+\)\+\$' took over 1 s .* rewrite the pattern without"):
        load_examples(tmp_path, group="(a+)+$")
    assert time.monotonic() - start < 10
    assert set(load_examples(tmp_path, group=r"(\d)\d").groups) == {"0", f"a/{'a' * 40}.png"}
