"""Run folders: by which recipe they go on, who takes which number, what killed processes leave, who is answered."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import make_images

from kerazoo import api
from kerazoo.callbacks.stopping import StopOnNaN
from kerazoo.cli import app as cli
from kerazoo.cli import train as cli_runs
from kerazoo.cli.signals import stoppable
from kerazoo.errors import Interrupted, RunError
from kerazoo.files import read_json, write_json
from kerazoo.pipelines.data.load import load_examples
from kerazoo.recipes.recipe import make_recipe
from kerazoo.runs import run as runs
from kerazoo.runs.begin import choose_folder, started
from kerazoo.runs.locks import remove_left, run_lock
from kerazoo.runs.run import Run, unfinished
from kerazoo.training import train as training
from kerazoo.training.train import train
from kerazoo.transfer import passes
from kerazoo.transfer.finetune import finetune

NOBODY = 2**22 + 1  # above the largest number of a process


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("data") / "shapes")


def recipe_for(data, *settings, **values):
    return make_recipe(
        {"model": {"name": "mlp"}, "data": {"path": str(data)}, "training": {"epochs": 2, "batch_size": 8}, **values},
        ["log=[]", *settings],
    )


@pytest.fixture(scope="module")
def stopped(data, tmp_path_factory):
    """A run that was stopped in its second epoch."""
    root = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            StopOnNaN, "on_epoch_begin", lambda self, epoch, logs: epoch and os.kill(os.getpid(), signal.SIGTERM)
        )
        with pytest.raises(Interrupted):
            train(recipe_for(data), name="one", root=root)
    return root / "one"


@pytest.fixture
def cut(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "runs" / "one")


def edit(folder, old, new):
    path = folder / "recipe.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_an_edited_recipe_is_not_gone_on_with(data, cut):
    edit(cut, "batch_size = 8", "batch_size = 4")
    said = r"recipe.toml was edited after the run started \(training.batch_size: 8 -> 4\), .*; undo the edit, or"
    with pytest.raises(RunError, match=said):
        unfinished(cut)
    for recipe in (recipe_for(data), Run(cut).recipe):
        with pytest.raises(RunError, match=said):
            choose_folder(recipe, "mlp-shapes", name="one", root=cut.parent)


def test_an_edited_recipe_is_no_run_of_the_same_recipe(data, cut):
    numbered = cut.rename(cut.parent / "mlp-shapes-1")
    assert choose_folder(Run(numbered).recipe, "mlp-shapes", name=None, root=cut.parent) == numbered
    edit(numbered, "seed = 0", "seed = 1")
    assert choose_folder(Run(numbered).recipe, "mlp-shapes", name=None, root=cut.parent).name == "mlp-shapes-2"


def test_comments_in_a_recipe_may_change(cut):
    edit(cut, "seed = 0", "seed = 0  # the first")
    assert unfinished(cut).folder == cut


def test_a_checkpoint_of_another_recipe_is_refused(data, cut):
    """Also where the record in run.json was made to follow the edit."""
    edit(cut, "seed = 0", "seed = 1")
    state = read_json(cut / "run.json")
    del state["recipe"]
    write_json(cut / "run.json", {**state, "recipe_sha256": runs.sha256(cut / "recipe.toml")})
    run = unfinished(cut)
    with pytest.raises(RunError, match="was made by another recipe; resume with what it was begun with"):
        train(run.recipe, name="one", root=cut.parent)


def test_a_run_of_an_older_version_goes_on(cut):
    state = read_json(cut / "run.json")
    write_json(cut / "run.json", {key: state[key] for key in state if not key.startswith("recipe")})
    assert unfinished(cut).folder == cut


def test_two_runs_at_once_take_two_numbers(data, tmp_path):
    """Both were told the same free number before either of them had made its folder."""
    recipe, examples = recipe_for(data), load_examples(data)
    told = choose_folder(recipe, "mlp-shapes", name=None, root=tmp_path)
    with (
        started(told, recipe, examples, numbered=True) as first,
        started(told, recipe, examples, numbered=True) as second,
    ):
        assert (first.name, second.name) == ("mlp-shapes-1", "mlp-shapes-2")
        assert choose_folder(recipe, "mlp-shapes", name=None, root=tmp_path).name == "mlp-shapes-3"  # both are held
    with started(told, recipe, examples), pytest.raises(RunError, match="by another process"):
        started(told, recipe, examples).__enter__()


def many(data, root, barrier, names):
    examples, recipe = load_examples(data), recipe_for(data)
    told = choose_folder(recipe, "mlp-shapes", name=None, root=root)
    barrier.wait()
    with started(told, recipe, examples, numbered=True) as run:
        names.put(run.name)
        barrier.wait()


def test_processes_at_once_take_a_number_each(data, tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, names = context.Barrier(8), context.Queue()
    processes = [context.Process(target=many, args=(data, tmp_path, barrier, names)) for _ in range(8)]
    for process in processes:
        process.start()
    found = [names.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert sorted(found) == [f"mlp-shapes-{number}" for number in range(1, 9)]


def test_what_killed_processes_left_is_removed(data, tmp_path):
    dead = [tmp_path / f".one-{what}-{NOBODY}" for what in ("new", "old")]
    alive = tmp_path / f".one-new-{os.getppid()}"
    for folder in (*dead, alive, tmp_path / ".one-new-notes"):
        folder.mkdir()
        (folder / "run.json").write_text("{}")
    with started(tmp_path / "one", recipe_for(data), load_examples(data)) as run:
        (run.folder / "evaluation").mkdir()
        (run.folder / "evaluation" / "val.npy.77.tmp").write_bytes(b"half")
    assert not any(folder.exists() for folder in dead)
    assert alive.exists()
    assert (tmp_path / ".one-new-notes").exists()
    with started(tmp_path / "one", recipe_for(data), load_examples(data)):
        assert not list(tmp_path.rglob("*.tmp"))


def test_a_folder_that_another_machine_makes_is_left_alone(tmp_path):
    making = tmp_path / f".one-new-{NOBODY}"
    making.mkdir()
    with run_lock(making):
        remove_left(tmp_path)
        assert making.exists()
    remove_left(tmp_path)
    assert not making.exists()


def test_a_run_that_was_not_reported_answers_the_same_command(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "RUNS", tmp_path)
    where = {"root": tmp_path}
    recipe = recipe_for(data, "training.epochs=1")
    with monkeypatch.context() as patch:
        patch.setattr(cli_runs, "report", lambda run, as_json: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit, match="143"), cli.stoppable():
            cli_runs.report(api.train(recipe, reported=False, **where), False)
    made = tmp_path / "mlp-shapes-1"
    assert Run(made).status == "finished"
    before = {path.name: path.stat().st_mtime_ns for path in made.iterdir()}
    with pytest.raises(RunError, match="is finished and has another recipe"):
        choose_folder(recipe_for(data), "mlp-shapes", name=made.name, root=tmp_path)
    cli_runs.report(api.train(recipe, reported=False, **where), False)
    assert f"{made} is finished after" in capsys.readouterr().out
    after = {path.name: path.stat().st_mtime_ns for path in made.iterdir()}
    assert [name for name in after if after[name] != before[name]] == ["run.json"]
    with pytest.raises(RunError, match="exists and is finished"):
        api.train(recipe, reported=False, name=made.name, **where)
    assert choose_folder(recipe, "mlp-shapes", name=None, root=tmp_path).name == "mlp-shapes-2"


SLOW = pytest.mark.slow  # fine-tunings and a half like the first


@pytest.mark.parametrize(
    "where", ["features", pytest.param("evaluation", marks=SLOW), pytest.param("probe", marks=SLOW)]
)
def test_a_signal_outside_of_fit_marks_the_run(data, tmp_path, monkeypatch, where):
    from kerazoo.transfer import head

    def asked(*args, **options):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setenv("KERAZOO_CACHE", str(tmp_path / "cache"))
    place = {
        "features": (passes.FrozenPass, "__call__"),
        "probe": (head, "learn_probe"),
        "evaluation": (training, "evaluate_model"),
    }
    recipe = make_recipe(
        {
            "model": {"name": "bottleneck_cnn"}, "data": {"path": str(data), "size": 28, "channels": 1},
            "transfer": {"weights": "mnist"}, "training": {"epochs": 0},
        },
        ["log=[]"],
    )  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(*place[where], asked)
        with pytest.raises(SystemExit, match="143"), cli.stoppable():
            finetune(recipe, name="one", root=tmp_path)
    assert Run(tmp_path / "one").status == "interrupted"
    assert finetune(recipe, name="one", root=tmp_path).status == "finished"


@pytest.mark.parametrize(
    ("number", "ends"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)], ids=["SIGTERM", "Ctrl-C"]
)
def test_a_signal_that_a_destructor_swallows_comes_again(number, ends):
    """TensorFlow's destructors run at any moment, and Python prints and forgets what is raised in one."""

    class Swallows:
        def __del__(self):
            os.kill(os.getpid(), number)

    def work():
        Swallows()
        time.sleep(10)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the processes of pytest-xdist ignore it
    try:
        with pytest.raises(ends), stoppable():
            work()
    finally:
        signal.signal(signal.SIGINT, before)


