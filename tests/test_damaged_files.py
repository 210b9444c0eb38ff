"""Damaged and hand-edited files: each is one line that names the file, or is read; none is a traceback.

`Damage` makes the damaged contents. The default tier takes some of each; the slow one takes all.
"""

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import make_images

from kerazoo.arrays import read_answers
from kerazoo.callbacks.checkpoints import newest_checkpoint, write_checkpoint
from kerazoo.callbacks.metrics import MetricsWriter
from kerazoo.callbacks.writers.folder import FolderWriter
from kerazoo.callbacks.writers.tensorboard import TensorBoardWriter
from kerazoo.errors import DataError, KerazooError, RunError
from kerazoo.evaluation.evaluate import check_unchanged, evaluate
from kerazoo.files import read_json, sha256
from kerazoo.models.weights.bundles import INDEX, unpack_bundle
from kerazoo.pipelines.checks.check import check
from kerazoo.pipelines.data.load import load_examples
from kerazoo.recipes.recipe import data_part, make_recipe
from kerazoo.runs.begin import choose_folder, started
from kerazoo.runs.environment import changes, environment, recorded
from kerazoo.runs.records import read_data, read_state
from kerazoo.runs.run import Run, open_run, unfinished
from kerazoo.training.train import train

EXHAUSTIVE = pytest.mark.slow  # thousands of damaged files
AMOUNTS = [pytest.param(9, id="some"), pytest.param(400, id="many", marks=EXHAUSTIVE)]
OTHERS = (None, [], {}, "x", "a\0b", -1, 10**30, 1e300, True, [[]], {"a": None}, "\ud800")


