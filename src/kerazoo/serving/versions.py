"""Which version of an export is served: the highest that is whole, as long as its folder is there.

A version is loaded and warmed beside the one that is served, then takes its place. Requests that have begun end with
the version that they began with. A version that is not whole or was changed is refused, and looked at again when its
files change.
"""

import gc
import logging
import math
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kerazoo.errors import KerazooError, RunError, is_out_of_memory
from kerazoo.exports.formats.table import SAVED_MODEL_FORMAT
from kerazoo.exports.layout import WARM_UP, is_version
from kerazoo.serving.codes import NOT_FOUND, RequestError
from kerazoo.serving.limits import Limits
from kerazoo.serving.model import ServedModel

log = logging.getLogger("kerazoo")

POLL = 1.0  # seconds between two looks at the folder
AGAIN = 10.0  # seconds until a version is tried again that a lack of memory or a disk refused
LARGEST = 2**63 - 1  # of a version
Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class State:
    """The state of a version, in TensorFlow Serving's words, with the error that ended it."""

    version: int
    state: str
    code: str = "OK"
    message: str = ""


class Versions:
    """The versions in `folder`, or only the one called `pinned`. `load` must come first."""

    def __init__(
        self, folder: Path, limits: Limits, *, format: str = SAVED_MODEL_FORMAT, pinned: int | None = None
    ) -> None:
        self.folder = folder
        self.name = Path(os.path.abspath(folder)).name  # noqa: PTH100 - as it was named: a link has its own name
        self._limits = limits
        self._format = format
        self._pinned = pinned
        self._states: dict[int, State] = {}
        self._refused: dict[int, Stamp] = {}
        self._again: dict[int, float] = {}
        self._seen: dict[int, Stamp] = {}
        self._current: ServedModel | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def current(self) -> ServedModel:
        """The version that is served."""
        if self._current is None:
            raise RequestError(f"Servable not found for request: Latest({self.name})", NOT_FOUND)
        return self._current

    def find(self, name: str, version: int | None = None, label: str = "") -> ServedModel:
        """The served version, if it is what a request asks for. Raises RequestError, in TensorFlow Serving's words."""
        if not name:
            raise RequestError("ModelSpec has no name specified.")
        if label:
            raise RequestError(f"Unrecognized servable version label: {label}")
        current = self._current
        if name != self.name or current is None or version not in (None, current.version):
            wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise RequestError(f"Servable not found for request: {wanted}", NOT_FOUND)
        return current

    def states(self, name: str, version: int | None = None) -> list[State]:
        """The states of all versions that were looked at, the newest first. Raises RequestError if there are none."""
        found = sorted(self._states.values(), key=lambda one: -one.version) if name == self.name else []
        if version is not None:
            found = [one for one in found if one.version == version]
            if not found:
                raise RequestError(f"Could not find version {version} of model {name}", NOT_FOUND)
        if not found:
            raise RequestError(f"Could not find any versions of model {name}", NOT_FOUND)
        return found

    def load(self) -> None:
        """Load the highest version that is whole. Raises RunError, with the reasons, if there is none."""
        errors = self._refresh(stable=False)
        if self._current is None:
            reasons = "; ".join(errors) or "it has no version: a folder whose name is a number"
            raise RunError(f"{self.folder} cannot be served: {reasons}")

    def watch(self) -> None:
        """Look at the folder from now on, in a thread."""
        self._thread = threading.Thread(target=self._watch, name="versions", daemon=True)
        self._thread.start()

    def trouble(self) -> str:
        """What is wrong with the thread that looks at the folder; "" if nothing is."""
        dead = self._thread is not None and not self._thread.is_alive() and not self._stop.is_set()
        return "the thread that looks for new versions ended" if dead else ""

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()

    def join(self) -> None:
        """Wait for the thread that looks, which may be loading a version."""
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        before = ""
        while not self._stop.wait(POLL):
            reason = ""
            try:
                self._refresh(stable=True)
            except OSError as error:  # a folder that cannot be read now may be readable later
                reason = error.strerror or str(error)
            if reason and reason != before:
                log.warning(f"{self.folder}: {reason}; version {self.current.version} goes on")
            before = reason

    def _refresh(self, *, stable: bool) -> list[str]:
        """Serve the highest version that can be; with `stable`, only one whose files did not change since last time."""
        folders = dict(self._found())
        stamps = {version: tuple(_stamps(folder)) for version, folder in folders.items()}
        errors = []
        for version in sorted(stamps, reverse=True):
            stamp, before = stamps[version], self._seen.get(version)
            if self._current is not None and version == self._current.version:
                break
            is_refused = self._refused.get(version) == stamp and time.monotonic() < self._again.get(version, math.inf)
            if is_refused or (stable and stamp != before):
                continue
            reason, passes = self._serve(version, folders[version])
            if not reason:
                break
            self._refused[version] = stamp
            self._again[version] = time.monotonic() + (AGAIN if passes else math.inf)
            errors.append(reason)
        self._seen = stamps
        return errors

    def _found(self) -> Iterator[tuple[int, Path]]:
        for folder in sorted(self.folder.iterdir()):
            if is_version(folder.name) and folder.is_dir() and self._pinned in (None, int(folder.name)):
                yield int(folder.name), folder

    def _serve(self, version: int, folder: Path) -> tuple[str, bool]:
        """Load a version and serve it. Returns why not, or "", and whether that may pass without a change of files."""
        before = self._states.get(version)
        self._states[version] = State(version, "LOADING")
        try:
            model = ServedModel(folder, self._limits, self._format, name=self.name)
            warm_up(model)
        except Exception as error:
            if not isinstance(error, KerazooError | OSError | RequestError) and not is_out_of_memory(error):
                log.warning(f"version {version} cannot be loaded: {type(error).__name__}: {error}")
            reason = f"{error}" or type(error).__name__
            public = reason.replace(str(folder), f"version {version}")
            refused = State(version, "END", "FAILED_PRECONDITION", public)
            self._states[version] = refused
            if refused != before:
                goes_on = f"; version {self._current.version} goes on" if self._current is not None else ""
                log.warning(f"version {version} is refused: {reason}{goes_on}")
            return reason, isinstance(error, OSError) or is_out_of_memory(error)
        gc.collect()
        gc.freeze()  # what is loaded stays: the collector need not look at it again and again
        old, self._current = self._current, model
        self._states[version] = State(version, "AVAILABLE")
        if old is not None:
            self._states[old.version] = replace(self._states[old.version], state="END")
            log.info(f"version {version} is served now, in place of version {old.version}")
        return "", False


def warm_up(model: ServedModel) -> None:
    """Answer the warm-up requests of an export. Raises RequestError if one cannot be answered."""
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    file = model.folder / WARM_UP
    if not file.is_file():
        return
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        request = PredictionLog.FromString(record).predict_log.request
        signature = request.model_spec.signature_name
        if signature in model.definitions:
            ((_, tensor),) = request.inputs.items()
            model.finish(model.prepare(signature, np.asarray(tf.make_ndarray(tensor))))


def _stamps(folder: Path) -> Iterator[tuple[str, int, int]]:
    for path in sorted(folder.rglob("*")):
        try:
            about: Any = path.stat()
        except OSError:  # it was just removed
            continue
        if path.is_file():
            yield str(path), about.st_size, about.st_mtime_ns