AT_THE_END = """
import atexit, os, signal, sys
from kerazoo.cli import app as cli

number, when = int(sys.argv[1]), sys.argv[2]
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
sys.argv[1:] = ["models", "--filter", "mlp"]

def stop(*arguments, kill=os.kill, me=os.getpid(), **options):
    kill(me, number)

class Last:
    __del__ = stop  # when modules go, after Python has put its handlers away

def app(usual=cli.app, **options):
    try:
        usual(**options)
    finally:
        stop()

if when == "command": cli.app = app
if when == "atexit": atexit.register(stop)
if when == "modules": last = Last()
try:
    cli.main()
finally:
    if when == "main": stop()
"""


@pytest.mark.parametrize("when", ["command", "main", "atexit", "modules"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_at_the_very_end_changes_no_exit_code(number, when):
    """It ended the process by -15 or with a traceback, after the work was done."""
    command = [sys.executable, "-c", AT_THE_END, str(int(number)), when]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("mlp ")
    if when == "command":  # asked to stop before the exit code was settled
        assert (done.returncode, done.stderr) == (128 + number, "kerazoo: `kerazoo models` was stopped\n")
    else:
        assert (done.returncode, done.stderr) == (0, "")


PULL = [sys.executable, "-m", "kerazoo", "weights", "fetch", "mobilenet_025"]


@pytest.mark.parametrize("first", [False, True], ids=["a process", "the first process of a container"])
def test_sigterm_ends_a_download_in_one_line(tmp_path, first):
    """A server that never answers; no process but the first of a container ignores a signal without a handler."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        mirror = f"http://127.0.0.1:{server.getsockname()[1]}"
        environment = {
            **os.environ,
            "KERAZOO_CACHE": str(tmp_path),
            "KERAZOO_WEIGHTS_MIRROR": mirror,
            "KERAS_HOME": str(tmp_path),
        }
        unshare = ["unshare", "--pid", "--fork", "--kill-child"] if first else []
        if first and subprocess.run([*unshare, "true"], capture_output=True).returncode:
            pytest.skip("no namespace of processes can be made here")
        process = subprocess.Popen([*unshare, *PULL], env=environment, stderr=subprocess.PIPE, text=True)
        server.settimeout(60)
        with server.accept()[0]:
            target = process.pid
            if first:
                children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
                target = int(children.stdout)
            os.kill(target, signal.SIGTERM)
            said = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 143
    assert said[-1] == "kerazoo: `kerazoo weights` was stopped"
    assert "Traceback" not in "".join(said)
