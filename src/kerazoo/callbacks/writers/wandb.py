"""A writer for Weights & Biases."""

import json
import netrc
import os
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from kerazoo.callbacks.writers.pictures import finite_edges
from kerazoo.callbacks.writers.rows import RowWriter
from kerazoo.callbacks.writers.tags import counts_epochs
from kerazoo.callbacks.writers.trackers import KeptRun, require

SECONDS = 0.1  # after which W&B writes its file
MOST_BINS = 512  # of a histogram, by W&B's rules
HEADER, BLOCK = 7, 32_768  # bytes, of the log format of LevelDB that W&B's files have


class WandbWriter(RowWriter):
    """Writes to Weights & Biases by `log` alone; the values of a step are one row.

    The x-axis of tags is `step`, the batches trained so far, and of tags that begin with `epoch/` it is `epoch`.
    `WANDB_MODE=offline` writes files, which `wandb sync` uploads later.

    A resumed training goes on with the run whose id is in `folder`, and skips what W&B's files there have of it:
    nothing is missing, and nothing is there twice. Each start has a file of its own with the same id; `wandb sync`
    uploads them in order. Without `folder` it begins another run.

    Args:
        project: Project in W&B.
        name: Name of the run. By default W&B invents one.
        folder: Where W&B keeps its files, in `wandb/`, and the id of the run in `wandb-run.json`.
        init: Other arguments of `wandb.init`, as `mode`, `entity`, `tags` or `group`.

    Example:
    ```python
    writer = WandbWriter(project="flowers", name="first", folder="log", mode="offline")
    model.fit(x, y, callbacks=[GradientLogger(writer, every=10)])
    writer.finish()
    ```
    """

    def __init__(
        self, project: str = "kerazoo", *, name: str | None = None, folder: str | Path | None = None, **init: Any
    ) -> None:
        super().__init__()
        self._wandb = require("wandb", extra="wandb")
        self.project = project
        self.name = name
        self.folder = None if folder is None else Path(folder)
        self.init = init  # arguments of `wandb.init`
        self._kept = KeptRun(self.folder, "wandb")
        self._run: Any = None
        self._logged = False  # since the last time that all was kept

    def _begin(self, settings: dict[str, Any], *, resume: bool) -> None:
        kept = self._kept.read() if resume else {}
        init: dict[str, Any] = {"config": settings, "reinit": "create_new", **self.init}
        settings_of_wandb = init.get("settings") or {}
        if isinstance(settings_of_wandb, Mapping):
            # with a console of its own, W&B would stand between the terminal and progress bars
            settings_of_wandb = self._wandb.Settings(**{"console": "off", "quiet": True, **settings_of_wandb})
        settings_of_wandb.x_transaction_log_flush_interval = SECONDS
        init["settings"] = settings_of_wandb
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            init.setdefault("dir", str(self.folder))
        if "id" in kept:
            init |= {"id": kept["id"], "resume": "allow"}
        self._run = self._wandb.init(project=self.project, name=self.name, **init)
        self._kept.write(id=self._run.id)
        for axis in ("step", "epoch"):
            self._run.define_metric(axis)
        self._run.define_metric("*", step_metric="step")
        self._run.define_metric("epoch/*", step_metric="epoch")

    def _read(self) -> set[tuple[str, int]]:
        if self.folder is None:
            return set()
        paths = sorted((self.folder / "wandb").glob(f"*run-*-{self._run.id}/run-{self._run.id}.wandb"))
        rows = (row for path in paths for row in read_history(path))
        return {
            (tag, int(row["epoch" if counts_epochs(tag) else "step"]))
            for row in rows
            for tag in row
            if ("epoch" if counts_epochs(tag) else "step") in row and not tag.startswith("_")
        }

    def _log(self, axis: str, at: int, row: dict[str, Any]) -> None:
        self._run.log({axis: at, **row})
        self._logged = True

    def _settle(self) -> None:
        if self._logged:
            self._logged = False
            self._run.status()  # is answered after what was sent before has come to W&B's process
            time.sleep(2.5 * SECONDS)  # which dies with this one, and writes what it has by its clock

    def _end(self) -> None:
        self._run.finish()

    def _histogram(self, counts: np.ndarray, edges: np.ndarray) -> Any:
        edges = finite_edges(edges)
        while len(counts) > MOST_BINS:  # two neighbors become one
            counts = np.add.reduceat(counts, np.arange(0, len(counts), 2))
            edges = np.append(edges[:-1:2], edges[-1])
        return self._wandb.Histogram(np_histogram=(counts, edges))

    def _image(self, image: Image.Image) -> Any:
        return self._wandb.Image(image)

    def _text(self, text: str) -> Any:
        return text


def read_history(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The rows that were logged into a `.wandb` file, up to where it is torn; W&B has no reader for Python."""
    for record in _records(path):
        if record.WhichOneof("record_type") == "history":
            yield _values(record.history.item)


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings in a `.wandb` file."""
    config: dict[str, Any] = {}
    for record in _records(path):
        if record.WhichOneof("record_type") == "run":
            config |= _values(record.run.config.update)
    return {name: value for name, value in config.items() if name != "_wandb"}


def _values(items: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in items:  # a histogram is several: {"_type": ..., "values": ..., "bins": ...}
        *above, key = item.nested_key or [item.key]
        within = values
        for name in above:
            within = within.setdefault(name, {})
        within[key] = json.loads(item.value_json)
    return values


def _records(path: str | os.PathLike[str]) -> Iterator[Any]:
    record_type = require("wandb.proto.wandb_internal_pb2", extra="wandb").Record
    for data in _parts(Path(path).read_bytes()):
        yield record_type.FromString(data)


def _parts(data: bytes) -> Iterator[bytes]:
    """The records of a file in the log format of LevelDB, whose parts lie in blocks, each after a header."""
    position = HEADER  # of the file
    parts: list[bytes] = []
    while position + HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:  # a header does not cross two blocks
            position += left
            continue
        checksum, size, kind = struct.unpack_from("<IHB", data, position)
        part = data[position + HEADER : position + HEADER + size]
        if len(part) < size or zlib.crc32(part, zlib.crc32(bytes([kind]))) != checksum:
            return
        position += HEADER + size
        parts.append(part)
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def is_logged_in() -> bool:
    """Whether W&B can log in: by a key or a token in the environment, or by a key that `wandb login` kept."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
