"""Writers: what each keeps is read back, by the tracker's own reader where it has one, also after kills."""

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from conftest import make_images
from PIL import Image

import kerazoo
from kerazoo.callbacks import MlflowWriter
from kerazoo.callbacks.writers.folder import FolderWriter
from kerazoo.callbacks.writers.histograms import Histogram, decode, encode, read_histograms
from kerazoo.callbacks.writers.opening import TRACKERS, open_writers
from kerazoo.callbacks.writers.settings import flatten
from kerazoo.callbacks.writers.tags import path_of
from kerazoo.callbacks.writers.writer import GuardedWriter
from kerazoo.errors import InputError

REASON = "an optional tracker, in the extra of its name"
NAMES = ("folder", *TRACKERS)
SETTINGS = {"model": {"name": "mlp", "units": [64, 32]}, "optimizer": {"learning_rate": 0.1}, "none": None}
FLAT = {"model.name": "mlp", "model.units": "[64, 32]", "optimizer.learning_rate": 0.1, "none": "null"}

# a training in small: it writes after each step, keeps its place every five, and may be killed after one step
TRAINING = """
import json, os, signal, sys
from pathlib import Path
import numpy as np
from kerazoo.callbacks.writers.opening import open_writers

name, folder, last, flushed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "flushed"
writer = open_writers([] if name == "folder" else [name], folder, "one run", SETTINGS)
place, step = folder / "place.json", 0
if place.exists():
    step = json.loads(place.read_text())
    writer.rewind(step, step // 4)
while step < 20:
    step += 1
    writer.scalar("gradients/conv/norm", step / 7, step)
    writer.scalar("odd/values", float({3: "nan", 4: "inf", 5: "-inf"}.get(step, 0.5)), step)
    writer.histogram("gradients/conv", np.arange(4) * step, np.array([-2.0, -1, 0, 1, 2]) / step, step)
    if step % 4 == 0:
        writer.scalar("epoch/train/loss", 1 / step, step // 4)
        writer.scalar("epoch/validation/loss", 2 / step, step // 4)
        writer.image("feature_maps/grey", np.full((2, 3), step, np.uint8), step)
        writer.image("filters", np.full((2, 3, 3), step, np.uint8), step)
        writer.text("note", f"after {step}", step)
    if step == last:
        if flushed:
            writer.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    if step % 5 == 0:
        writer.flush()
        place.with_suffix(".new").write_text(json.dumps(step))
        place.with_suffix(".new").replace(place)
writer.finish()
assert not writer._failed
"""
ODD = {3: "nan", 4: "inf", 5: "-inf"}
STEPS = range(1, 21)
SCALARS = sorted(
    [("gradients/conv/norm", step, step / 7) for step in STEPS]
    + [("odd/values", step, ODD.get(step, 0.5)) for step in STEPS]
    + [("epoch/train/loss", step // 4, 1 / step) for step in STEPS if step % 4 == 0]
    + [("epoch/validation/loss", step // 4, 2 / step) for step in STEPS if step % 4 == 0],
    key=str,
)
HISTOGRAMS = [
    ("gradients/conv", step, [0, step, 2 * step, 3 * step], [-2 / step, -1 / step, 0, 1 / step, 2 / step])
    for step in STEPS
]
TEXTS = [("note", step, f"after {step}") for step in STEPS if step % 4 == 0]
IMAGES = [(tag, step, step) for tag in ("feature_maps/grey", "filters") for step in STEPS if step % 4 == 0]


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """Trackers stay on this machine, and find no settings of its user."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in ("TRACKIO_DIR", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)


def need(name):
    if name in ("wandb", "trackio", "mlflow"):
        pytest.importorskip(name, reason=REASON)


def run(script, *arguments):
    """Run `script` in a process of its own; its exit code and standard output."""
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode in (0, -signal.SIGKILL), ended.stderr[-3000:]
    return ended.returncode, ended.stdout


def train(name, folder, last=0, flushed=""):
    return run(f"SETTINGS = {SETTINGS}\n{TRAINING}", name, folder, last, flushed)[0]


def words(value):
    return value if np.isfinite(value) else str(float(value))


def grey(png):
    """The value that all pixels of an image have."""
    pixels = np.array(Image.open(io.BytesIO(png)).convert("RGB"))
    assert pixels.shape == (2, 3, 3)
    assert pixels.min() == pixels.max()
    return int(pixels.min())


def read_folder(folder):
    lines = [json.loads(line) for line in (folder / "watch.jsonl").read_text().splitlines()]
    return {
        "scalars": [(line["tag"], line["step"], line["value"]) for line in lines if "value" in line],
        "texts": [(line["tag"], line["step"], line["text"]) for line in lines if "text" in line],
        "histograms": [
            (tag, h.step, h.counts.tolist(), h.edges.tolist())
            for tag, read in read_histograms(folder).items()
            for h in read
        ],
        # the newest of each tag
        "images": [(tag, 20, grey((folder / f"{tag}.png").read_bytes())) for tag in ("feature_maps/grey", "filters")],
        "config": json.loads((folder / "config.json").read_text()),
    }


def read_tensorboard(folder):
    import tensorflow as tf
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    read = {"scalars": [], "texts": [], "histograms": [], "images": [], "config": None}
    runs = {path.parent for path in (folder / "tensorboard").rglob("*tfevents*")}
    assert {path.name for path in runs} == {"tensorboard", "train", "validation"}
    for run_folder in runs:
        board = EventAccumulator(str(run_folder), size_guidance={"tensors": 0})
        board.Reload()
        assert not any(board.Tags()[kind] for kind in ("images", "histograms", "scalars"))
        for tag in board.Tags()["tensors"]:
            metadata = board.SummaryMetadata(tag)
            kind = metadata.plugin_data.plugin_name
            full = tag if run_folder.name == "tensorboard" else f"epoch/{run_folder.name}/{tag.removeprefix('epoch_')}"
            for event in board.Tensors(tag):
                value = tf.make_ndarray(event.tensor_proto)
                if kind == "scalars":
                    read["scalars"].append((full, event.step, words(float(value))))
                elif kind == "text":
                    read["texts"].append((full, event.step, value.item().decode()))
                elif kind == "histograms":
                    left, right, counts = value.T
                    read["histograms"].append((full, event.step, counts.tolist(), [*left.tolist(), right[-1]]))
                    assert left[1:].tolist() == right[:-1].tolist()
                elif kind == "images":
                    width, height, png = value.tolist()
                    assert (width, height) == (b"3", b"2")
                    read["images"].append((full, event.step, grey(png)))
            if kind == "hparams":
                content = plugin_data_pb2.HParamsPluginData.FromString(metadata.plugin_data.content)
                values = content.session_start_info.hparams
                read["config"] = {
                    name: value.string_value if value.HasField("string_value") else value.number_value
                    for name, value in values.items()
                }
    return read


def read_wandb(folder):
    """By the files of its starts, in order; W&B has no reader for Python, so ours reads its records."""
    from kerazoo.callbacks.writers.wandb import read_config, read_history

    read = {"scalars": [], "texts": [], "histograms": [], "images": [], "config": {}}
    paths = sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len({path.name for path in paths}) == 1
    for path in paths:
        read["config"] = read_config(path)
        for row in read_history(path):
            for tag, value in row.items():
                if tag in ("step", "epoch") or tag.startswith("_"):
                    continue
                step = row["epoch" if tag.startswith("epoch/") else "step"]
                if isinstance(value, dict) and value["_type"] == "histogram":
                    read["histograms"].append((tag, step, value["values"], value["bins"]))
                elif isinstance(value, dict):
                    png = (path.parent / "files" / value["path"]).read_bytes()
                    read["images"].append((tag, step, grey(png)))
                elif isinstance(value, str) and tag == "note":
                    read["texts"].append((tag, step, value))
                else:
                    read["scalars"].append((tag, step, words(float(value))))
    return read


READ_TRACKIO = """
    import json, trackio
    [run] = trackio.Api().runs("kerazoo")
    rows = trackio.SQLiteStorage.get_logs("kerazoo", run.name, run_id=run.id)
    config = {key: value for key, value in run.config.items() if not key.startswith("_")}
    print(json.dumps([run.name, rows, config], default=str))
"""


def read_trackio(folder):
    """In a process of its own: Trackio's store is chosen as it is imported."""
    os.environ["TRACKIO_DIR"] = str(folder / "trackio")  # taken back by the fixture
    name, rows, config = json.loads(run(READ_TRACKIO)[1].splitlines()[-1])
    assert name == "one run"
    read = {"scalars": [], "texts": [], "histograms": [], "images": [], "config": config}
    for row in rows:
        for tag, value in row.items():
            if tag in ("step", "timestamp"):
                continue
            kind = value.get("_type", "") if isinstance(value, dict) else ""
            if kind == "trackio.histogram":
                read["histograms"].append((tag, row["step"], value["values"], value["bins"]))
            elif kind == "trackio.image":
                png = (folder / "trackio" / "media" / value["file_path"]).read_bytes()
                read["images"].append((tag, row["step"], grey(png)))
            elif kind == "trackio.markdown":
                read["texts"].append((tag, row["step"], value["_value"]))
            else:
                read["scalars"].append((tag, row["step"], words(float(value))))
    return read


READ_MLFLOW = """
    import json, sys
    from mlflow import MlflowClient
    client = MlflowClient(f"sqlite:///{sys.argv[1]}/mlflow.db")
    [run] = client.search_runs([client.get_experiment_by_name("kerazoo").experiment_id])
    assert (run.info.run_name, run.info.status) == ("one run", "FINISHED")
    metrics = [
        (key, metric.step, metric.value)
        for key in run.data.metrics
        for metric in client.get_metric_history(run.info.run_id, key)
    ]
    print(json.dumps([metrics, run.data.params, client.download_artifacts(run.info.run_id, "")]))
"""


def read_mlflow(folder):
    """In a process of its own: MLflow's libraries warn of one another."""
    metrics, params, place = json.loads(run(READ_MLFLOW, folder)[1].splitlines()[-1])
    kept = Path(place)
    histograms = [record for path in sorted(kept.glob("histograms/*.npz")) for record in decode(path.read_bytes())]
    return {
        "scalars": [tuple(metric) for metric in metrics],
        "texts": [
            (str(path.parent.relative_to(kept / "texts")), int(path.stem), path.read_text())
            for path in kept.glob("texts/**/*.txt")
        ],
        "histograms": [(tag, h.step, h.counts.tolist(), h.edges.tolist()) for tag, h in histograms],
        "images": [
            (path.name.split("+")[0].replace("~", "/"), int(path.name.split("+")[2]), grey(path.read_bytes()))
            for path in kept.glob("images/*.png")
        ],
        "config": params,
    }


READERS = {
    "folder": read_folder, "tensorboard": read_tensorboard, "wandb": read_wandb, "trackio": read_trackio,
    "mlflow": read_mlflow,
}  # fmt: skip
CONFIGS = {"folder": SETTINGS, "wandb": SETTINGS, "trackio": SETTINGS, "tensorboard": FLAT}
CONFIGS["mlflow"] = {name: str(value) for name, value in FLAT.items()}


def check_all(name, folder):
    """What `name` has of TRAINING is all of it, once."""
    read = READERS[name](folder)
    assert read["config"] == CONFIGS[name]
    expected = SCALARS
    if name == "mlflow":  # its rule for what is infinite
        largest = {"inf": float(np.finfo(np.float64).max), "-inf": -float(np.finfo(np.float64).max)}
        expected = [(tag, step, largest.get(value, value)) for tag, step, value in SCALARS]
        read["scalars"] = [(tag, step, value if value == value else "nan") for tag, step, value in read["scalars"]]
    exact = name != "tensorboard"  # where numbers are float32
    values = [
        (tag, step, value if exact or isinstance(value, str) else pytest.approx(value, rel=1e-7))
        for tag, step, value in expected
    ]
    assert sorted(read["scalars"], key=lambda row: str(row[:2])) == sorted(values, key=lambda row: str(row[:2]))
    assert sorted(read["histograms"]) == HISTOGRAMS
    assert sorted(read["texts"], key=str) == sorted(TEXTS, key=str)
    newest = [image for image in IMAGES if image[1] == 20]
    assert sorted(read["images"]) == sorted(newest if name == "folder" else IMAGES)


SLOW = {"mlflow": pytest.mark.slow}  # its store takes ten seconds; test_mlflow_s_limits_are_kept asks it, too


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in NAMES])
def test_what_was_written_is_read_back(name, tmp_path):
    need(name)
    assert train(name, tmp_path) == 0
    check_all(name, tmp_path)


# the slow ones take half a minute each: four processes that import a tracker
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "folder" else pytest.mark.slow) for name in NAMES]
)
def test_after_kills_nothing_is_missing_and_nothing_is_there_twice(name, tmp_path):
    """Killed three steps after a checkpoint with all of them kept, then with what happened to be, then again."""
    need(name)
    for last, flushed in ((8, "flushed"), (9, ""), (19, "flushed")):
        assert train(name, tmp_path, last, flushed) == -signal.SIGKILL
    assert train(name, tmp_path) == 0
    check_all(name, tmp_path)