def damages(contents: bytes, amount: int):
    """The contents cut, with bits turned, empty, nested too deep, with numbers too long, and no text at all."""
    yield from (b"", b"\0" * 100, b"\xff\xfe\xfd", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000, b"null", b"[]")
    yield contents + b"\xff"
    step = max(len(contents) // amount, 1)
    yield from (contents[:at] for at in range(1, len(contents), step))
    rng = np.random.default_rng(0)
    for at in rng.integers(0, max(len(contents), 1), amount):
        flipped = bytearray(contents)
        flipped[at] ^= 1 << int(rng.integers(8))
        yield bytes(flipped)


def swapped(values, amount: int):
    """The JSON text of `values` with one value after the other replaced by one of another type, and left out."""

    def places(value, here=()):
        if isinstance(value, dict | list):
            for key in value if isinstance(value, dict) else range(min(len(value), 2)):
                yield (*here, key)
                yield from places(value[key], (*here, key))

    every = [(place, other) for place in places(values) for other in (*OTHERS, ...)]
    for place, other in every[:: max(len(every) // (10 * amount), 1)]:
        changed = json.loads(json.dumps(values))
        inner = changed
        for key in place[:-1]:
            inner = inner[key]
        if other is ...:
            del inner[place[-1]]
        else:
            inner[place[-1]] = other
        yield json.dumps(changed).encode()


def survives(path: Path, contents, *acts, named=None):
    """Every act on the damaged file succeeds or is one line that names it. How many lines there were."""
    whole = path.read_bytes()
    lines = 0
    for damaged in contents:
        path.write_bytes(damaged)
        for act in acts:
            try:
                act()
            except KerazooError as error:
                lines += 1
                said = str(error)
                if "\n" in said or (named or path.name) not in said or len(said) > 1500:
                    raise AssertionError(f"{said!r} of {damaged[:300]!r}") from error
            except Exception as error:
                raise AssertionError(f"{type(error).__name__}: {error} of {damaged[:300]!r}") from error
    path.unlink()
    path.mkdir()
    for act in acts:
        try:
            act()
        except KerazooError as error:
            if "\n" in str(error):
                raise
    path.rmdir()
    path.write_bytes(whole)
    return lines


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(run folder, data file) of a small network, trained."""
    root = tmp_path_factory.mktemp("damaged")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (40, 8, 8), np.uint8), np.arange(40) % 2
    np.savez(root / "data.npz", x_train=x, y_train=y, x_val=x[:10], y_val=y[:10])
    values = {
        "model": {"name": "perceptron"}, "data": {"path": str(root / "data.npz")}, "training": {"epochs": 1},
    }  # fmt: skip
    run = train(make_recipe(values), name="made", root=root)
    return run.folder, root / "data.npz"


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run, to be damaged."""
    return Path(shutil.copytree(made[0], tmp_path / "made"))


@pytest.mark.parametrize("amount", AMOUNTS)
def test_run_json(run, made, amount):
    path = run / "run.json"
    values = json.loads(path.read_text())
    contents = [*damages(path.read_bytes(), amount), *swapped(values, amount)]
    recipe, examples = Run(run).recipe, load_examples(made[1])

    def go_on():
        with started(run, recipe, examples, start_weights="a" * 64, devices="cpu"):
            pass

    def claim_it():
        choose_folder(recipe, "made", name="made", root=run.parent)

    assert survives(path, contents, lambda: open_run(run), lambda: unfinished(run), go_on, claim_it, named="made")


@pytest.mark.parametrize("amount", AMOUNTS)
def test_recipe_toml(run, amount):
    path = run / "recipe.toml"
    assert survives(path, damages(path.read_bytes(), amount), lambda: Run(run).recipe)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_data_json(run, made, amount):
    path = run / "data.json"
    values = json.loads(path.read_text())
    examples = load_examples(made[1])
    contents = [*damages(path.read_bytes(), amount), *swapped(values, amount)]
    assert survives(path, contents, lambda: check_unchanged(Run(run), examples), named="made")


def test_answers_of_an_evaluation(run):
    path = run / "evaluation" / "val.npy"
    whole = path.read_bytes()

    def saved(array, **given):
        file = io.BytesIO()
        np.save(file, array, **given)
        return file.getvalue()

    huge = whole.replace(b"(10, 2)", b"(9999999999, 2)") if b"(10, 2)" in whole else b""
    contents = [
        b"", whole[:50], whole[:-1], saved(np.zeros((9, 2), np.float32)), saved(np.zeros((10, 2), np.int32)), huge,
        saved(np.array([object()] * 10), allow_pickle=True), saved(np.full((10, 2), "x")), whole + b"x",
    ]  # fmt: skip
    acts = (lambda: evaluate(Run(run)), lambda: read_answers(path, (10, 2)))  # the first compares a digest before
    assert survives(path, contents, *acts) == 2 * len(contents)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_environment_json_keeps_no_run_from_going_on(run, amount, said):
    path = run / "environment.json"
    values = json.loads(path.read_text())
    now = environment()
    for damaged in [*damages(path.read_bytes(), amount), *swapped(values, amount)][:: 1 if amount > 9 else 5]:
        path.write_bytes(damaged)
        changes(recorded(path), now)
        assert isinstance(read_json(path), dict)
    assert "environment.json cannot be used: " in said[0]
    assert "a new one was started" in said[0]
    path.unlink()
    path.mkdir()
    changes(recorded(path), now)
    assert path.is_file()


def test_a_run_with_damage_that_only_informs_goes_on(run, made, said):
    """The command that goes on, with every such file damaged at once."""
    state = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**state, "status": "interrupted"}))
    (run / "environment.json").write_bytes(b"\xff")
    for name in ("watch.jsonl", "metrics.jsonl", "history.csv"):
        (run / name).unlink(missing_ok=True)
        (run / name).write_bytes(b"\xff\xfe" + b"[" * 5000)
    shutil.rmtree(run / "tensorboard", ignore_errors=True)
    (run / "tensorboard").write_text("no folder")
    again = train(Run(run).recipe, name="made", root=run.parent)
    assert again.status == "finished"
    assert any("environment.json cannot be used" in line for line in said)
    assert (again.folder / "environment.json.damaged").is_file()


@pytest.mark.parametrize("amount", AMOUNTS)
def test_lines_of_watchers_are_kept_where_they_are_whole(tmp_path, amount, said):
    lines = b"".join(json.dumps({"step": n, "tag": "a", "value": 0.5}).encode() + b"\n" for n in (1, 2))
    rows = b"".join(json.dumps({"epoch": n, "loss": 0.5}).encode() + b"\n" for n in (1, 2))
    extra = [b'{"step": 1e999}\n', b'{"step": ' + b"9" * 400 + b"}\n", b'{"epoch": null}\n', b'{"epoch": [1]}\n']
    for damaged in [*damages(lines, amount), *damages(rows, amount), *extra]:
        (tmp_path / "watch.jsonl").write_bytes(damaged)
        (tmp_path / "metrics.jsonl").write_bytes(damaged)
        writer = FolderWriter(tmp_path)
        writer.rewind(1, 1)
        writer.finish()
        assert not said
        MetricsWriter(tmp_path, 10, history=[{"epoch": 1.0, "loss": 0.5}]).settle()
    (tmp_path / "watch.jsonl").unlink()
    (tmp_path / "watch.jsonl").mkdir()
    (tmp_path / "tensorboard").write_text("no folder")
    for writer in (FolderWriter(tmp_path), TensorBoardWriter(tmp_path / "tensorboard")):
        writer.scalar("norm", 0.5, 1)
        writer.finish()
    assert "watch.jsonl cannot be used: it is no regular file" in said[0]
    assert "tensorboard cannot be used: it is no folder" in said[1]
    assert list((tmp_path / "tensorboard").rglob("events.*"))


