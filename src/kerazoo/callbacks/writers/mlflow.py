"""A writer for MLflow."""

import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kerazoo.callbacks.writers.histograms import Histogram, decode, encode
from kerazoo.callbacks.writers.pictures import check_pixels
from kerazoo.callbacks.writers.settings import flatten
from kerazoo.callbacks.writers.tags import counts_epochs, is_kept, path_of
from kerazoo.callbacks.writers.trackers import KeptRun, require

# MLflow's rules
MOST_METRICS, MOST_PARAMS = 1000, 100  # in one call
LONGEST_KEY, LONGEST_VALUE = 250, 6000
FORBIDDEN = re.compile(r"[^\w/.\- ]")

BLOCK = 100  # steps of histograms in one file
SECONDS = 10.0  # after which metrics are in the store, for a page that is open


class MlflowWriter:
    """Writes to MLflow: numbers as metrics, settings as params; histograms, images and texts as artifacts.

    - Settings are flat, with dots, and cut at MLflow's limits.
    - `histograms/step-000000.npz` (or `epoch-...`) holds those of 100 steps, as `FolderWriter` writes them.
    - Images are those of MLflow's image grid; `texts/TAG/STEP.txt` are the texts.
    - MLflow keeps an infinite number as the largest float.

    A resumed training goes on with the run whose id is in `folder`, or without a folder with the newest of its name.
    What the store has of it is not written again: nothing is missing and nothing is there twice.

    Args:
        experiment: Experiment in MLflow, which is made if it is missing.
        name: Name of the run. By default MLflow invents one.
        tracking_uri: The store. By default `MLFLOW_TRACKING_URI`, or else `mlflow.db` (SQLite) in `folder`, or in the
            current folder, with artifacts in `mlartifacts` beside it.
        folder: Where the store is, if no other is named, and the id of the run, in `mlflow-run.json`.

    Example:
    ```python
    writer = MlflowWriter(experiment="flowers", name="first", folder="log")
    model.fit(x, y, callbacks=[GradientLogger(writer, every=10)])
    writer.finish()
    ```
    """

    def __init__(
        self,
        experiment: str = "kerazoo",
        *,
        name: str | None = None,
        tracking_uri: str | None = None,
        folder: str | Path | None = None,
    ) -> None:
        self._mlflow = require("mlflow", extra="mlflow")
        require("sqlalchemy", extra="mlflow")
        self.experiment = experiment
        self.name = name
        self.folder = None if folder is None else Path(folder)
        self._artifacts: str | None = None
        self.tracking_uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or self._local_store()
        self._kept = KeptRun(self.folder, "mlflow")
        self._settings: dict[str, Any] = {}
        self._client: Any = None
        self._run_id = ""
        self._metrics: list[Any] = []
        self._sent = time.monotonic()
        self._landed: set[tuple[str, int]] = set()
        self._blocks: dict[str, _Block] = {}

    def _local_store(self) -> str:
        folder = (self.folder or Path()).absolute()
        self._artifacts = (folder / "mlartifacts").as_uri()
        return f"sqlite:///{folder / 'mlflow.db'}"

    def config(self, values: Mapping[str, Any]) -> None:
        """See Writer. A setting that a run has is not changed: MLflow refuses that."""
        self._settings = {_key(name): str(value)[:LONGEST_VALUE] for name, value in flatten(values).items()}
        if self._client is not None:
            self._write_settings()

    def scalar(self, tag: str, value: float, step: int) -> None:
        """See Writer."""
        key = _key(tag)
        if not self._is_new(key, step):
            return
        self._metrics.append(self._mlflow.entities.Metric(key, float(value), int(time.time() * 1000), int(step)))
        if len(self._metrics) >= MOST_METRICS or time.monotonic() - self._sent > SECONDS:
            self._send()

    def histogram(self, tag: str, counts: np.ndarray, edges: np.ndarray, step: int) -> None:
        """See Writer."""
        self._begin()
        axis = "epoch" if counts_epochs(tag) else "step"
        block = self._blocks.get(axis)
        if block is None or block.number != step // BLOCK:
            self._write_blocks(axis)
            block = self._blocks[axis] = _Block(axis, step // BLOCK)
        block.records.append((tag, Histogram(int(step), np.array(counts), np.array(edges))))
        block.written = False

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """See Writer."""
        check_pixels(pixels)
        key = _image_key(tag)
        if self._is_new(f"{IMAGES}/{key}", step):
            self._client.log_image(
                self._run_id, Image.fromarray(np.array(pixels)), key=key, step=int(step), synchronous=True
            )

    def text(self, tag: str, text: str, step: int) -> None:
        """See Writer."""
        self._begin()
        self._client.log_text(self._run_id, text, f"texts/{path_of(tag)}/{step}.txt")

    def _is_new(self, key: str, step: int) -> bool:
        self._begin()
        return (key, step) not in self._landed

    def _begin(self, *, resume: bool = False) -> None:
        """Begin a run, or go on with the one there is."""
        if self._client is not None:
            return
        with _quiet():
            client = self._mlflow.MlflowClient(self.tracking_uri)
            known = client.get_experiment_by_name(self.experiment)
            experiment = known.experiment_id if known else client.create_experiment(self.experiment, self._artifacts)
        run_id = self._find(client, experiment) if resume else None
        if run_id is None:
            run_id = client.create_run(experiment, run_name=self.name).info.run_id
        else:
            client.update_run(run_id, status="RUNNING")
        self._kept.write(run_id=run_id)
        self._client = client
        self._run_id = run_id
        self._write_settings()

    def _find(self, client: Any, experiment: str) -> str | None:
        """The id of the run to go on with."""
        run_id = self._kept.read().get("run_id")
        if run_id is None and self.name is not None:
            name = self.name.replace("'", "\\'")
            query = f"attributes.run_name = '{name}'"
            found = client.search_runs([experiment], query, max_results=1, order_by=["attributes.start_time DESC"])
            run_id = found[0].info.run_id if found else None
        return run_id

    def _write_settings(self) -> None:
        known = self._client.get_run(self._run_id).data.params if self._settings else {}
        params = [self._mlflow.entities.Param(key, value) for key, value in self._settings.items() if key not in known]
        for first in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(self._run_id, params=params[first : first + MOST_PARAMS])

    def _send(self) -> None:
        metrics, self._metrics = self._metrics, []
        self._sent = time.monotonic()
        for first in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(self._run_id, metrics=metrics[first : first + MOST_METRICS])

    def _write_blocks(self, axis: str = "") -> None:
        for block in self._blocks.values():
            if block.written or (axis and axis != block.axis):
                continue
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / block.name
                path.write_bytes(encode(block.records))
                self._client.log_artifact(self._run_id, str(path), HISTOGRAMS)
            block.written = True

    def flush(self) -> None:
        """Have in the store what was written."""
        if self._client is not None:
            self._send()
            self._write_blocks()

    def rewind(self, step: int, epoch: int) -> None:
        """Go on with the run there is; of what it has, nothing is written again."""
        if self._client is not None:
            return
        self._begin(resume=True)
        self._landed = self._read(step)
        self._take_blocks(step, epoch)

    def _take_blocks(self, step: int, epoch: int) -> None:
        """Go on with the histograms of the newest block; later ones are written anew."""
        names = {Path(info.path).name for info in self._client.list_artifacts(self._run_id, HISTOGRAMS)}
        for axis, at in (("step", step), ("epoch", epoch)):
            block = _Block(axis, at // BLOCK)
            if block.name in names:
                with tempfile.TemporaryDirectory() as folder:
                    path = self._client.download_artifacts(self._run_id, f"{HISTOGRAMS}/{block.name}", folder)
                    records = list(decode(Path(path).read_bytes()))
                block.records = [record for record in records if is_kept(record[0], record[1].step, step, epoch)]
                self._blocks[axis] = block

    def _read(self, step: int) -> set[tuple[str, int]]:
        """The (key, step) that the run has, but for those that do not come again after `step`."""
        landed = {
            (key, metric.step)
            for key in self._client.get_run(self._run_id).data.metrics
            for metric in self._client.get_metric_history(self._run_id, key)
            if metric.step > step or counts_epochs(key)
        }
        for info in self._client.list_artifacts(self._run_id, IMAGES):
            if match := IMAGE_NAME.fullmatch(Path(info.path).name):
                landed.add((f"{IMAGES}/{match[1].replace('#', '/').replace('~', '/')}", int(match[2])))
        return landed

    def finish(self) -> None:
        """See Writer."""
        if self._settings:
            self._begin()
        if self._client is not None:
            self.flush()
            self._client.set_terminated(self._run_id)


HISTOGRAMS, IMAGES = "histograms", "images"  # folders of artifacts; the second is MLflow's
IMAGE_NAME = re.compile(r"(.*)[+%]step[+%](\d+)[+%]timestamp[+%].*\.png")


class _Block:
    """Histograms of BLOCK steps, which are written anew as they grow, so that a resumed training ends with the same."""

    def __init__(self, axis: str, number: int) -> None:
        self.axis = axis
        self.number = number
        self.records: list[tuple[str, Histogram]] = []
        self.written = True

    @property
    def name(self) -> str:
        return f"{self.axis}-{self.number * BLOCK:06d}.npz"


def _key(tag: str) -> str:
    """`tag` as the name of a metric or a param."""
    parts = [part for part in FORBIDDEN.sub("_", tag).split("/") if part not in ("", ".", "..")]
    return "/".join(parts)[:LONGEST_KEY] or "_"


def _image_key(tag: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_\-./ ]", "_", tag)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines of the tables that a new store makes."""
    loggers = [logging.getLogger(name) for name in ("mlflow.store.db.utils", "alembic")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
