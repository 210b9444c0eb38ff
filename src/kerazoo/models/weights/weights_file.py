"""Weights files of anybody's: read in a process of its own, which is ended in time, before this one opens anything.

One damaged HDF5 file in some hundreds makes the HDF5 library hang or crash, and a small compressed one may hold
gigabytes of zeros. So `h5_copy.py`, a process that imports h5py alone (0.2-0.4 s), looks at names and shapes first,
reads the arrays only if the network has as many numbers, and writes them to a clean copy. This process reads the copy.
"""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerazoo.errors import WeightsError
from kerazoo.files import DamagedError
from kerazoo.terminal import format_bytes

if TYPE_CHECKING:
    import keras


READER = Path(__file__).with_name("h5_copy.py")
PATIENCE = 30.0  # seconds for a file of no size
RATE = 10_000_000  # bytes that a slow disk gives in a second more
MEMORY = 256_000_000  # bytes beside two copies of the arrays
WIDEST = 8  # bytes of a number
LEFT = 1_000_000  # bytes; a disk with fewer may have been too full for a copy
SPARE = 100_000  # numbers beside the weights: seeds, and a first convolution of other channels

Shape = tuple[int, ...]


@dataclass(frozen=True)
class WeightsFile:
    """What a weights file holds: the names and shapes of its arrays, those of an optimizer among them.

    `legacy`: it has the format of the published files. `copy` is a clean copy, where one was asked for and made.
    """

    legacy: bool
    arrays: tuple[tuple[str, Shape], ...]
    copy: Path | None = None

    @property
    def numbers(self) -> int:
        """How many numbers all arrays hold."""
        return sum(math.prod(shape) for _, shape in self.arrays)

    def weights(self) -> list[Shape]:
        """The shapes of the weights, sorted, without those of an optimizer and without seeds."""
        return sorted(
            shape for name, shape in self.arrays if not name.startswith("optimizer") and "seed_generator" not in name
        )


def look_into(path: Path) -> WeightsFile:
    """What the file at `path` holds; no array is read. Raises DamagedError."""
    return _read(path, Path(os.devnull), -1)


@contextmanager
def copy_of(path: Path, numbers: int) -> Iterator[WeightsFile]:
    """What the file at `path` holds, with a clean copy if that is at most `numbers` numbers.

    Raises DamagedError; WeightsError where there is no room for the copy.
    """
    with tempfile.TemporaryDirectory(prefix="kerazoo-weights-", ignore_cleanup_errors=True) as folder:
        size = min(path.stat().st_size, numbers * WIDEST)
        _check_room(folder, path, size)
        try:
            file = _read(path, Path(folder) / "copy", numbers)
        except DamagedError:
            _check_room(folder, path, max(size, LEFT))  # a compressed file takes more, and others write there, too
            raise
        yield file


def _check_room(folder: str, path: Path, size: int) -> None:
    """Raise WeightsError where `folder` has no room for `size` bytes, of a copy of `path`."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise WeightsError(
            f"a copy of {path} takes {format_bytes(size)} at least, and {tempfile.gettempdir()} has "
            f"{format_bytes(free)} free; make room, or name another folder by TMPDIR"
        )


def load_whole(model: "keras.Model", path: Path) -> None:
    """Fill `model` with the weights in `path`, a `.weights.h5` of the same network. Raises WeightsError."""
    try:
        with copy_of(path, numbers_of(model) + SPARE) as file:
            wanted = sorted(tuple(weight.shape) for weight in model.weights)
            if file.copy is None or file.legacy or file.weights() != wanted:
                raise WeightsError(
                    f"the weights in {path} do not fit {model.name}: they have {len(file.weights())} arrays, of other "
                    f"shapes than its {len(wanted)}; take the model.json that was written with them"
                )
            model.load_weights(file.copy)
    except DamagedError as error:
        raise WeightsError(f"{path} is damaged ({error}); copy it again, or train again") from error
    except WeightsError:
        raise
    except (ValueError, KeyError, OSError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(f"the weights in {path} do not fit {model.name}: {reason}") from error


def numbers_of(model: "keras.Model") -> int:
    """How many numbers the variables of `model` hold."""
    return sum(math.prod(variable.shape) for variable in model.variables)


def _read(path: Path, copy: Path, numbers: int) -> WeightsFile:
    size = path.stat().st_size
    most = MEMORY + 2 * WIDEST * max(numbers, 0)
    # no plugins of HDF5, and no pool of threads that takes address space
    surroundings = {"HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    limit = PATIENCE + size / RATE
    command: list[str | Path] = [
        sys.executable,
        "-P",
        str(READER),
        path.resolve(),
        copy,
        str(numbers),
        str(most),
        str(int(limit) + 1),
    ]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=limit,
            env=os.environ | surroundings, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise DamagedError(f"HDF5 did not finish reading it within {limit:.0f} s") from error
    if done.returncode < 0:
        raise DamagedError(f"HDF5 crashed ({signal.Signals(-done.returncode).name}) while reading it")
    try:
        values: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise DamagedError(f"HDF5 cannot read it (exit code {done.returncode})") from error
    if "error" in values:
        raise DamagedError(values["error"])
    arrays = tuple((str(name), tuple(shape)) for name, shape in values["arrays"])
    if not values["copied"]:
        return WeightsFile(values["legacy"], arrays)
    whole_model = any(name.startswith("model_weights/") for name, _ in arrays)
    # Keras tells its two formats by the ending
    named = copy.with_name("copy.h5" if values["legacy"] or whole_model else "copy.weights.h5")
    copy.rename(named)
    return WeightsFile(values["legacy"], arrays, named)
