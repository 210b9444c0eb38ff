"""Sources: tables, arrays, TFDS names and folders all become the same table, and a split depends on content alone."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import make_images
from PIL import Image

from kerazoo.errors import DataError, RecipeError
from kerazoo.pipelines.data.load import load_examples
from kerazoo.recipes.recipe import data_part


def table(folder: Path, text: str, name: str = "table.csv") -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(6):
        Image.new("RGB", (20, 20), (40 * number, 0, 0)).save(folder / f"{number}.png")
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


CLASSES = "path,label,split\n0.png,cat,train\n1.png,dog,train\n2.png,cat,\n3.png,dog,\n4.png,cat,val\n5.png,dog,test\n"


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_a_table_of_classes(tmp_path, kind):
    path = table(tmp_path / "data", CLASSES)
    if kind == "tsv":
        path = path.with_suffix(".tsv")
        path.write_text(CLASSES.replace(",", "\t"))
    elif kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        rows = [line.split(",") for line in CLASSES.splitlines()]
        columns = {name: [row[i] or None for row in rows[1:]] for i, name in enumerate(rows[0])}
        path = path.with_suffix(".parquet")
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    examples = load_examples(path)
    assert examples.class_names == ("cat", "dog")
    assert examples.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert examples.splits.tolist() == ["train"] * 4 + ["val", "test"]
    assert examples.paths[3] == str(tmp_path / "data" / "3.png")
    assert examples.keys[3] == "3.png"


def test_names_with_commas_quotes_and_newlines_are_read_as_csv_quotes_them(tmp_path):
    path = table(tmp_path / "data", 'path,label\n"a, ""b""\nc.png",x\n1.png,y\n')
    examples = load_examples(path, hold_out=False)
    assert examples.keys[0] == 'a, "b"\nc.png'


def test_whole_numbers_as_classes_are_in_order_of_size(tmp_path):
    path = table(tmp_path / "data", "path,label\n0.png,10\n1.png,9\n2.png,9\n3.png,10\n")
    assert load_examples(path, hold_out=False).class_names == ("9", "10")


def test_several_labels(tmp_path):
    path = table(tmp_path / "data", "file,labels\n0.png,red|round\n1.png,\n2.png,round\n3.png,red\n4.png,red|round\n")
    examples = load_examples(path, validation=0.3)
    assert examples.task == "multilabel"
    assert examples.class_names == ("red", "round")
    assert examples.labels.tolist() == [[1, 1], [0, 0], [0, 1], [1, 0], [1, 1]]
    text = "path,red,round\n0.png,1,1\n1.png,0,0\n2.png,0,1\n3.png,1,0\n4.png,1,1\n"
    again = load_examples(table(tmp_path / "columns", text), label="red,round", hold_out=False)
    np.testing.assert_array_equal(again.labels, examples.labels)
    assert again.task == "multilabel"


def test_numbers(tmp_path):
    path = table(tmp_path / "data", "path,target,weight\n0.png,1.5,2\n1.png,-2,3\n2.png,1e3,4\n3.png,0,5\n")
    one = load_examples(path, hold_out=False)
    assert (one.task, one.class_names) == ("regression", ("target",))
    assert one.labels.tolist() == [[1.5], [-2], [1000], [0]]
    two = load_examples(path, label="target,weight", task="regression", hold_out=False)
    assert two.labels.tolist() == [[1.5, 2], [-2, 3], [1000, 4], [0, 5]]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("name,label\n0.png,a\n", {}, "has no column path or file or filename or image; it has name, label"),
        ("path,label\n", {}, "table.csv has no rows"),
        ("path,kind\n0.png,a\n", {}, "must have one column of label, labels, target"),
        ("path,label,target\n0.png,a,1\n", {}, "it has label and target"),
        ("path,label\n0.png,a\n", {"label": "clas"}, "has no column 'clas'; it has path, label"),
        ("path,label\n0.png,a,b\n", {}, "row 1 must have 2 values, one for each column, got 3"),
        ("path,label\n0.png,a\n1.png,\n", {}, "row 2: column label is empty"),
        ("path,label\n,a\n", {}, "row 1: column path is empty"),
        ("path,label,split\n0.png,a,held\n", {}, "row 1: split must be one of train, training, val"),
        ("path,target\n0.png,1\n1.png,tall\n", {}, "row 2: column target must be a finite number, got 'tall'"),
        ("path,target\n0.png,inf\n", {}, "column target must be a finite number, got 'inf'"),
        (
            "path,a,b\n0.png,1,2\n",
            {"label": "a,b"},
            'row 1: column b must be 0 or 1, got 2; to predict numbers, set data.task="regression"',
        ),
        ('path,label\n"0.png,a\n', {}, "cannot be read"),
        ("path,label\n0.png,a\n1.png,a\n", {}, "only one class"),
    ],
)
def test_bad_tables_are_named(tmp_path, text, options, message):
    with pytest.raises(DataError, match=message) as error:
        load_examples(table(tmp_path / "data", text), **options)
    assert "table.csv" in str(error.value)


def test_a_damaged_parquet_is_named(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"bad.parquet cannot be read as Parquet"):
        load_examples(tmp_path / "bad.parquet")


def test_arrays_of_several_labels_and_of_numbers(tmp_path):
    x = np.zeros((30, 4, 4), np.uint8) + np.arange(30, dtype=np.uint8)[:, None, None]
    y = np.random.default_rng(0).integers(0, 2, (30, 3))
    np.savez(tmp_path / "labels.npz", x_train=x, y_train=y, class_names=["a", "b", "c"])
    examples = load_examples(tmp_path / "labels.npz")
    assert (examples.task, examples.class_names, examples.labels.shape) == ("multilabel", ("a", "b", "c"), (30, 3))
    np.savez(tmp_path / "numbers.npz", x_train=x, y_train=np.arange(30) / 2)
    examples = load_examples(tmp_path / "numbers.npz")
    assert (examples.task, examples.labels.shape, examples.labels[3, 0]) == ("regression", (30, 1), 1.5)
    np.savez(tmp_path / "nan.npz", x_train=x, y_train=np.full(30, np.nan))
    with pytest.raises(DataError, match="y_train must be 30 class numbers from 0, or .* or finite floats"):
        load_examples(tmp_path / "nan.npz")


# -- splits -------------------------------------------------------------------------------------------------------


def held(examples):
    return {key for key, split in zip(examples.keys, examples.splits, strict=True) if split == "val"}


def test_adding_files_moves_none_that_is_there(tmp_path):
    root = make_images(tmp_path / "data", count=60)
    first = load_examples(root, validation=0.25)
    assert 0.12 < len(held(first)) / len(first) < 0.4
    make_images(tmp_path / "more", count=60, seed=9)
    for path in (tmp_path / "more").rglob("*.png"):
        path.rename(root / path.parent.name / f"new-{path.name}")
    second = load_examples(root, validation=0.25)
    assert len(second) == 2 * len(first)
    assert {key for key in held(second) if "new-" not in key} == held(first)


def test_every_class_is_on_both_sides(tmp_path):
    for seed in range(12):
        root = make_images(tmp_path / str(seed), classes=("a", "b", "c"), count=3, seed=seed)
        examples = load_examples(root, validation=0.2, test=0.2)
        for split in ("train", "val", "test"):
            assert set(examples.counts(split).values()) == {1}
        examples = load_examples(root, validation=0.2)
        assert min(examples.counts("train").values()) >= 1
        assert min(examples.counts("val").values()) >= 1


def test_identical_files_go_one_way(tmp_path):
    root = make_images(tmp_path / "data", count=30)
    for path in sorted(root.rglob("*.png")):
        (path.with_name(f"copy-{path.name}")).write_bytes(path.read_bytes())
    examples = load_examples(root, validation=0.3)
    where = {}
    for content, split in zip(examples.hashes, examples.splits, strict=True):
        where.setdefault(content, set()).add(split)
    assert all(len(splits) == 1 for splits in where.values())


def test_groups_stay_together(tmp_path):
    root = make_images(tmp_path / "data", count=40)
    for number, path in enumerate(sorted(root.rglob("*.png"))):
        path.rename(path.with_name(f"patient{number % 10}_{path.name}"))
    examples = load_examples(root, validation=0.3, group=r"patient(\d+)_")
    where = {}
    for group, split in zip(examples.groups, examples.splits, strict=True):
        where.setdefault(group, set()).add(split)
    assert sorted(where) == [str(n) for n in range(10)]
    assert all(len(splits) == 1 for splits in where.values())
    assert len({min(splits) for splits in where.values()}) == 2
    with pytest.raises(DataError, match=r"data.group='subject' matches no name in .*, such as 'circle/patient"):
        load_examples(root, group="subject")
    with pytest.raises(RecipeError, match="data.group must be a regular expression"):
        load_examples(root, group="(")


def test_arrays_give_each_class_its_share(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (200, 3, 3)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=np.arange(200) % 4)
    examples = load_examples(tmp_path / "a.npz", validation=0.2, test=0.1)
    assert set(examples.counts("val").values()) == {10}
    assert set(examples.counts("test").values()) == {5}


def test_shares_that_leave_nothing_are_refused(images):
    with pytest.raises(DataError, match="leave no images to train on"):
        load_examples(images, validation=0.6, test=0.4)
    with pytest.raises(RecipeError, match=r"data.validation must be a number in \(0, 1\), got 1.5"):
        data_part({"path": str(images), "validation": 1.5})


# -- TensorFlow Datasets ------------------------------------------------------------------------------------------

WRITE_MNIST = """
import sys
import numpy as np
import tensorflow_datasets as tfds

