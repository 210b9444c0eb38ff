"""Devices: what a run computes on, and how a batch is dealt out to several replicas.

A replica is a copy of the network on one device; all copies take one step together, each on its rows of the batch.
The batch is the one that a single device would see: replica r of R gets its rows [r n / R, (r + 1) n / R), n being
the rows of that batch, so that each example comes once, an uneven last batch included. A replica must have a row:
TensorFlow's convolution of an empty batch has a wrong shape on CPUs (2.21, oneDNN). Open the devices first: TensorFlow
and JAX settle theirs at the first operation.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kerazoo.errors import RecipeError, RunError
from kerazoo.keras_private import all_layers, patched_trainer, set_steps

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


@dataclass(frozen=True)
class Devices:
    """What a run computes on. `replicas` counts over all workers; `worker` is 0 in the process that writes.

    `strategy` is TensorFlow's, where there is more than one replica; `distribution` is Keras's, on the JAX backend.
    """

    kind: str
    replicas: int = 1
    worker: int = 0
    workers: int = 1
    strategy: Any = None
    distribution: Any = None

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run; the other workers only compute."""
        return self.worker == 0

    def describe(self) -> str:
        """One line for people."""
        if self.workers > 1:
            return f"{self.replicas} replicas ({self.kind}), worker {self.worker} of {self.workers}"
        return self.kind if self.replicas == 1 else f"{self.replicas} replicas ({self.kind})"

    def scope(self) -> AbstractContextManager[Any]:
        """Where the network, its optimizer and its metrics are made and compiled."""
        chosen = self.strategy or self.distribution
        scope: AbstractContextManager[Any] = nullcontext() if chosen is None else chosen.scope()
        return scope

    @contextmanager
    def building(self) -> Iterator[None]:
        """Around variables that workers make together. Raises WorkerLostError where another one has left."""
        if self.strategy is None or self.workers == 1:
            yield
            return
        from kerazoo.pipelines.devices.multiworker import worker_errors

        with worker_errors(self.workers, self.worker):
            yield

    @contextmanager
    def training(self) -> Iterator[None]:
        """Around `fit`, outside of `scope`. Raises WorkerLostError where another worker dies or hangs."""
        if self.strategy is not None:
            from kerazoo.pipelines.devices.multiworker import watching_peers

            guard = watching_peers(self.workers, self.worker) if self.workers > 1 else nullcontext()
            with guard, patched_trainer(self.strategy, self.workers):
                yield
        else:
            with self.distribution.scope() if self.distribution is not None else nullcontext():
                yield

    def check_same(self, number: int, what: str) -> None:
        """Raise RunError where workers have other numbers: they would go on from different states."""
        if self.strategy is None or self.workers == 1:
            return
        import tensorflow as tf

        values = self.strategy.run(lambda: tf.constant([number, number**2], tf.float64))
        mean, square = self.strategy.reduce("MEAN", values, axis=None).numpy()
        if square != mean**2:
            raise RunError(f"not all workers see {what} of the first; put the runs on a file system that they share")

    def distribute(self, batches: "tf.data.Dataset") -> Any:
        """Whole batches -> what `fit`, `evaluate` and `predict` of a model made in `scope` take: each replica's rows.

        `batches` are the same in every worker, of known cardinality, and of at least one row a replica: see
        `check_batches` and `evaluation_size`.
        """
        import tensorflow as tf

        if self.replicas == 1:
            return batches
        steps = int(batches.cardinality())
        if steps < 0:
            raise RecipeError("batches of unknown cardinality cannot be dealt out; use assert_cardinality")
        if self.strategy is None:
            share = batches.map(lambda *batch: rows_of(batch, self.worker, self.workers), tf.data.AUTOTUNE)
            return share.apply(tf.data.experimental.assert_cardinality(steps))
        local = self.replicas // self.workers

        def parts(*batch: Any) -> "tf.data.Dataset":
            replicas = tf.data.Dataset.range(self.worker * local, (self.worker + 1) * local)
            return replicas.map(lambda replica: rows_of(batch, replica, self.replicas))

        dealt = batches.flat_map(parts).prefetch(2 * local)
        dealt = dealt.apply(tf.data.experimental.assert_cardinality(steps * local))
        distributed = self.strategy.distribute_datasets_from_function(lambda _: dealt)
        set_steps(distributed, steps)
        return distributed

    def weighted_loss(self, loss: "keras.losses.Loss") -> "keras.losses.Loss":
        """The loss to compile with: each example counts the same, also where replicas have unequal numbers of them."""
        if self.strategy is None:
            return loss
        from kerazoo.pipelines.devices.even_loss import ExampleWeightedLoss

        return ExampleWeightedLoss(loss)

    @property
    def jit_compile(self) -> bool | str:
        """The argument of `compile`: TensorFlow's strategies fail inside XLA, which "auto" turns on with a GPU."""
        return "auto" if self.strategy is None else False

    def evaluation_size(self, count: int, wanted: int) -> int:
        """A batch size near `wanted` by which every replica has a row of each batch of `count` examples.

        On the JAX backend all replicas have equally many, for which `count` must divide by their number: see
        `whole_count`. Raises RecipeError where there are fewer examples than replicas.
        """
        if self.replicas == 1:
            return wanted
        if count < self.replicas:
            raise RecipeError(
                f"there are {count} examples to evaluate on {self.replicas} replicas; use fewer devices, or a larger "
                "data.validation"
            )
        if self.strategy is None:
            return max(wanted // self.replicas, 1) * self.replicas
        sizes = [*range(wanted, self.replicas - 1, -1), *range(wanted + 1, count + 1)]
        found: int = next(size for size in sizes if not 0 < count % size < self.replicas)
        return found

    def whole_count(self, count: int) -> int:
        """How many of `count` examples can be evaluated while training: all but, on JAX, a remainder over replicas."""
        return count - count % self.replicas if self.distribution is not None else count

    def check_batches(self, *, batch_size: int, count: int, drop_last: bool = True) -> None:
        """Raise RecipeError where batches of `count` training examples cannot be dealt out to these devices."""
        if self.replicas == 1:
            return
        what = self.describe()
        last = count % batch_size if not drop_last or count < batch_size else 0
        if batch_size < self.replicas or 0 < last < self.replicas:
            raise RecipeError(
                f"training.batch_size={batch_size} on {count} examples gives a batch of {last or batch_size}, fewer "
                f"than the {self.replicas} replicas; set training.drop_last=true, another batch size, or fewer devices"
            )
        if self.distribution is not None and (batch_size % self.replicas or last % self.replicas):
            raise RecipeError(
                f"on {what} every batch must divide evenly, or the processes wait for ever: training.batch_size="
                f"{batch_size}, the last one {last or batch_size}; set training.drop_last=true and a multiple of "
                f"{self.replicas}"
            )

    def check_batch_norm(self, model: "keras.Model") -> None:
        """Raise RecipeError where batch norm would be trained on each replica by itself: one's statistics are kept."""
        from keras.layers import BatchNormalization

        if self.strategy is None:
            return  # one replica, or JAX, whose batch norm sees the whole batch
        alone = [
            layer.name
            for layer in all_layers(model)
            if isinstance(layer, BatchNormalization) and layer.trainable and not layer.synchronized
        ]
        if alone:
            raise RecipeError(
                f"{model.name} trains batch norm ({alone[0]} and {len(alone) - 1} more) that {self.replicas} replicas "
                "do not share; set training.synchronized_batch_norm=true for a network of our own, keep the batch "
                "norm of a pretrained backbone frozen, or use one device"
            )


def rows_of(batch: Any, part: Any, parts: int) -> Any:
    """Rows [part n / parts, (part + 1) n / parts) of each (n, ...) tensor in `batch`; they may be none."""
    import tensorflow as tf

    count = tf.shape(tf.nest.flatten(batch)[0], tf.int64)[0]
    first, last = part * count // parts, (part + 1) * count // parts
    return tf.nest.map_structure(lambda tensor: tensor[first:last], batch)
