"""The same sums on the JAX backend, where a training step is a pure function: the compiled step hands what it sees to
`HostSums` by callbacks of JAX's, which come in any order.
"""

from typing import Any

import keras
import numpy as np

from kerazoo.callbacks.gradient_sums import CLIPPED, Row, Sums
from kerazoo.callbacks.histograms import BINS, magnitude_counts
from kerazoo.callbacks.hooks import Hooks
from kerazoo.callbacks.taps import single_optimizers
from kerazoo.errors import ModelError
from kerazoo.keras_private import APPLY_GRADIENTS, CLIP_GRADIENTS, batches_seen

PENDING = 64  # steps that are waited for; parts of one step never lie further apart


class HostSums:
    """Sums of what the taps of a JAX training see, in numpy; every step is a sample.

    Raises ModelError for a model that is not built, or whose optimizer is not that of `compile`.
    """

    def __init__(self, model: keras.Model, *, histograms: bool, step: int = 0) -> None:
        self.model = model
        self.histograms = histograms
        self.paths: list[str] = []
        self._sums = Sums.zeros(0)
        self._steps = step
        self._pending: dict[int, list[tuple[np.ndarray, ...]]] = {}  # by the optimizer's count of batches
        self._hooks = Hooks(model)

    def insert(self) -> None:
        """Put the taps in place."""
        if self.model.optimizer is None or not self.model.built:
            raise ModelError(
                f"gradients of {self.model.name} cannot be logged on the JAX backend before it is built and compiled "
                "with an optimizer; call it on a batch before `fit`"
            )
        variables = self.model.trainable_variables
        self.paths = [variable.path for variable in variables]
        self._sizes = np.array([np.prod(variable.shape) for variable in variables], np.float32)
        self._sums = Sums.zeros(len(self.paths))
        optimizers = list(single_optimizers(self.model))
        for optimizer in optimizers:
            self._tap(optimizer)
        train_step = self.model.train_step
        if not self.model.optimizer.built:
            self.model.optimizer.build(variables)
        count = batches_seen(optimizers[0])
        place = next(index for index, one in enumerate(self.model.optimizer.variables) if one is count)

        def step(state: Any, data: Any) -> Any:
            logs, after = train_step(state, data)
            self._send_updates(state[2][place], state[0], after[0])
            return logs, after

        self._hooks.replace(self.model, "train_step", step)
        self._hooks.trace()

    def _tap(self, optimizer: Any) -> None:
        apply, clip = getattr(optimizer, APPLY_GRADIENTS), getattr(optimizer, CLIP_GRADIENTS)
        variables: list[str] = []

        def note_variables(gradients: Any, moved: Any) -> Any:
            variables[:] = [variable.path for variable in moved]
            return apply(gradients, moved)

        def send_gradients(gradients: Any) -> Any:
            clipped = clip(gradients)
            count = batches_seen(optimizer).value
            steps = optimizer.gradient_accumulation_steps
            updates = (count + 1) % steps == 0 if steps else True
            self._send_gradients(count, updates, variables, gradients, clipped)
            return clipped

        self._hooks.replace(optimizer, APPLY_GRADIENTS, note_variables)
        self._hooks.replace(optimizer, CLIP_GRADIENTS, send_gradients)

    def remove(self) -> None:
        """Take the taps out."""
        self._hooks.remove()

    def _send_gradients(self, count: Any, updates: Any, paths: list[str], before: Any, after: Any) -> None:
        """While the step is traced: have it call `_receive` with the norms and counts of one optimizer's gradients."""
        import jax
        import jax.numpy as jnp

        place = {path: index for index, path in enumerate(self.paths)}
        rows = [[jnp.zeros(())] * len(self.paths) for _ in range(3)]
        counts = [jnp.zeros(BINS + 1)] * len(self.paths)
        for path, unclipped, clipped in zip(paths, before, after, strict=True):
            index = place[path]
            rows[0][index], rows[1][index] = _norm(unclipped), _norm(clipped)
            rows[2][index] = jnp.asarray(updates, jnp.float32)
            if self.histograms:
                counts[index] = magnitude_counts(unclipped)
        jax.debug.callback(self._receive, count, jnp.stack([jnp.stack(row) for row in rows]), jnp.stack(counts))

    def _send_updates(self, count: Any, old: list[Any], new: list[Any]) -> None:
        """While the step is traced: have it call `_receive` with the lengths of the updates and of the weights."""
        import jax
        import jax.numpy as jnp

        moved = [
            _norm(jnp.asarray(b, jnp.float32) - jnp.asarray(a, jnp.float32)) for a, b in zip(old, new, strict=True)
        ]
        held = [_norm(value) for value in old]
        jax.debug.callback(self._receive, count, jnp.stack([jnp.stack(moved), jnp.stack(held)]))

    def _receive(self, count: Any, *parts: Any) -> None:
        """Keep a part of a step; fold the steps that are whole by now."""
        self._pending.setdefault(int(count), []).append(tuple(np.array(part) for part in parts))
        while len(self._pending) > PENDING:
            self._fold(min(self._pending))

    def _fold(self, count: int) -> None:
        """Add a step to the sums. One that did not move the weights (accumulated, or overflown) only counts."""
        parts = self._pending.pop(count)
        self._steps += sum(len(part) == 1 for part in parts)
        gradients = [part for part in parts if len(part) == 2 and part[0][2].any()]
        if not gradients:
            return
        before, after, fresh = (_with_all(row) for row in np.sum([rows for rows, _ in gradients], axis=0))
        moved, held = (_with_all(row) for row in [part[0] for part in parts if len(part) == 1][-1])
        fresh = (fresh > 0).astype(np.float32)
        before, after = before * fresh, after * fresh
        clipped = (np.abs(after - before) > CLIPPED * before).astype(np.float32)
        clipped[-1] = clipped[:-1].max(initial=0)
        sums = self._sums.table
        sums[Row.UPDATES] += fresh
        sums[Row.NORM] += before
        sums[Row.SQUARE] += before**2 / np.append(self._sizes, self._sizes.sum())
        sums[Row.CLIPPED_NORM] += after
        sums[Row.CLIPS] += clipped
        sums[Row.LARGEST] = np.maximum(sums[Row.LARGEST], before)
        counted = (held > 0) & (fresh > 0)
        sums[Row.RATIO] += np.divide(moved, held, out=np.zeros_like(moved), where=counted)
        sums[Row.SAMPLES] += counted
        self._sums.counts[:] += np.sum([counts for _, counts in gradients], axis=0)
        first = (self._sums.bad < 0) & ~np.isfinite(before) & (fresh > 0)
        self._sums.bad[first] = self._steps

    def _fold_all(self) -> Sums:
        import jax

        jax.effects_barrier()  # type: ignore[no-untyped-call]
        for count in sorted(self._pending):
            self._fold(count)
        return self._sums

    def take(self) -> Sums:
        """The sums since the last call."""
        taken = self._fold_all()
        self._sums = Sums.zeros(len(self.paths))
        self._sums.bad[:] = taken.bad
        return taken

    def state(self) -> dict[str, Any]:
        """The sums so far, for a checkpoint."""
        sums = self._fold_all()
        kept = {"table": sums.table, "counts": sums.counts, "bad": sums.bad}
        return {**{name: array.copy() for name, array in kept.items()}, "steps": self._steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`; one of another model counts as nothing."""
        if state and np.shape(state.get("table", 0)) == self._sums.table.shape:
            self._sums = Sums(*(np.array(state[name]) for name in ("table", "counts", "bad")))
            self._steps = int(state["steps"])


def _norm(values: Any) -> Any:
    import jax.numpy as jnp

    return jnp.linalg.norm(jnp.asarray(values, jnp.float32).reshape(-1))


def _with_all(row: np.ndarray) -> np.ndarray:
    """(V,) -> (V + 1,): lengths, and the length of all of them together behind."""
    return np.append(row, np.linalg.norm(row)).astype(np.float32)