@pytest.mark.parametrize("amount", AMOUNTS)
def test_checkpoints(tmp_path, amount, said):
    state = {"epoch": 1, "step": 2, "a": np.arange(4, dtype=np.float32), "rows": [{"loss": 0.5}]}
    older = write_checkpoint(tmp_path, 0, 0, state, keep=2)
    path = write_checkpoint(tmp_path, 1, 2, state, keep=2)
    whole = path.read_bytes()
    for damaged in damages(whole, amount):
        path.write_bytes(damaged)
        said.clear()
        assert newest_checkpoint(tmp_path)["epoch"] == 1
        assert path.name in said[0]
    path.unlink()
    older.unlink()
    arrays = (b"1", b'[0, "O", [1]]', b'[0, "float32", [-1]]', b'[0, "float32", [99999999999999]]', b'[0, "no", [1]]')
    texts = [b"[]", b"1", b'{"a":' * 9000, *(b'{"array": ' + array + b"}" for array in arrays)]
    for text in texts:  # whole by its checksum, but no state
        contents = struct.pack("<Q", len(text)) + text
        made = tmp_path / "made"
        made.write_bytes(contents)
        path = made.rename(tmp_path / f"000001-00000002-{sha256(made)[:32]}.ckpt")
        said.clear()
        assert newest_checkpoint(tmp_path) is None
        assert path.name in said[0]
        path.unlink()


@pytest.mark.parametrize("amount", AMOUNTS)
def test_npz(made, tmp_path, amount):
    path = tmp_path / "data.npz"
    path.write_bytes(made[1].read_bytes())
    assert survives(path, damages(path.read_bytes(), amount), lambda: load_examples(path))


def npz(path, **arrays):
    x, y = np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 0, 1])
    np.savez(path, **{"x_train": x, "y_train": y, "x_val": x, "y_val": y, **arrays})
    return path


def test_npz_of_all_kinds(tmp_path):
    x = np.zeros((4, 8, 8), np.uint8)
    cases = {
        "objects": {"x_train": np.array([object()] * 4)}, "pickled names": {"class_names": np.array([{}, []], object)},
        "no images": {"x_train": x[:0], "y_train": np.zeros(0, int)}, "no height": {"x_train": x[:, :0]},
        "floats": {"x_train": x.astype(float)}, "flat": {"x_train": x.reshape(4, 64)}, "scalar": {"y_train": 3},
        "too large": {"y_train": np.array([0, 1, 2**64 - 1, 0], np.uint64)}, "below 0": {"y_train": [-1, 0, 1, 0]},
        "gaps": {"y_train": [0, 5, 0, 5], "y_val": [0, 5, 0, 5]}, "NaN": {"y_train": [0.5, np.nan, 1, 2]},
        "text": {"y_train": np.array(list("abab"))}, "dates": {"y_train": np.zeros(4, "M8[s]")},
        "complex": {"y_train": np.zeros(4, complex)}, "records": {"y_train": np.zeros(4, [("a", int)])},
        "names that are no text": {"class_names": np.array([b"\xff", b"\xfe"])}, "few names": {"class_names": ["a"]},
        "names in a table": {"class_names": [["a", "b"]]}, "two sizes": {"x_val": x[:, :4]},
    }  # fmt: skip
    for name, arrays in cases.items():
        path = npz(tmp_path / "data.npz", **arrays)
        with pytest.raises(DataError) as error:
            load_examples(path)
        assert "data.npz" in str(error.value), name
        assert ("Python objects, which are never read" in str(error.value)) == (name in ("objects", "pickled names"))
        assert "\n" not in str(error.value), name


def header(shape: str) -> bytes:
    """A .npy file that announces a shape and has four bytes."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + b"abcd"


BOMB = """
import resource, sys
from kerazoo.errors import DataError
from kerazoo.pipelines.data.arrays import read
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
try:
    read(Path(sys.argv[1]))
except DataError as error:
    print(error)
