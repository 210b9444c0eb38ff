"""Findings of a run and of a trial before it: kept, shown, read back, and as an exit code."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from typer.testing import CliRunner

import kerazoo
from kerazoo.cli.app import app
from kerazoo.errors import InputError, RunError

LOGGERS = ["gradients", "weights", "feature_maps"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Real digits as an .npz file, and one with 5 % of the labels of train changed; the rows of those."""
    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 8, 8, 1) * 15.9).astype(np.uint8)
    folder = tmp_path_factory.mktemp("digits")
    arrays = {"x_train": x[:1500], "y_train": y[:1500], "x_val": x[1500:], "y_val": y[1500:]}
    np.savez(folder / "digits.npz", **arrays)
    changed = np.random.default_rng(0).choice(1500, 75, replace=False)
    wrong = y[:1500].copy()
    wrong[changed] = (wrong[changed] + 1) % 10
    np.savez(folder / "wrong.npz", **{**arrays, "y_train": wrong})
    return folder, set(changed.tolist())


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    folder, _ = digits
    root = tmp_path_factory.mktemp("runs")
    return kerazoo.train(
        "mlp", folder / "wrong.npz", epochs=6, batch_size=50, learning_rate=0.003, log=LOGGERS,
        settings=["findings=true"], name="wrong", root=root,
    )  # fmt: skip


def test_a_run_shows_the_images_with_wrong_labels(run, digits):
    _, changed = digits
    (finding,) = [one for one in run.findings if one.name == "label_errors"]
    assert finding.severity == "note"
    listed = set(finding.examples)
    assert len(listed & changed) >= 0.9 * len(listed)
    with Image.open(run.folder / "label_errors.png") as image:
        assert image.size == (8 * 9 - 1, -(-len(listed) // 8) * 9 - 1)
    lines = [json.loads(line) for line in (run.folder / "watch.jsonl").read_text().splitlines()]
    (text,) = [line["text"] for line in lines if line["tag"] == "label_errors"]
    assert len(text.splitlines()) == len(listed)


def test_what_a_run_logs_by_default(digits, tmp_path):
    """In a process of its own: the tests' runs log nothing unless they ask for it."""
    folder, _ = digits
    kerazoo_command = Path(sys.executable).with_name("kerazoo")
    command = [kerazoo_command, "train", "cnn", "--data", folder / "digits.npz", "--epochs", "1", "--name", "run"]
    subprocess.run([*command, "--batch-size", "50"], cwd=tmp_path, check=True, capture_output=True)
    made = tmp_path / "runs" / "run"
    lines = [json.loads(line) for line in (made / "watch.jsonl").read_text().splitlines()]
    kinds = {"/".join((line["tag"].split("/")[0], line["tag"].split("/")[-1])) for line in lines}
    assert kinds >= {"gradients/norm", "gradients/max_norm", "updates/ratio", "weights/norm", "feature_maps/dead"}
    assert {"findings.json", "config.json"} <= {path.name for path in made.iterdir()}
    assert list((made / "feature_maps").glob("*.png"))
    assert not (made / "tensorboard").exists()
    assert not (made / "histograms").exists()


def test_findings_are_read_back(run, tmp_path):
    kept = json.loads((run.folder / "findings.json").read_text())["findings"]
    assert [finding.to_json() for finding in run.findings] == kept
    copy = tmp_path / "copy"
    shutil.copytree(run.folder, copy)
    opened = kerazoo.open_run(copy)
    for damaged in ("{", '{"findings": [{}]}', '{"findings": 3}', '{"findings": [{"severity": "bad"}]}', "[]"):
        (copy / "findings.json").write_text(damaged)
        with pytest.raises(RunError, match=r"findings\.json"):
            _ = opened.findings
    (copy / "findings.json").unlink()
    assert opened.findings == []


@pytest.mark.slow  # the command in a process of its own; test_diagnostics.py has the finding
def test_a_rate_that_is_far_too_high_is_found_before_a_run(digits, tmp_path, monkeypatch):
    folder, _ = digits
    monkeypatch.chdir(tmp_path)
    command = ["train", "mlp", "--data", str(folder / "digits.npz"), "--diagnose", "--batch-size", "50", "--lr", "3"]
    for severity, code in (("serious", 1), (None, 0)):
        done = CliRunner().invoke(app, [*command, *(["--fail-on", severity] if severity else []), "--json"])
        assert done.exit_code == code, done.output
        found = json.loads(done.stdout)["findings"]
        assert any(finding["severity"] == "serious" for finding in found)
    assert not (tmp_path / "runs").exists()
    healthy = kerazoo.diagnose("mlp", folder / "digits.npz", batch_size=50, learning_rate=0.003)
    assert not [finding for finding in healthy if finding.severity != "note"]


def test_a_severity_that_is_none_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="the severity must be note, warning or serious, got 'bad'"):
        CliRunner().invoke(app, ["train", "mlp", "--data", "x.npz", "--fail-on", "bad"], catch_exceptions=False)