@pytest.mark.parametrize("name", ["folder", pytest.param("tensorboard", marks=pytest.mark.slow)])
def test_a_training_that_was_not_resumed_begins_anew(name, tmp_path):
    """And leaves the files of others where they are."""
    other = tmp_path / "tensorboard" / "events.out.tfevents.1.other"
    assert train(name, tmp_path, 3, "flushed") == -signal.SIGKILL
    if name == "tensorboard":
        other.write_bytes(b"")
    assert train(name, tmp_path) == 0
    assert name == "folder" or other.exists()
    check_all(name, tmp_path)


def test_tags_can_be_written_once_more(tmp_path):
    """As the levels of a fine-tuning, where the run was killed after they were drawn."""
    for _ in range(2):
        writer = open_writers(["tensorboard"], tmp_path, "run")
        writer.rewind(10, 2)
        writer.remove("epoch/kept/")
        for step in (0, 2):
            writer.scalar("epoch/kept/loss", 0.5, step)
        writer.scalar("norm", 0.5, 11)
        writer.finish()
    lines = [json.loads(line) for line in (tmp_path / "watch.jsonl").read_text().splitlines()]
    assert [(line["tag"], line["step"]) for line in lines] == [
        ("epoch/kept/loss", 0), ("epoch/kept/loss", 2), ("norm", 11)
    ]  # fmt: skip
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "tensorboard" / "kept")).Reload()
    assert [event.step for event in board.Tensors("epoch_loss")] == [0, 2]


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_a_tracker_that_is_not_installed_is_said_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError) as caught:
        open_writers([name], tmp_path, "run")
    assert str(caught.value) == f"{name} is not installed; pip install 'kerazoo[{name}]'"


