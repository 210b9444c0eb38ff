"""Where a run's network looked in an image, from a child process, because a server of exports has no keras.

The child reads encoded images from standard input and writes answers to standard output. A message is its length, in 8
bytes, and its bytes; the first byte of an answer is its kind.
"""

import io
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from kerazoo.errors import DataError, KerazooError, RunError
from kerazoo.files import read_json
from kerazoo.models.saved import DESCRIPTION
from kerazoo.startup import fresh_python, start_tensorflow

log = logging.getLogger("kerazoo")

SECONDS = 60  # for one picture, and the start of the child before the first
PICTURE, REFUSED, FAILED = b"p", b"r", b"f"
LENGTH = 8  # bytes
# the server has the GPU, if there is one; TensorFlow would take all of its memory
ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}


class Looking:
    """Grad-CAM pictures from the run in `folder`, one at a time. The child process starts with the first question.

    A child that ended is replaced at the next question. `seconds` is the most that a question takes; then its child is
    ended. `weights` is the hash of the run's weights. Raises RunError if the run cannot be read.
    """

    def __init__(self, folder: str | Path, *, seconds: float = SECONDS) -> None:
        self.folder = Path(folder).absolute()
        self.weights = str(read_json(self.folder / DESCRIPTION).get("weights_sha256"))
        self.seconds = seconds
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._messages: IO[bytes] | None = None  # the child's standard error
        self._closed = False

    def png(self, image: bytes) -> bytes:
        """PNG of what the network sees of an encoded image, under a heat map for its most probable class.

        For a regression, the map is for its first number. Raises DataError if the image cannot be decoded, and
        KerazooError if there is no answer.
        """
        if not self._lock.acquire(timeout=self.seconds):
            raise KerazooError(f"Grad-CAM is busy with other images since {self.seconds:g} s; try again later")
        try:
            kind, content = self._ask(image)
        finally:
            self._lock.release()
        if kind == PICTURE:
            return content
        words = content.decode("utf-8")
        raise DataError(words) if kind == REFUSED else KerazooError(words)

    def close(self) -> None:
        """End the child, even while it answers. Later questions raise KerazooError."""
        self._closed = True
        child = self._child
        if child is not None:
            child.kill()  # a question that waits for it gets an error, and lets go of the lock
        with self._lock:
            self._end()

    def _ask(self, image: bytes) -> tuple[bytes, bytes]:
        if self._child is None or self._child.poll() is not None:
            self._end()
            self._start()
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        if self._closed:  # looked up after the start, so that either this or `close` ends the child
            self._end()
            raise KerazooError("Grad-CAM has ended with the server")
        begin = time.monotonic()
        watch = threading.Timer(self.seconds, child.kill)
        watch.start()
        try:
            with suppress(BrokenPipeError):  # it ended, and has no answer
                _send(child.stdin, image)
            answer = _receive(child.stdout)
        finally:
            watch.cancel()
        if answer:
            return answer[:1], answer[1:]
        reason = self._end()
        if time.monotonic() - begin >= self.seconds:
            reason = f"it took more than {self.seconds:g} s"
        raise KerazooError(f"Grad-CAM has no answer: {reason}")

    def _start(self) -> None:
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `_end`
        self._child = subprocess.Popen(
            fresh_python(__name__, "answer", str(self.folder)), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._messages, env={**os.environ, **ENVIRONMENT}, start_new_session=True,
        )  # fmt: skip

    def _end(self) -> str:
        """End the child, if there is one; why it ended, if by itself."""
        child, messages = self._child, self._messages
        self._child = self._messages = None
        if child is None or messages is None:
            return ""
        code = child.poll()
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            with suppress(OSError):  # what it did not read
                assert pipe is not None
                pipe.close()
        messages.seek(0)
        lines = messages.read().decode("utf-8", "replace").strip().splitlines()
        messages.close()
        if code is None or code < 0:
            return f"its process was ended by signal {-child.returncode}"
        return lines[-1] if lines else f"its process ended with {code}"


def looking_of(passport: Mapping[str, Any], run: Path | None = None) -> Looking | None:
    """Grad-CAM by the run that a passport names, below runs/, if it is there; or by `run`.

    Raises RunError if `run` has other weights.
    """
    folder = run or Path("runs") / str(passport.get("run"))
    if not (folder / DESCRIPTION).is_file():
        return None
    try:
        looking = Looking(folder)
    except RunError as error:
        if run is not None:
            raise
        log.warning(f"there is no Grad-CAM: {error}")
        return None
    if looking.weights == passport.get("weights_sha256"):
        return looking
    if run is not None:
        raise RunError(f"{run} is not the run of this export: it has other weights; leave --run out, or name the run")
    return None


def answer(folder: str) -> None:
    """Answer images until standard input ends. The child process runs this."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    try:
        look = _looker(Path(folder))
    except KerazooError as error:
        look = _failing(str(error))
    while (image := _receive(sys.stdin.buffer)) is not None:
        try:
            reply = PICTURE + look(image)
        except DataError as error:
            reply = REFUSED + str(error).encode()
        except KerazooError as error:
            reply = FAILED + str(error).encode()
        _send(answers, reply)


def _looker(folder: Path) -> Callable[[bytes], bytes]:
    """The function from an encoded image to a PNG. Raises RunError and WeightsError if the run cannot be loaded."""
    start_tensorflow()
    from PIL import Image

    from kerazoo.insight.grad_cam import overlay
    from kerazoo.serving.run_network import RunNetwork

    network = RunNetwork(folder)
    zoom = network.zoom

    def look(image: bytes) -> bytes:
        pixels = network.read(image)
        prepared = network.prepared(pixels)
        heat = network.heat(prepared, network.answer(prepared))
        png = io.BytesIO()
        Image.fromarray(overlay(pixels.repeat(zoom, axis=0).repeat(zoom, axis=1), heat)).save(png, "PNG")
        return png.getvalue()

    return look


def _failing(reason: str) -> Callable[[bytes], bytes]:
    def look(image: bytes) -> bytes:
        raise KerazooError(reason)

    return look


def _send(pipe: IO[bytes], message: bytes) -> None:
    pipe.write(len(message).to_bytes(LENGTH, "big"))
    pipe.write(message)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes | None:
    """The next message; None if the other side ended."""
    length = pipe.read(LENGTH)
    if len(length) < LENGTH:
        return None
    size = int.from_bytes(length, "big")
    message = pipe.read(size)
    return message if len(message) == size else None
