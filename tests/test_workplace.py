"""Where exports are made: what a killed one left goes with the next; a place that cannot be written to is one line."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kerazoo.errors import KerazooError, RunError
from kerazoo.exports.workplace import workplace

HOLD = """
import pathlib, sys, time
from kerazoo.exports.workplace import workplace
with workplace(pathlib.Path(sys.argv[1])) as folder:
    (folder / "model").mkdir()
    (folder / "model" / "variables").write_text("half")
    print(folder, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_export_left_goes_with_the_next_and_a_living_one_stays(tmp_path):
    root = tmp_path / "saved_models"
    processes = [
        subprocess.Popen([sys.executable, "-c", HOLD, root], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        killed, alive = (Path(process.stdout.readline().strip()) for process in processes)
        processes[0].send_signal(signal.SIGKILL)
        processes[0].wait(timeout=30)
        assert (killed / "model" / "variables").exists()
        with workplace(root) as mine:
            assert sorted(p.name for p in root.iterdir()) == sorted([alive.name, mine.name])
    finally:
        for process in processes:
            process.kill()
            process.communicate(timeout=30)
    with workplace(root) as mine:
        assert list(root.iterdir()) == [mine]
    assert not list(root.iterdir())


def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path):
    with pytest.raises(ZeroDivisionError), workplace(tmp_path / "deep" / "saved_models"):
        raise ZeroDivisionError
    assert not (tmp_path / "deep" / "saved_models").exists()
    with workplace(tmp_path / "kept") as folder:
        (folder / "model").mkdir()
        (folder / "model").rename(tmp_path / "kept" / "model")
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["model"]


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RunError, match=r"file.* must be a folder for exports"), workplace(place):
            pass
    with (
        pytest.raises(KerazooError, match=r"nothing can be written into /proc/exports: .*choose another folder"),
        workplace(Path("/proc/exports")),
    ):
        pass
