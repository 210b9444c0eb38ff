"""Several workers by the real command: what docs/clusters.md says to type, and a worker that is lost."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import free_ports

from kerazoo.callbacks.checkpoints import newest_checkpoint
from kerazoo.files import read_json, write_json

DOCUMENT = Path(__file__).parents[1] / "docs" / "clusters.md"
SMALL = " --epochs 4 --set training.batch_size=5 --set training.drop_last=false --set model.arguments.stem=[4,4]"


def shells(data):
    """The two blocks of "Two plain shells", for this data and ports that are free, in small."""
    section = DOCUMENT.read_text().split("## Two plain shells")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 2
    ports = dict(zip(("29400", "29401"), map(str, free_ports(2)), strict=True))
    for old, new in ports.items():
        blocks = [block.replace(old, new) for block in blocks]
    return [block.strip().replace("--data DATA", f"--data {data}") + SMALL for block in blocks]


def start(blocks, folder):
    """The two shells at work in `folder`; each writes to a file of its own."""
    bin_folder = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    started = []
    for number, block in enumerate(blocks):
        with (folder / f"shell{number}.txt").open("a") as log:
            command = ["bash", "-c", block.replace("kerazoo train", "exec kerazoo train")]
            started.append(subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log))
    return started


def ended(processes, folder, seconds):
    """The exit codes, within `seconds`."""
    try:
        return [process.wait(max(seconds - index, 1)) for index, process in enumerate(processes)]
    except subprocess.TimeoutExpired:
        pytest.fail((folder / "shell0.txt").read_text()[-2000:] + (folder / "shell1.txt").read_text()[-2000:])
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow  # eight processes that each start TensorFlow
def test_no_worker_shows_a_traceback_where_the_first_refuses(images, tmp_path):
    """A run that is finished is refused by all; what only the first looks at ends the others as its loss."""
    run = tmp_path / "runs" / "two-workers"

    def refusal():
        for number in range(2):
            (tmp_path / f"shell{number}.txt").unlink(missing_ok=True)
        codes = ended(start(shells(images), tmp_path), tmp_path, 120)
        said = [(tmp_path / f"shell{number}.txt").read_text() for number in range(2)]
        assert "Traceback" not in said[0] + said[1]
        return codes, said

    assert ended(start(shells(images), tmp_path), tmp_path, 300) == [0, 0]
    codes, said = refusal()
    assert codes == [2, 2], said
    assert all("exists and is finished" in one for one in said)

    state = read_json(run / "run.json")
    write_json(
        run / "run.json", state | {"status": "interrupted", "devices": "others"}
    )  # seen once the network is built
    codes, said = refusal()
    assert codes == [2, 1], said
    assert "its devices was others" in said[0]
    assert "worker 1 of 2 stops: another worker was lost" in said[1]

    write_json(run / "run.json", state | {"status": "interrupted"})
    (run / "recipe.toml").write_text("seed = 3")  # seen before
    codes, said = refusal()
    assert codes == [2, 1], said
    assert "worker 1 of 2 stops: another worker was lost" in said[1]


@pytest.mark.slow  # six processes that each start TensorFlow: two minutes on two cores
def test_two_plain_shells_as_documented_also_when_one_is_lost(images, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    assert ended(start(shells(images), whole), whole, 300) == [0, 0]
    run = whole / "runs" / "two-workers"
    assert read_json(run / "run.json")["status"] == "finished"

    blocks = shells(images)
    processes = start(blocks, cut)
    checkpoints = cut / "runs" / "two-workers" / "checkpoints"
    until = time.monotonic() + 200
    while not list(checkpoints.glob("*.ckpt")) and time.monotonic() < until:
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    codes = ended(processes, cut, 60)
    assert time.monotonic() - killed < 60
    said = (cut / "shell0.txt").read_text()
    if codes[0] == 0:
        pytest.skip("training was done before the worker was lost")
    assert codes == [1, -9], said
    assert "run the same command again on every worker" in said

    assert ended(start(shells(images), cut), cut, 300) == [0, 0]
    assert "goes on from epoch" in (cut / "shell0.txt").read_text()
    other = cut / "runs" / "two-workers"
    one, two = (newest_checkpoint(folder / "checkpoints") for folder in (run, other))
    assert len(one["variables"]) == len(two["variables"])
    for a, b in zip(one["variables"], two["variables"], strict=True):
        for part, same in zip(a, b, strict=True):
            np.testing.assert_array_equal(part, same)
    assert (run / "history.csv").read_text() == (other / "history.csv").read_text()
    assert json.loads((run / "run.json").read_text())["results"] == read_json(other / "run.json")["results"]
