"""Shared by all tests: TensorFlow starts once, in silence, and small real data sets are made on the spot."""

import atexit
import fcntl
import gc
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kerazoo.startup import start_tensorflow

start_tensorflow()

from kerazoo.recipes.recipe import Recipe  # noqa: E402

# the 400,000 objects of TensorFlow's modules live to the end, and networks make many that live for a while
gc.freeze()
gc.set_threshold(10_000, 20, 20)

os.environ["KERAZOO_CACHE"] = tempfile.mkdtemp(prefix="kerazoo-tests-")  # also for the processes that tests start
atexit.register(shutil.rmtree, os.environ["KERAZOO_CACHE"], ignore_errors=True)

# Loggers and findings cost seconds of tracing in each run, a report costs one, and most tests are about something else:
# tests about logging ask for it. test_diagnosis.py sees what a run logs by default, in a process of its own.
Recipe.model_fields["log"].default = []
Recipe.model_fields["findings"].default = False
Recipe.model_fields["report"].default = False
Recipe.model_rebuild(force=True)

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def shared() -> Path:
    """The folder of real data beside the repository; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"the real data sets are not at {SHARED}")
    return SHARED


class Memory:
    """A writer that remembers: (tag, step) -> value."""

    def __init__(self) -> None:
        self.scalars: dict[tuple[str, int], float] = {}
        self.histograms: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}
        self.images: dict[tuple[str, int], np.ndarray] = {}
        self.texts: dict[tuple[str, int], str] = {}
        self.settings: dict[str, object] = {}
        self.rewound: list[tuple[int, int]] = []
        self.finished = False

    def config(self, values):
        self.settings |= values

    def scalar(self, tag, value, step):
        assert (tag, step) not in self.scalars, "written twice"
        self.scalars[tag, step] = value

    def histogram(self, tag, counts, edges, step):
        self.histograms[tag, step] = (counts, edges)

    def image(self, tag, pixels, step):
        self.images[tag, step] = pixels

    def text(self, tag, text, step):
        self.texts[tag, step] = text

    def rewind(self, step, epoch):
        self.rewound.append((step, epoch))

    def finish(self):
        self.finished = True


@contextmanager
def log_lines() -> Iterator[list[str]]:
    """The lines that kerazoo logs within."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    log, keep = logging.getLogger("kerazoo"), Keep()
    level = log.level
    log.addHandler(keep)
    log.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        log.removeHandler(keep)
        log.setLevel(level)


@pytest.fixture
def said() -> Iterator[list[str]]:
    """The lines that kerazoo logs during the test."""
    with log_lines() as lines:
        yield lines


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small export, see `servers.digits`; its run and images are beside saved_models/."""
    from servers import digits

    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # one for all workers
    with (base / "digits.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = base / "digits" / "saved_models" / "digits"
        if (made / "3").is_dir():
            return made
        shutil.rmtree(base / "digits", ignore_errors=True)  # another worker failed in it
        return digits(base / "digits")


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """As in a terminal; the command line's `main` leaves both ignored, as does a shell that starts a job with `&`."""
    yield _usual_signals()
    _usual_signals()


def _usual_signals() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def call(capsys, *words: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of `kerazoo` with these words, in this process."""
    from kerazoo.cli import app

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["kerazoo", *words])
        with pytest.raises(SystemExit) as stop:
            app.main()
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


def make_images(root: Path, *, classes=("circle", "square"), count: int = 12, size: int = 32, seed: int = 0) -> Path:
    """root/CLASS/N.png: bright shapes on noise, learnable in a few steps."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    for index, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 60, (size, size, 3)).astype(np.uint8)
            y, x = rng.integers(size // 3, 2 * size // 3, 2)
            if index % 2:
                shape = (abs(rows - y) < size // 4) & (abs(columns - x) < size // 4)
            else:
                shape = (rows - y) ** 2 + (columns - x) ** 2 < (size // 3) ** 2
            pixels[shape, index % 3] = 220
            Image.fromarray(pixels).save(root / name / f"{number:02d}.png")
    return root


def as_arrays(folder: Path) -> Path:
    """The images of `make_images` as one .npz file beside their folder, for tests that are not about files.

    Every new iterator of a pipeline that decodes files takes TensorFlow 0.2 s and more to set up, and a fine-tuning
    makes many.
    """
    names = sorted(path.name for path in folder.iterdir())
    paths = [path for name in names for path in sorted((folder / name).iterdir())]
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    labels = np.array([names.index(path.parent.name) for path in paths])
    np.savez(folder.with_suffix(".npz"), x_train=pixels, y_train=labels, class_names=np.array(names))
    return folder.with_suffix(".npz")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of two classes with twelve images each."""
    return make_images(tmp_path / "images")


@pytest.fixture
def arrays(images: Path) -> Path:
    """The same images as an .npz file."""
    return as_arrays(images)


def plant_modules(folder: Path) -> Path:
    """A folder of modules with the names of installed ones; each leaves `folder/ran` behind when it is imported."""
    for name in ("tensorflow", "json", "numpy", "sitecustomize", "kerazoo/__init__", "kerazoo/serving/__init__"):
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"open({str(folder / 'ran')!r}, 'a').write({name!r})\n")
    return folder


def change_in_silence(path: Path) -> None:
    """Another image of the same size in bytes, with the old time of change."""
    status = path.stat()
    pixels = 255 - np.asarray(Image.open(path))
    for level in range(10):
        Image.fromarray(pixels).save(path, compress_level=level)
        if path.stat().st_size <= status.st_size:
            break
    path.write_bytes(path.read_bytes().ljust(status.st_size, b"\0"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