"""


def test_npz_that_announce_too_much(tmp_path):
    """Headers that are not true, and a zip file whose contents are larger than the memory."""
    for shape in ("(99999999999, 8, 8)", "(-4, 8, 8)", "(4, 8", "(" * 500, "(10**9, 9)", "(4, True, 8)", "(0, 8, 8)"):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
            file.writestr("x_train.npy", header(shape))
        with pytest.raises(DataError, match=r"a.npz cannot be read as .npz: .*; write it again"):
            load_examples(tmp_path / "a.npz")
    contents = bytearray((tmp_path / "a.npz").read_bytes())
    at = contents.rindex(b"PK\x01\x02") + 24  # the size in the central directory
    contents[at : at + 4] = struct.pack("<I", 0xFFFFFFF0)
    (tmp_path / "b.npz").write_bytes(contents)
    done = subprocess.run(
        [sys.executable, "-c", BOMB, tmp_path / "b.npz"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "b.npz cannot be read as .npz: the header of 'x_train.npy' announces" in done.stdout


def test_npz_that_does_not_fit_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("kerazoo.arrays._memory", lambda: 100)
    with pytest.raises(DataError, match="its arrays need .*, but only 100 bytes of memory may be used"):
        load_examples(npz(tmp_path / "a.npz"))


@pytest.mark.parametrize("amount", AMOUNTS)
def test_manifest(made, tmp_path, amount):
    data = tmp_path / "data.npz"
    data.write_bytes(made[1].read_bytes())
    check(data_part({"path": str(data)}), write=True)
    path = tmp_path / "data.npz.kerazoo-manifest.json"
    contents = [*damages(path.read_bytes(), amount), *swapped(json.loads(path.read_text()), amount)]
    assert survives(path, contents, lambda: load_examples(data), named="data.npz")


@pytest.mark.parametrize("digest", ["not hex", "", "A" * 64, 7, None])
def test_a_manifest_with_a_hash_that_is_none_is_refused(tmp_path, digest):
    """Features are kept by these hashes, and their seeds follow from them."""
    data = make_images(tmp_path / "data", count=2)
    check(data_part({"path": str(data)}), write=True)
    path = data / "kerazoo-manifest.json"
    values = json.loads(path.read_text())
    next(iter(values["files"].values()))[0] = digest
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match="kerazoo-manifest.json is not a manifest: .*; write it again with"):
        load_examples(data)


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_tables(tmp_path, kind, amount):
    path = tmp_path / f"table.{kind}"
    rows = {
        "path": ["a.png", "b.png", "c.png", "d.png"],
        "label": list("xyxy"),
        "split": ["train", "train", "val", "val"],
    }
    if kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table(rows), path)
    else:
        mark = "," if kind == "csv" else "\t"
        path.write_text("\n".join(mark.join(row) for row in [list(rows), *zip(*rows.values(), strict=True)]))
    contents = damages(path.read_bytes(), amount)
    assert survives(path, contents, lambda: load_examples(path), named=tmp_path.name)  # or an image beside it


def test_a_path_with_a_nul_byte_is_named(tmp_path):
    (tmp_path / "table.csv").write_bytes(b"path,label\na\0b.png,x\nc.png,y\n")
    with pytest.raises(DataError, match=r"table.csv.*(NUL|row 1)"):
        load_examples(tmp_path / "table.csv")
    for act in (load_examples, open_run):
        with pytest.raises(KerazooError):
            act("a\0b")


@pytest.mark.parametrize("amount", AMOUNTS)
def test_bundles(tmp_path, amount, monkeypatch):
    """The index of one; its weights are compared by hash in test_published.py."""
    import tarfile

    monkeypatch.setenv("KERAZOO_CACHE", str(tmp_path / "cache"))
    row = {"name": "mobilenet_025", "file": "mobilenet_2_5_224_tf_no_top.h5", "size": 3, "sha256": "a" * 64}
    index = {"kerazoo_weights": 1, "weights": [row]}
    path = tmp_path / "weights.tar"

    def bundle(text: bytes) -> bytes:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            member = tarfile.TarInfo(INDEX)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
        return file.getvalue()

    whole = bundle(json.dumps(index).encode())
    path.write_bytes(whole)
    contents = [*damages(whole, amount), *map(bundle, swapped(index, amount)), *map(bundle, damages(b"{}", amount))]
    assert survives(path, contents, lambda: unpack_bundle(path)) >= len(contents) - 9
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(KerazooError, match="pipe.tar"):
        unpack_bundle(tmp_path / "pipe.tar")


def test_the_records_of_a_run_say_what_they_must(tmp_path):
    """And a file of anybody's that has such a name is only read."""
    path = tmp_path / "run.json"
    path.write_text('{"status": "finished", "results": 3}')
    with pytest.raises(RunError, match=r"run.json: 'results' must be an object, got '3'; restore it from a copy"):
        read_state(tmp_path)
    assert read_json(path)["results"] == 3
    (tmp_path / "data.json").write_text("{}")
    with pytest.raises(RunError, match=r"data.json has no 'digest'; restore it from a copy"):
        read_data(tmp_path)
