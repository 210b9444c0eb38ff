"""Where the seconds of a run went."""

import json
import subprocess
import sys
import time

import pytest

from kerazoo.cli.tables import timings_table
from kerazoo.runs.timings import REST, spent, timed, timing
from kerazoo.startup import quiet_start, starting, take_start_seconds


def test_a_part_within_a_part_is_counted_once():
    with timing() as timings:
        with timed("outer"):
            time.sleep(0.03)
            for _ in range(2):
                with timed("inner"):
                    time.sleep(0.04)
        time.sleep(0.02)
        whole = timings.whole()
    assert whole["inner"] >= 0.08
    assert 0.03 <= whole["outer"] < whole["inner"]
    assert 0.02 <= whole[REST] < whole["inner"]
    assert list(whole)[1:] == ["outer", "inner", REST]


def test_a_part_that_fails_is_counted_and_closed():
    with timing() as timings:
        with pytest.raises(ValueError, match="no"), timed("a"), timed("b"):
            raise ValueError("no")
        with timed("b"):
            pass
    assert not timings.within
    assert set(timings.seconds) == {"a", "b"}


def test_a_run_within_a_run_counts_for_itself():
    with timing() as outer:
        with timing() as inner, timed("part"):
            time.sleep(0.01)
        assert "part" not in outer.seconds
        assert inner.seconds["part"] >= 0.01
        assert "part" not in spent()
    assert spent() == {}
    with timed("nobody counts"):
        pass


def test_the_start_of_tensorflow_counts_for_the_first_run_alone():
    code = (
        "import time; begin = time.perf_counter(); from kerazoo.startup import start_tensorflow; start_tensorflow();"
        "whole = time.perf_counter() - begin; start_tensorflow(); from kerazoo.runs.timings import Timings;"
        "print(whole, Timings().start, Timings().start)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    whole, first, second = map(float, done.stdout.split())
    assert 0.5 * whole < first < whole + 0.5
    assert second == 0


def test_other_quiet_work_is_no_start():
    take_start_seconds()
    with quiet_start(show=False):
        time.sleep(0.01)
    assert take_start_seconds() == 0
    with starting(), starting():
        time.sleep(0.02)
    assert 0.02 <= take_start_seconds() < 1


@pytest.mark.slow  # a training in a process of its own
def test_the_parts_of_a_run_are_kept_and_told(images, tmp_path, capsys):
    command = [sys.executable, "-m", "kerazoo", "train", "mlp", "--data", str(images), "--epochs", "1", "--name", "one"]
    done = subprocess.run([*command, "--timings", "--json"], capture_output=True, text=True, check=True, cwd=tmp_path)
    parts = json.loads((tmp_path / "runs/one/run.json").read_text())["timings"]
    named = {"starting TensorFlow", "reading the data", "checking and resizing", "training", "saving", "evaluation"}
    assert named | {REST} <= set(parts)
    assert all(seconds >= 0 for seconds in parts.values())
    assert parts["starting TensorFlow"] > 0.3
    assert json.loads(done.stdout)["timings"] == parts
    timings_table({"checking": 3.0, "training": 1.0})
    assert capsys.readouterr().out.splitlines() == [
        f"     3.0 s   75%  checking               {'#' * 30}",
        f"     1.0 s   25%  training               {'#' * 10}",
        "     4.0 s        in all",
    ]
