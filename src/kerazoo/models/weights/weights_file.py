"""Read weights files from unknown sources safely: a separate process with a time limit reads them first.

About one damaged HDF5 file in some hundreds makes the HDF5 library hang or crash, and a small compressed file may
contain gigabytes of zeros. `h5_copy.py`, a process that imports only h5py (0.2-0.4 s), therefore reads names and shapes
first. It reads the arrays only if the network has as many numbers, and writes them to a clean copy, which this process
reads.
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
PATIENCE = 30.0  # seconds for an empty file
RATE = 10_000_000  # bytes a second from a slow disk, for the rest of the time limit
MEMORY = 256_000_000  # bytes besides two copies of the arrays
WIDEST = 8  # bytes of the largest number type
LEFT = 1_000_000  # bytes; a disk with less free space may have been too full for a copy
SPARE = 100_000  # numbers besides the weights: seeds, and a first convolution for other channels

Shape = tuple[int, ...]


@dataclass(frozen=True)
class WeightsFile:
    """The content of a weights file: the names and shapes of its arrays, including those of an optimizer.

    `legacy` is whether it has the format of the published files. `copy` is the clean copy, or None if none was made.
    """

    legacy: bool
    arrays: tuple[tuple[str, Shape], ...]
    copy: Path | None = None

    @property
    def numbers(self) -> int:
        """The total number of numbers in all arrays."""
        return sum(math.prod(shape) for _, shape in self.arrays)

    def weights(self) -> list[Shape]:
        """The sorted shapes of the weights, without those of an optimizer and of seeds."""
        return sorted(
            shape for name, shape in self.arrays if not name.startswith("optimizer") and "seed_generator" not in name
        )


def look_into(path: Path) -> WeightsFile:
    """The content of the file at `path`. It reads no array. Raises DamagedError."""
    return _read(path, Path(os.devnull), -1)


@contextmanager
def copy_of(path: Path, numbers: int) -> Iterator[WeightsFile]:
    """The content of the file at `path`, with a clean copy if it has at most `numbers` numbers.

    Raises DamagedError, or WeightsError if there is not enough space for the copy.
    """
    with tempfile.TemporaryDirectory(prefix="kerazoo-weights-", ignore_cleanup_errors=True) as folder:
        size = min(path.stat().st_size, numbers * WIDEST)
        _check_room(folder, path, size)
        try:
            file = _read(path, Path(folder) / "copy", numbers)
        except DamagedError:
            _check_room(
                folder, path, max(size, LEFT)
            )  # a compressed file needs more space, and other programs write there, too
            raise
        yield file


def _check_room(folder: str, path: Path, size: int) -> None:
    """Raise WeightsError if `folder` does not have `size` bytes of free space for a copy of `path`."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise WeightsError(
            f"a copy of {path} needs at least {format_bytes(size)}, but {tempfile.gettempdir()} has only "
            f"{format_bytes(free)} free; free some disk space, or set TMPDIR to another folder"
        )


def load_whole(model: "keras.Model", path: Path) -> None:
    """Load the weights in `path`, a `.weights.h5` of the same network, into `model`. Raises WeightsError."""
    try:
        with copy_of(path, numbers_of(model) + SPARE) as file:
            wanted = sorted(tuple(weight.shape) for weight in model.weights)
            if file.copy is None or file.legacy or file.weights() != wanted:
                raise WeightsError(
                    f"the weights in {path} do not fit {model.name}: their {len(file.weights())} arrays have other "
                    f"shapes than its {len(wanted)}; use the model.json that was written with them"
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
    """The total number of numbers in the variables of `model`."""
    return sum(math.prod(variable.shape) for variable in model.variables)


def _read(path: Path, copy: Path, numbers: int) -> WeightsFile:
    size = path.stat().st_size
    most = MEMORY + 2 * WIDEST * max(numbers, 0)
    # no HDF5 plugins, and no thread pools, which would use address space
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
        process = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=limit,
            env=os.environ | surroundings, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise DamagedError(f"HDF5 did not finish reading it within {limit:.0f} s") from error
    if process.returncode < 0:
        raise DamagedError(f"HDF5 crashed ({signal.Signals(-process.returncode).name}) while reading it")
    try:
        values: dict[str, Any] = json.loads(process.stdout)
    except ValueError as error:
        raise DamagedError(f"HDF5 cannot read it (exit code {process.returncode})") from error
    if "error" in values:
        raise DamagedError(values["error"])
    arrays = tuple((str(name), tuple(shape)) for name, shape in values["arrays"])
    if not values["copied"]:
        return WeightsFile(values["legacy"], arrays)
    whole_model = any(name.startswith("model_weights/") for name, _ in arrays)
    # Keras distinguishes its two formats by the extension
    named = copy.with_name("copy.h5" if values["legacy"] or whole_model else "copy.weights.h5")
    copy.rename(named)
    return WeightsFile(values["legacy"], arrays, named)
