"""Findings under `fit`: what is wrong with a training, what it means, and what to change. See `insight/findings`."""

import hashlib
import io
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerazoo.callbacks.evidence import Evidence, are_arrays, array_of
from kerazoo.callbacks.gradients import GradientLogger
from kerazoo.callbacks.series import Series
from kerazoo.callbacks.taps import stale_freeze
from kerazoo.callbacks.writers.writer import GuardedWriter, QuietWriter, Writer
from kerazoo.errors import InputError
from kerazoo.files import write_whole
from kerazoo.insight.findings.finding import FILE, Finding, lines, rank, to_json
from kerazoo.keras_private import all_layers

log = logging.getLogger("kerazoo")

BATCH_FILE = "non_finite_batch.npz"
SAMPLES = 200  # records of gradients that a training of known length gets
PREFIXES = ("gradients/", "updates/", "weights/", "feature_maps/")


class Diagnostics(keras.callbacks.Callback, QuietWriter):  # type: ignore[misc]
    """Looks for known faults of a training, and says at its end what it found, the worst first.

    It observes only: weights, optimizer state and losses are equal, bit for bit, to those of a training without it.
    `findings` is the list at the end, `unseen` says what could not be looked at, and why. Both are printed to the log,
    written as `findings.json` into `folder`, and as the text "findings" to `writer`.

    From the training itself come the loss at the start and at the end, the form of outputs and inputs, gradients and
    updates, the first step that is not finite (with its batch), frozen weights that move, and waiting for data. With
    `data`, some training images, also dead and saturated units, the statistics of batch norm, overfitting and the noise
    scale. With `order`, also label errors. What single steps show needs the TensorFlow backend and one device.

    It is also a writer: `GradientLogger([folder_writer, diagnostics])` gives it what it would log itself; then set
    `own_gradients=False`, so that nothing is computed twice.

    Args:
        writer: A `Writer`, or a list of them, or None.
        folder: Where the file of findings goes, and the batch of the first step that is not finite.
        data: Training images and labels, as two arrays or as batches (any iterable of (x, y)), prepared as for `fit`.
        order: Gives the rows of the training examples in the order of an epoch (from 0): (N,) whole numbers.
        expects: The lowest and the highest value of the inputs that the network is made for, as (-1, 1).
        from_logits: Whether the loss takes logits; None: as it says itself.
        pretrained: Whether the weights at the start are pretrained ones.
        keeps_best: Whether the weights of the best epoch come back at the end.
        show: Called with each finding that names examples, to show them.
        own_gradients: Whether it takes gradients itself.
        every: How often it does, as in `GradientLogger`; None: 200 times in a training.

    Raises:
        InputError: if `data` or `expects` are not of this form.

    Example:
    ```python
    model.fit(x, y, epochs=5, callbacks=[kerazoo.callbacks.Diagnostics(data=(x, y))])
    ```
    """

    def __init__(
        self,
        writer: "Writer | list[Writer] | None" = None,
        *,
        folder: str | Path | None = None,
        data: Any = None,
        order: Callable[[int], np.ndarray] | None = None,
        expects: tuple[float, float] | None = None,
        from_logits: bool | None = None,
        pretrained: bool = False,
        keeps_best: bool = False,
        show: Callable[[Finding], None] | None = None,
        own_gradients: bool = True,
        every: int | str | None = None,
    ) -> None:
        super().__init__()
        if expects is not None and not (len(expects) == 2 and expects[0] < expects[1]):
            raise InputError(f"expects must be two numbers, the lower one first, as (-1, 1); got {expects!r:.80}")
        if data is not None and not (are_arrays(data) or isinstance(data, Iterable)):
            raise InputError(f"data must be two arrays (x, y), or batches of (x, y); got {type(data).__name__}")
        self.writer = None if writer is None else GuardedWriter(writer)
        self.folder = None if folder is None else Path(folder)
        self.data = data
        self.order = order
        self.expects = expects
        self.from_logits = from_logits
        self.pretrained = pretrained
        self.keeps_best = keeps_best
        self.show = show
        self.own_gradients = own_gradients
        self.every = every
        self.findings: list[Finding] = []
        self.unseen: list[str] = []
        self._series = Series(*PREFIXES)
        self._records: Any = None
        self._gradients: GradientLogger | None = None
        self._step = 0
        self._reset()

    def _reset(self) -> None:
        self._val_losses: list[float] = []
        self._last: dict[str, float] = {}  # the newest cross-entropy that is finite
        self._margins = np.zeros((2, 0))  # of each example the sum, and how often it came
        self._margin_epochs = 0
        self._frozen: dict[str, str] | None = None  # path -> SHA-256 of its bytes
        self._first: dict[str, np.ndarray] = {}
        self._resumed = self._within = False  # in an epoch that was begun before; in any epoch

    # -- a writer, for the loggers ----------------------------------------------------------------------------------

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Take what a logger writes."""
        self._series.scalar(tag, value, step)

    def rewind(self, step: int, epoch: int) -> None:
        """See Writer."""
        self._series.rewind(step, epoch)

    # -- a callback -------------------------------------------------------------------------------------------------

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Put the records in place."""
        self._reset()
        self._gradients = self._records = None
        self._series.restore({})
        if stale_freeze(self.model):
            return  # Keras would trace the step anew, and train other weights than without this callback
        if self.own_gradients:
            every = self.every or max((self.params.get("steps") or 50) * self.params.get("epochs", 1) // SAMPLES, 1)
            self._gradients = GradientLogger(self._series, every=every)
            self._gradients.set_params(self.params)
            self._gradients.set_model(self.model)
            self._gradients.on_train_begin()
        strategy = getattr(self.model, "distribute_strategy", None)
        if keras.config.backend() == "tensorflow" and (strategy is None or strategy.num_replicas_in_sync == 1):
            from kerazoo.callbacks.step_records import StepRecords

            count = None if self.order is None else len(self.order(0))
            self._records = StepRecords(self.model, count=count, from_logits=self.from_logits, step=self._step)
            self._records.insert()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keep what the weights are before anything is learned."""
        if self._frozen is None:
            self._frozen = {path: _digest(variable) for path, variable in frozen_variables(self.model).items()}
            if self.pretrained:
                self._first = {v.path: array_of(v) for v in self.model.trainable_variables if len(v.shape) > 1}
        if self._gradients is not None:
            self._gradients.on_epoch_begin(epoch)
        if self._records is not None:
            self._records.begin_epoch(resumed=self._resumed)
        self._resumed = False
        self._within = True

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Take the time."""
        if self._gradients is not None:
            self._gradients.on_train_batch_begin(batch)
        if self._records is not None:
            self._records.begin_batch(batch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add up the epoch."""
        self._within = False
        if self._gradients is not None:
            self._gradients.on_epoch_end(epoch)
        if (loss := (logs or {}).get("val_loss")) is not None:
            self._val_losses.append(float(loss))
        if self._records is None:
            return
        self._records.end_epoch()
        self._step = int(self._records.value("step"))
        recent = float(self._records.value("recent")[0])
        if self._records.classes and np.isfinite(recent):
            self._last = {"loss": recent}
        if self.order is not None and not self._records.value("soft")[0]:
            self._add_margins(self._records.value("margins"), np.asarray(self.order(epoch)))

    def _add_margins(self, margins: np.ndarray, rows: np.ndarray) -> None:
        """Add an epoch's margins to those of their examples."""
        known = np.isfinite(margins)
        if not known.any():
            return
        size = max(int(rows.max()) + 1, self._margins.shape[1])
        self._margins = np.pad(self._margins, ((0, 0), (0, size - self._margins.shape[1])))
        np.add.at(self._margins, (0, rows[known]), margins[known])
        np.add.at(self._margins, (1, rows[known]), 1.0)
        self._margin_epochs += 1

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Judge, print and write."""
        if self._gradients is not None:
            self._gradients.on_train_end()
        if self._records is not None:
            self._records.remove()
        try:
            evidence = self._evidence()
            self.findings = rank(evidence.findings())
            self.unseen = evidence.unseen()
        except Exception as error:  # out of memory on the probe images, for one: the training itself is whole
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            log.info(f"there are no findings: {type(error).__name__}: {reason}")
            return
        text = [*lines(self.findings), *(f"not looked at: {line}" for line in self.unseen)]
        for line in text:
            log.info(line)
        for finding in self.findings:
            if self.show is not None and finding.examples:
                self.show(finding)
        if self.writer is not None:
            self.writer.text("findings", "\n".join(text), self._step)
        self._save(FILE, to_json(self.findings, unseen=self.unseen).encode())

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "series": self._series.state(),
            "val_losses": list(self._val_losses),
            "last": dict(self._last),
            "margins": self._margins,
            "margin_epochs": self._margin_epochs,
            "frozen": self._frozen,
            "step": self._step,
            "within": self._within,
            "gradients": None if self._gradients is None else self._gradients.state(),
            "records": None if self._records is None else self._records.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`, after `on_train_begin`."""
        self._val_losses = [float(loss) for loss in state["val_losses"]]
        self._last = dict(state["last"])
        self._margins = np.array(state["margins"])
        self._margin_epochs = int(state["margin_epochs"])
        self._frozen = state["frozen"]
        self._step = int(state["step"])
        if self._gradients is not None and state["gradients"] is not None:
            self._gradients.restore(state["gradients"])
        if self._records is not None and state["records"] is not None:
            self._records.restore(state["records"])
            self._resumed = bool(state["within"])
        self._series.restore(state["series"])

    @property
    def margins(self) -> np.ndarray | None:
        """(N,) the area under the margin of each example of `order` so far; None where it is not known."""
        if not self._margin_epochs:
            return None
        sums, counts = self._margins
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

    def _evidence(self) -> Evidence:
        known = self._frozen or {}
        moved = [
            path for path, v in frozen_variables(self.model).items() if known.get(path, "") not in ("", _digest(v))
        ]
        return Evidence(
            model=self.model, records=self._records, series=self._series, data=self.data, expects=self.expects,
            keeps_best=self.keeps_best, val_losses=self._val_losses, last_loss=self._last.get("loss"),
            margins=self.margins,
            margin_epochs=self._margin_epochs, frozen=len(known), moved=moved, first=self._first,
            keep_batch=self._save_batch,
        )  # fmt: skip

    def _save_batch(self, batch: Mapping[str, np.ndarray]) -> str:
        buffer = io.BytesIO()
        np.savez(buffer, **batch)  # type: ignore[arg-type]
        return self._save(BATCH_FILE, buffer.getvalue())

    def _save(self, name: str, content: bytes) -> str:
        """Write a file into the folder; its path, or "" where that cannot be done, which the log says."""
        if self.folder is None:
            return ""
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)
        except OSError as error:
            log.info(f"{path} cannot be written: {error.strerror}; training continues without it")
            return ""
        return str(path)


def frozen_variables(model: keras.Model) -> dict[str, Any]:
    """Path -> variable of the layers that are frozen."""
    frozen = [layer for layer in all_layers(model) if layer is not model and not layer.trainable]
    return {variable.path: variable for layer in frozen for variable in layer.weights}


def _digest(variable: Any) -> str:
    return hashlib.sha256(array_of(variable).tobytes()).hexdigest()
