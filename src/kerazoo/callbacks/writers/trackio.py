"""A writer for Trackio."""

import contextlib
import io
import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kerazoo.callbacks.writers.pictures import finite_edges
from kerazoo.callbacks.writers.rows import RowWriter
from kerazoo.callbacks.writers.trackers import KeptRun, require

log = logging.getLogger("kerazoo")

PLACE = "TRACKIO_DIR"  # read by Trackio when it is imported, and then no more
OWN = {"step", "timestamp"}  # in each row that Trackio gives back


class TrackioWriter(RowWriter):
    """Writes to Trackio, whose store is SQLite on this machine; the values of a step are one row.

    Rows of tags that begin with `epoch/` have the number of finished epochs for a step. A resumed training goes on with
    the run of the same name, and skips what the store has of it: nothing is missing and nothing is there twice.

    Args:
        project: Project in Trackio.
        name: Name of the run. By default Trackio invents one.
        folder: Where Trackio keeps its store; `TRACKIO_DIR=FOLDER trackio show` shows it. A process has one store:
            where Trackio was imported before, that one stays, and the log says so. By default Trackio's own.
        init: Other arguments of `trackio.init`, as `group` or `space_id`.

    Example:
    ```python
    writer = TrackioWriter(project="flowers", name="first")
    model.fit(x, y, callbacks=[GradientLogger(writer, every=10)])
    writer.finish()
    ```
    """

    def __init__(
        self, project: str = "kerazoo", *, name: str | None = None, folder: str | Path | None = None, **init: Any
    ) -> None:
        super().__init__()
        self.project = project
        self.name = name
        self._init: dict[str, Any] = {"auto_log_cpu": False, "auto_log_gpu": False, "embed": False, **init}
        self._kept = KeptRun(None if folder is None else Path(folder), "trackio")
        self._trackio = _import(folder)
        self._run: Any = None

    def _begin(self, settings: dict[str, Any], *, resume: bool) -> None:
        name = self.name or (self._kept.read().get("name") if resume else None)
        settings = {key.lstrip("_"): value for key, value in settings.items()}  # Trackio keeps the others for itself
        # standard output belongs to the program
        with contextlib.redirect_stdout(io.StringIO()):
            self._run = self._trackio.init(
                project=self.project, name=name, config=settings, resume="allow" if resume else "never", **self._init
            )
        self._kept.write(name=self._run.name)

    def _read(self) -> set[tuple[str, int]]:
        rows = self._trackio.SQLiteStorage.get_logs(self.project, self._run.name, run_id=self._run.id)
        return {(tag, int(row["step"])) for row in rows for tag in row if tag not in OWN}

    def _log(self, axis: str, at: int, row: dict[str, Any]) -> None:
        self._run.log(row, step=at)

    def _settle(self) -> None:
        time.sleep(1.0)  # its thread stores every half second; no public name waits for it

    def _end(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            if self._trackio.context_vars.current_run.get() is self._run:
                self._trackio.finish()  # or it is finished, and says so, once more as the process ends
            else:
                self._run.finish()

    def _histogram(self, counts: np.ndarray, edges: np.ndarray) -> Any:
        return self._trackio.Histogram(np_histogram=(counts, finite_edges(edges)))

    def _image(self, image: Image.Image) -> Any:
        return self._trackio.Image(image)

    def _text(self, text: str) -> Any:
        return self._trackio.Markdown(text)


def _import(folder: str | Path | None) -> Any:
    """Trackio, with its store in `folder` where it was not imported before."""
    before = os.environ.get(PLACE)
    if folder is not None:
        os.environ[PLACE] = str(Path(folder).absolute())
    try:
        trackio = require("trackio", extra="trackio")
    finally:
        if before is not None:
            os.environ[PLACE] = before
        elif folder is not None:
            del os.environ[PLACE]
    store = Path(trackio.TRACKIO_DIR)
    if folder is not None and store != Path(folder).absolute():
        log.info(f"Trackio was imported before, and keeps its store: {store}, not {folder}")
    return trackio
