"""The examples of the guide to callbacks run as they stand, each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "callbacks.md"
EXAMPLES = [part.partition("```")[0] for part in GUIDE.read_text(encoding="utf-8").split("```python\n")[1:]]


def run(code, folder):
    """What `code` prints."""
    environment = {**os.environ, "WANDB_MODE": "offline", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def tags(folder):
    return {json.loads(line)["tag"] for line in (folder / "watch.jsonl").read_text().splitlines()}


def test_there_are_four():
    assert [code.count("fit(") for code in EXAMPLES] == [1] * 4


def test_a_plain_script(tmp_path):
    run(EXAMPLES[0], tmp_path)
    assert {"gradients/conv/kernel/norm", "weights/logits/bias/norm", "feature_maps/conv/dead"} <= {
        tag.replace("sequential/", "") for tag in tags(tmp_path / "log")
    }
    assert (tmp_path / "log" / "feature_maps" / "conv.png").is_file()


@pytest.mark.slow  # test_writers.py reads what TensorBoard has
def test_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(EXAMPLES[1], tmp_path)
    board = EventAccumulator(str(tmp_path / "board"), size_guidance={"tensors": 0})
    board.Reload()
    plugins = {board.SummaryMetadata(tag).plugin_data.plugin_name for tag in board.Tags()["tensors"]}
    assert {"scalars", "histograms", "images"} <= plugins


@pytest.mark.slow  # test_writers.py reads what W&B has
def test_wandb_offline(tmp_path):
    pytest.importorskip("wandb", reason="an extra")
    from kerazoo.callbacks.writers.wandb import read_history

    run(EXAMPLES[2], tmp_path)
    (path,) = (tmp_path / "log" / "wandb").glob("*run-*/*.wandb")
    logged = {tag for row in read_history(path) for tag in row}
    assert {"epoch/train/loss", "gradients/global/norm", "step", "epoch"} <= logged


def test_a_writer_of_ones_own(tmp_path):
    printed = run(EXAMPLES[3], tmp_path)
    assert "step 20: gradients/global/norm = " in printed
    assert "step 40: updates/global/ratio = " in printed
