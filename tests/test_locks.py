"""Locks: one holder at a time, gone with it; a pipe or a device in the place of a lock is refused, not waited for."""

import errno
import hashlib
import os
import signal
import threading

import pytest

from kerazoo.errors import RunError, WeightsError
from kerazoo.files import NotRegularError, is_locked, locked
from kerazoo.models.weights.download import alone, published_path
from kerazoo.models.weights.published import Published
from kerazoo.runs import locks
from kerazoo.runs.locks import TakenError, remove_left, run_lock

DATA = b"weights" * 1000
ENTRY = Published("vgg16", "made.h5", "", 0, md5=hashlib.md5(DATA).hexdigest())


@pytest.fixture(autouse=True)
def limit():
    """What waits for ever is ended, and its test fails."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits for ever"))
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_one_holder_at_a_time(tmp_path, kind):
    path = tmp_path / "lock"
    if kind == "folder":
        path.mkdir()
    assert not is_locked(path)
    with locked(path) as ours:
        assert ours
        assert is_locked(path)
        with locked(path) as too:
            assert not too
        assert is_locked(path)  # the one that had to go away has let go of nothing
    assert not is_locked(path)


def test_a_lock_is_waited_for_where_it_is_asked(tmp_path):
    order, held, free = [], threading.Event(), threading.Event()

    def hold():
        with locked(tmp_path / "lock") as ours:
            order.append(ours)
            held.set()
            free.wait(5)
            order.append("let go")

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(5)
    threading.Timer(0.1, free.set).start()
    with locked(tmp_path / "lock", wait=True) as ours:
        order.append(ours)
    thread.join(5)
    assert order == [True, "let go", True]


def test_looking_makes_no_lock(tmp_path):
    assert not is_locked(tmp_path / "none" / "lock")
    assert not is_locked(tmp_path / "lock")
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_is_named_and_other_errors_are_errors(tmp_path, monkeypatch, said):
    import fcntl

    def answer(number):
        def refuse(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", refuse)

    answer(errno.ENOLCK)
    with locked(tmp_path / "lock") as ours:
        assert ours
    assert [line for line in said if "lock cannot be locked (No locks available); make sure" in line]
    answer(errno.EIO)
    with pytest.raises(OSError, match="Input/output error"), locked(tmp_path / "lock"):
        pass


def test_pipes_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, word in (("pipe", "a named pipe"), ("zero", "a device")):
        for act in (lambda path: locked(path).__enter__(), is_locked, lambda path: locked(path, wait=True).__enter__()):
            with pytest.raises(NotRegularError, match=f"it is {word}; only regular files and folders can be locked; r"):
                act(tmp_path / name)


def test_a_pipe_in_the_place_of_the_lock_of_a_run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    os.mkfifo(folder / ".lock")
    for act in (lambda: run_lock(folder).__enter__(), lambda: locks.is_locked(folder)):
        with pytest.raises(RunError, match=r"run/\.lock cannot be a lock: it is a named pipe; .*; remove it") as caught:
            act()
        assert not isinstance(caught.value, TakenError)
    left = tmp_path / ".run-new-999999999"
    folder.rename(left)
    remove_left(tmp_path)
    assert left.is_dir()


def test_pipes_in_the_folder_of_weights_and_in_a_mirror(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAZOO_CACHE", str(tmp_path / "cache"))
    folder, mirror = tmp_path / "cache" / "weights", tmp_path / "mirror"
    folder.mkdir(parents=True)
    mirror.mkdir()
    (mirror / "made.h5").write_bytes(DATA)
    for name, message in (
        ("made.h5.lock", "cannot be a lock: it is a named pipe"),
        ("made.h5.part", "must be a regular file"),
    ):
        os.mkfifo(folder / name)
        for source in (str(mirror), "http://127.0.0.1:9"):
            with pytest.raises(WeightsError, match=rf"{name} {message}.*; remove it"):
                published_path("vgg16", mirror=source, entry=ENTRY)
        (folder / name).unlink()
    (mirror / "made.h5").unlink()
    os.mkfifo(mirror / "made.h5")
    with pytest.raises(
        WeightsError, match=r"made\.h5 is not the published file: it is longer .* or not a regular file"
    ):
        published_path("vgg16", mirror=str(mirror), entry=ENTRY)


def test_who_waits_for_a_download_is_told_so(tmp_path, said):
    with alone(tmp_path, ENTRY):
        done = threading.Event()

        def wait():
            with alone(tmp_path, ENTRY):
                done.set()

        thread = threading.Thread(target=wait)
        thread.start()
        thread.join(0.3)
        assert not done.is_set()
        assert said == ["another process is downloading made.h5; waiting for it"]
    thread.join(5)
    assert done.is_set()
