"""Pipes, sockets, devices and unreadable folders by the commands themselves: each ends in time, with one line."""

import os
import signal
import socket

import pytest
from conftest import make_images
from test_cli import call

from kerazoo.errors import RunError
from kerazoo.files import read_json

SECONDS = 20  # of a command that waits for nobody


@pytest.fixture(autouse=True)
def limit():
    """A command that waits for ever is ended, and its test fails."""

    def ended(*_):
        pytest.fail("the command waits for ever")  # no OSError, which a command would take for its own

    before = signal.signal(signal.SIGALRM, ended)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_a_folder_with_pipes_sockets_and_devices(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = make_images(tmp_path / "data", count=4)
    os.mkfifo(data / "circle" / "pipe.jpg")
    (data / "square" / "zero.png").symlink_to("/dev/zero")
    code, out, _ = call(monkeypatch, capsys, "check", "data")
    assert code == 1
    assert "circle/pipe.jpg: it is a named pipe; only regular files are read" in out
    assert "square/zero.png: it is a device; only regular files are read" in out
    for command in (["train", "mlp", "--data", "data"], ["finetune", "data", "--backbone", "mlp", "--weights", "none"]):
        code, out, err = call(monkeypatch, capsys, *command)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert "pipe.jpg" in err or "zero.png" in err


@pytest.mark.parametrize("name", ["recipe.toml", "data.csv", "data.npz", "data.tsv"])
def test_a_pipe_in_the_place_of_a_file(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    os.mkfifo(name)
    given = ["train", name] if name == "recipe.toml" else ["train", "mlp", "--data", name]
    code, out, err = call(monkeypatch, capsys, *given)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert name in err


@pytest.mark.parametrize("name", ["run.json", "data.json", "model.json"])
def test_a_pipe_in_the_place_of_a_file_of_a_run(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(
        RunError, match=rf"{name} cannot be read: it is a named pipe; only regular files are read; rest"
    ):
        read_json(tmp_path / name)


def test_a_table_that_names_a_pipe(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "data", count=4)
    os.mkfifo("pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.jpg")
        for special in ("pipe.jpg", "socket.jpg"):
            rows = [f"data/{kind}/{n:02d}.png,{kind}" for kind in ("circle", "square") for n in range(4)]
            (tmp_path / "table.csv").write_text("\n".join(["path,label", *rows, f"{special},circle"]) + "\n")
            code, out, err = call(monkeypatch, capsys, "train", "mlp", "--data", "table.csv")
            assert (code, out, err.count("\n")) == (2, "", 1), err
            assert special in err