def test_unknown_trackers_are_refused_with_the_nearest(tmp_path):
    with pytest.raises(InputError) as caught:
        open_writers(["mlflow", "Tensorbord"], tmp_path, "run")
    assert str(caught.value) == (
        "there is no tracker 'Tensorbord'; the nearest is tensorboard, and all are tensorboard, wandb, trackio, mlflow"
    )
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_said_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError) as caught:
        FolderWriter(tmp_path / "file" / "log")
    assert str(caught.value) == (
        f"the log folder {tmp_path / 'file' / 'log'} cannot be written: Not a directory; choose another one"
    )


def test_importing_the_callbacks_imports_no_tracker():
    run(
        """
        import sys, kerazoo.callbacks
        assert {*kerazoo.callbacks.__all__} <= set(dir(kerazoo.callbacks))
        kerazoo.callbacks.FolderWriter
        heavy = {"tensorflow", "keras", "tensorboard", "wandb", "trackio", "mlflow"} & set(sys.modules)
        assert not heavy, heavy
        """
    )


def test_every_public_name_is_where_it_says():
    import kerazoo.callbacks

    assert set(kerazoo.callbacks.PLACES) == set(kerazoo.callbacks.__all__)
    for name in kerazoo.callbacks.__all__:
        assert getattr(kerazoo.callbacks, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        kerazoo.callbacks.Nothing  # noqa: B018


class Failing(FolderWriter):
    """Its numbers cannot be written; it counts how often it is asked, and finished."""

    asked = finished = 0

    def scalar(self, tag, value, step):
        self.asked += 1
        raise RuntimeError("no more\nof this")

    def finish(self):
        self.finished += 1
        super().finish()


def test_a_writer_that_fails_is_finished_and_left_out_by_all(tmp_path, caplog):
    caplog.set_level("INFO", "kerazoo")
    bad, good = Failing(tmp_path / "bad"), FolderWriter(tmp_path / "good")
    first = GuardedWriter([bad, good])
    second = GuardedWriter(first)
    for writer in (first, second):
        writer.scalar("a", 1.0, 1)
        writer.image("grey", np.zeros((2, 2), np.uint8), 1)
    second.finish()
    assert (bad.asked, bad.finished) == (1, 1)
    assert [record.message for record in caplog.records] == ["Failing stopped: no more; training continues without it"]
    assert len((tmp_path / "good" / "watch.jsonl").read_text().splitlines()) == 2


def test_tags_name_files_below_the_folder(tmp_path):
    for tag in ("feature_maps/conv 1", "a.b-c_d", "übung"):
        assert path_of(tag) == tag
    odd = ["../../x", "/x", "a/../x", "a:b", "a_b", "a.", "a", ".a", "", "a\x00b", "é" * 200, "é" * 201]
    paths = [path_of(tag) for tag in odd]
    assert len(set(paths)) == len(odd)
    for path in paths:
        file = (tmp_path / f"{path}.png").resolve()
        assert file.is_relative_to(tmp_path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")


def test_settings_are_flattened():
    assert flatten(SETTINGS) == FLAT
    assert flatten({"a": {}, "b": {"c": {"d": True}}, "e": Path("x")}) == {"a": "{}", "b.c.d": True, "e": '"x"'}


def test_blocks_of_histograms_are_small_and_keep_all(tmp_path):
    edges = np.linspace(-1, 1, 65)
    records = [
        ("a", Histogram(1, np.arange(64), edges)),
        ("b/c", Histogram(2, np.array([0.5, 1e9]), np.array([-np.inf, 0, np.inf]))),
        ("a", Histogram(3, np.zeros(0, int), np.zeros(1))),
    ]
    for (tag, one), (other, two) in zip(decode(encode(records)), records, strict=True):
        assert (tag, one.step) == (other, two.step)
        np.testing.assert_array_equal(one.counts, two.counts)
        np.testing.assert_array_equal(one.edges, two.edges)
    assert list(decode(encode([]))) == []
    many = [("a", Histogram(step, np.arange(64) % 7, edges)) for step in range(1000)]
    assert len(encode(many)) < 64_000  # a byte each, before they are compressed


def test_a_damaged_block_is_left_out(tmp_path, caplog):
    caplog.set_level("INFO", "kerazoo")
    writer = FolderWriter(tmp_path)
    for step in (1, 2, 3):
        writer.histogram("a", np.ones(2, int), np.arange(3.0), step)
        writer.flush()
    damaged = tmp_path / "histograms" / "000002.npz"
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert [h.step for h in read_histograms(tmp_path)["a"]] == [1, 3]
    writer.rewind(2, 0)
    writer.finish()
    assert [path.name for path in sorted((tmp_path / "histograms").iterdir())] == ["000001.npz", "000002.npz.damaged"]
    assert len(caplog.records) == 2


def test_what_is_no_image_or_histogram_is_refused(tmp_path):
    writer = FolderWriter(tmp_path)
    with pytest.raises(ValueError, match=r"must be uint8, \(H, W\) or \(H, W, 3\), got float64, \(2, 2\)"):
        writer.image("a", np.zeros((2, 2)), 1)
    with pytest.raises(ValueError, match="one edge more than counts, got 2 and 2 of a"):
        writer.histogram("a", np.zeros(2), np.zeros(2), 1)
    writer.finish()


def test_a_wandb_file_is_read_up_to_where_it_is_torn(tmp_path):
    need("wandb")
    from kerazoo.callbacks.writers.wandb import read_history

    assert train("wandb", tmp_path) == 0
    [path] = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    whole = path.read_bytes()
    rows = list(read_history(path))
    sizes = []
    for amount in range(0, len(whole), 997):
        path.write_bytes(whole[:amount])
        part = list(read_history(path))
        assert part == rows[: len(part)]
        sizes.append(len(part))
    assert sizes == sorted(sizes)
    assert sizes[0] == 0 < sizes[-1]


def test_wide_histograms_get_fewer_bins_for_wandb():
    need("wandb")
    from kerazoo.callbacks.writers.wandb import WandbWriter

    counts = np.arange(1025)
    kept = WandbWriter()._histogram(counts, np.linspace(0, 1, 1026))
    assert len(kept.histogram) == 257
    assert sum(kept.histogram) == counts.sum()
    assert (kept.bins[0], kept.bins[-1], kept.bins[1]) == (0, 1, pytest.approx(4 / 1025))


@pytest.mark.slow  # a store of its own
def test_mlflow_s_limits_are_kept(tmp_path):
    need("mlflow")
    script = """
        import sys
        from kerazoo.callbacks.writers.mlflow import MlflowWriter
        from mlflow import MlflowClient
        writer = MlflowWriter("exp", name="it's", folder=sys.argv[1])
        writer.config({"long": "x" * 7000, **{f"key {n}": n for n in range(150)}})
        for step in range(1, 1201):
            writer.scalar("a/../b:c/[odd]", step, step)
        writer.finish()
        again = MlflowWriter("exp", name="it's", folder=sys.argv[1])
        again.config({"long": "other", "new": 1})
        again.rewind(1200, 1)
        again.scalar("a/../b:c/[odd]", 1, 1201)
        again.finish()
        client = MlflowClient(writer.tracking_uri)
        [run] = client.search_runs([client.get_experiment_by_name("exp").experiment_id])
        assert run.data.params == {"long": "x" * 6000, "new": "1", **{f"key {n}": str(n) for n in range(150)}}
        [key] = run.data.metrics
        assert key == "a/b_c/_odd_"
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, key)]
        assert sorted(steps) == list(range(1, 1202))
    """
    run(script, tmp_path)


def test_a_tracker_that_is_not_installed_is_refused_before_a_run_begins(tmp_path, monkeypatch):
    images = make_images(tmp_path / "data", count=8, size=16)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"^wandb is not installed; pip install 'kerazoo\[wandb\]'$"):
        kerazoo.train("mlp", images, size=8, epochs=1, log=["weights"], to=["wandb"], root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_part_that_a_tracker_needs_is_named_with_its_extra(monkeypatch, tmp_path):
    pytest.importorskip("mlflow", reason="an extra")
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(InputError, match=r"^sqlalchemy is not installed; pip install 'kerazoo\[mlflow\]'$"):
        MlflowWriter(folder=tmp_path)