folder, source, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
arrays = np.load(source)
features = tfds.features.FeaturesDict({
    "image": tfds.features.Image(shape=(28, 28, 1)),
    "label": tfds.features.ClassLabel(num_classes=10),
})
def rows(split):
    x, y = arrays[f"x_{split}"][:count], arrays[f"y_{split}"][:count]
    return [(i, {"image": a[..., None], "label": int(b)}) for i, (a, b) in enumerate(zip(x, y))]
tfds.dataset_builders.store_as_tfds_dataset(
    name="mnist", version="3.0.1", features=features, data_dir=folder, config=None,
    split_datasets={"train": rows("train"), "test": rows("test")}, disable_shuffling=True,
)
"""


@pytest.mark.slow  # 70,000 images are written and read
def test_mnist_in_the_tfds_layout_is_read_by_name(tmp_path, shared):
    source = shared / "mnist.npz"
    subprocess.run(
        [sys.executable, "-c", WRITE_MNIST, tmp_path, source, "300"], check=True, capture_output=True, timeout=300
    )
    examples = load_examples("tfds:mnist", data_dir=str(tmp_path), download=False)
    arrays = np.load(source)
    assert examples.class_names == tuple(str(n) for n in range(10))
    assert len(examples) == 600
    assert set(examples.splits.tolist()) == {"train", "val", "test"}
    expected = np.concatenate([arrays["y_train"][:300], arrays["y_test"][:300]])
    np.testing.assert_array_equal(examples.labels, expected)
    for index in (0, 17, 299, 300, 599):
        pixels = arrays["x_train"][index] if index < 300 else arrays["x_test"][index - 300]
        np.testing.assert_array_equal(np.array(Image.open(examples.paths[index])), pixels)
    again = load_examples("tfds:mnist", data_dir=str(tmp_path), download=False)
    assert again.digest() == examples.digest()
    other = tmp_path / "other"  # the same name and version, other contents
    subprocess.run(
        [sys.executable, "-c", WRITE_MNIST, other, source, "50"], check=True, capture_output=True, timeout=300
    )
    assert len(load_examples("tfds:mnist", data_dir=str(other), download=False)) == 100


def test_a_tfds_name_that_is_not_at_hand_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"tfds:mnist is not in .*; prepare it there, set its folder") as error:
        load_examples("tfds:mnist", data_dir=str(tmp_path), download=False)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="tfds:no_such_set cannot be loaded from") as error:
        load_examples("tfds:no_such_set", data_dir=str(tmp_path), download=False)
    assert "\n" not in str(error.value)


def test_a_tfds_folder_runs_no_code_that_came_with_it(tmp_path, monkeypatch):
    """features.json names modules to import: nested ones, in both spellings, and in the older form."""
    for module in ("planted", "tensorflow_datasets_planted"):
        (tmp_path / f"{module}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = "tensorflow_datasets.core.features"
    image = {
        "pythonClassName": f"{own}.image_feature.Image",
        "image": {"shape": {"dimensions": ["2", "2", "3"]}, "dtype": "uint8"},
    }
    label = {"pythonClassName": f"{own}.class_label_feature.ClassLabel", "classLabel": {"numClasses": "2"}}
    planted = {"pythonClassName": "planted.Feature", "tensor": {}}
    sequence = {"pythonClassName": f"{own}.sequence_feature.Sequence", "sequence": {"feature": planted}}

    def dictionary(**features):
        return {"pythonClassName": f"{own}.features_dict.FeaturesDict", "featuresDict": {"features": features}}

    for number, features in enumerate(
        (
            planted,
            {"pythonClassName": "tensorflow_datasets_planted.Feature", "tensor": {}},
            {"python_class_name": "planted.Feature", "tensor": {}},
            {"type": "planted.Feature", "content": {}},
            dictionary(image=image, label=label, more=planted),
            dictionary(image=image, label=label, more=sequence),
        )
    ):
        folder = tmp_path / str(number) / "shapes" / "1.0.0"
        folder.mkdir(parents=True)
        (folder / "features.json").write_text(json.dumps(features))
        (folder / "dataset_info.json").write_text('{"name": "shapes", "version": "1.0.0", "fileFormat": "tfrecord"}')
        with pytest.raises(DataError, match=r"the features.json of tfds:shapes in .* '\w*planted.Feature'") as error:
            load_examples("tfds:shapes", data_dir=str(tmp_path / str(number)), download=False)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()
