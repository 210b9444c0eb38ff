"""What a person sees while `fit` runs: a bar on a terminal, and plain lines, which are all that a log gets.

It costs the step nothing. Keras converts the logs of every step, whoever listens: on the TensorFlow backend before the
next step begins, on the others in threads of its own, as long as every callback with a batch-end hook says that it is
`async_safe`. Ours does, and only keeps what it is given; another thread draws the bar from that, a few times a second.
No variable is read, so it is the same on every backend.
"""

import atexit
import logging
import sys
import time
from collections import deque
from types import TracebackType
from typing import Any

import keras
from rich.console import Console
from rich.live import Live
from rich.text import Text

log = logging.getLogger("kerazoo")

REDRAWN = 4  # times a second
WINDOW = 10.0  # seconds over which the bar's rate is taken
QUIET = 30.0  # seconds after which a long epoch says how far it is, where there is no bar


class Progress(keras.callbacks.Callback):  # type: ignore[misc]
    """Says, after each `every` epochs and the last: number, losses, metrics, and its seconds and images/s.

    Between these lines, a bar on standard error where that is a terminal (or by `bar`), else a line every 30 s.
    `images` are those of a whole epoch; the first epoch of a resumed `fit` begins at `start_step`, which its rates
    leave out. Use it as a context around `fit`, so that the bar is gone after an error, too; Keras tells callbacks
    nothing of one. The cursor is never hidden: a killed process leaves the terminal as usable as it was.
    """

    async_safe = True  # or Keras waits for every step on backends where it need not

    def __init__(
        self, images: int, *, title: str = "epoch", every: int = 1, start_step: int = 0,
        bar: bool | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.images = images
        self.title = title
        self.every = every
        self.start_step = start_step
        self.bar = bar
        self._live: Live | None = None
        self._validation: int | None = None  # the batch it is at
        self._after_steps = 0.0  # seconds of the last epoch after its last step
        self._begin(0, start_step)

    def _begin(self, epoch: int, first: int) -> None:
        self._epoch = epoch
        self._first = first
        self._start = self._said = time.perf_counter()
        self._done: tuple[int, float] | None = None  # steps of this epoch, and when the last one ended
        self._logs: dict[str, float] = {}
        self._window: deque[tuple[int, float]] = deque(maxlen=int(WINDOW * REDRAWN))

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Start the bar."""
        self._next_first = self.start_step
        console = _terminal() if self.bar is not False else None
        if console is None or self._live is not None:
            return
        self._live = Live(
            console=console, transient=True, refresh_per_second=REDRAWN, redirect_stdout=sys.stdout.isatty(),
            get_renderable=lambda: self._draw(console.width - 1, ascii_only=console.options.ascii_only),
        )  # fmt: skip
        atexit.register(self.close)
        self._live.start()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self._begin(epoch, self._next_first)
        self._next_first = 0
        self._validation = None

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Where there is no bar, say now and then how far it is."""
        if self._live is None and self._done is not None and time.perf_counter() - self._said >= QUIET:
            self._said = time.perf_counter()
            steps = f"step {self._done[0]:,}/{self.params['steps'] or '?'}"
            rate = f"{self._images(self._done[0]) / (self._said - self._start):,.0f} images/s"
            log.info(f"{self._title()}  {steps}  {_values(self._logs)}  {self._said - self._start:.1f} s  {rate}")

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Keep how far it is. Runs on threads of Keras's where it has them, which may overtake one another."""
        if batch >= self._first and (self._done is None or batch >= self._done[0]):
            self._done, self._logs = (batch + 1, time.perf_counter()), logs or {}

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """The steps of the epoch are over."""
        self._validation = 0

    def on_test_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Keep how far validation is."""
        self._validation = batch

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Say the line."""
        now = time.perf_counter()
        if self._done is not None:
            self._after_steps = now - self._done[1]
        number, epochs = epoch + 1, self.params["epochs"]
        if number % self.every and number != epochs:
            return
        seconds = now - self._start
        images = self._images(self.params["steps"])
        rate = f"  {images / seconds:,.0f} images/s" if images else ""  # all steps may have been taken before a restart
        log.info(f"{self._title()}  {_values(logs or {})}  {seconds:.1f} s{rate}")

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Take the bar away."""
        self.close()

    def close(self) -> None:
        """Take the bar away, wherever training stands; standard error is itself again."""
        if self._live is not None:
            atexit.unregister(self.close)
            self._live.stop()
            self._live = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _title(self) -> str:
        return f"{self.title} {self._epoch + 1}/{self.params['epochs']}"

    def _images(self, steps: int | None) -> float:
        """How many images this process went through from the first step of the epoch to step `steps`."""
        of = self.params["steps"]
        return self.images * (steps - self._first) / of if steps and of else float(self.images)

    def _draw(self, width: int, *, ascii_only: bool) -> Text:
        """The bar's line, cut to `width` from the right: what matters most stands first."""
        if not self.params:
            return Text("")
        done, steps = self._done, self.params["steps"]
        count = done[0] if done else self._first
        parts = [f"{count:,}/{steps:,}" if steps else f"{count:,}"]
        if done is None:
            parts.append("starting")  # reads, decodes and, the first time, compiles
        else:
            parts += self._rates(done, steps)
        if self._validation is not None:
            parts.append(f"validation, batch {self._validation + 1}")
        parts.append(_values(self._logs))
        after = "  ".join(filter(None, parts))
        room = max(8, min(40, width - len(self._title()) - len(after) - 4))
        filled = min(room, room * count // steps) if steps else 0
        full, empty = ("#", "-") if ascii_only else ("━", "─")
        line = Text.assemble(
            f"{self._title()}  ", (full * filled, "green"), (empty * (room - filled), "bright_black"), f"  {after}"
        )
        line.no_wrap = True
        line.truncate(max(width, 1), overflow="crop")
        return line

    def _rates(self, done: tuple[int, float], steps: int | None) -> list[str]:
        """Time left of the epoch and of the run, and images/s, once two steps have ended."""
        if not self._window or self._window[-1] != done:
            self._window.append(done)
        while len(self._window) > 2 and done[1] - self._window[0][1] > WINDOW:
            self._window.popleft()
        (first, since), (last, until) = self._window[0], self._window[-1]
        if last == first or until <= since:
            return []
        per_second = (last - first) / (until - since)
        if not steps:
            return [f"{per_second:,.1f} steps/s"]
        left = (steps - last) / per_second + self._after_steps
        later = (self.params["epochs"] - self._epoch - 1) * (steps / per_second + self._after_steps)
        return [f"{_clock(left)} left, run {_clock(left + later)}", f"{self._rate(per_second, steps)} images/s"]

    def _rate(self, per_second: float, steps: int) -> str:
        return f"{per_second * self.images / steps:,.0f}"


class _Terminal(Console):
    """Standard error, whose cursor stays: nothing is left to restore when the process is killed."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


def _terminal() -> Console | None:
    """Standard error, where it is a terminal that can redraw a line (not TERM=dumb); colours as Rich decides."""
    if not sys.stderr.isatty():  # Rich takes FORCE_COLOR for a terminal
        return None
    console = _Terminal(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)
    return console if console.is_interactive else None


def _values(logs: dict[str, Any]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in logs.items())


def _clock(seconds: float) -> str:
    """0:07, 12:30, 3:05:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
