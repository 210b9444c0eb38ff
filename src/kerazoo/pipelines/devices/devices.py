"""The devices of a run, and the distribution of a batch over several replicas.

A replica is a copy of the network on one device. All replicas take each step together, each on its rows of the batch.
The batch is the same as on a single device: replica r of R gets its rows [r n / R, (r + 1) n / R) of n, so that each
example is used once, even if the last batch is smaller. A replica must have at least one row: TensorFlow's convolution
of an empty batch has a wrong shape on CPUs (2.21, oneDNN). Open the devices first, because TensorFlow and JAX cannot
change theirs after the first operation.
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
    """The devices of a run. `replicas` is the total over all workers; `worker` is 0 in the process that writes.

    `strategy` is TensorFlow's, if there are several replicas; `distribution` is Keras's, on the JAX backend.
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
        """The devices in one line, for messages."""
        if self.workers > 1:
            return f"{self.replicas} replicas ({self.kind}), worker {self.worker} of {self.workers}"
        return self.kind if self.replicas == 1 else f"{self.replicas} replicas ({self.kind})"

    def scope(self) -> AbstractContextManager[Any]:
        """The scope in which to make and compile the network, its optimizer and its metrics."""
        chosen = self.strategy or self.distribution
        scope: AbstractContextManager[Any] = nullcontext() if chosen is None else chosen.scope()
        return scope

    @contextmanager
    def building(self) -> Iterator[None]:
        """A context for creating variables in several workers. Raises WorkerLostError if another worker is lost."""
        if self.strategy is None or self.workers == 1:
            yield
            return
        from kerazoo.pipelines.devices.multiworker import worker_errors

        with worker_errors(self.workers, self.worker):
            yield

    @contextmanager
    def training(self) -> Iterator[None]:
        """A context for `fit`, outside of `scope`. Raises WorkerLostError if another worker dies or hangs."""
        if self.strategy is not None:
            from kerazoo.pipelines.devices.multiworker import watching_peers

            guard = watching_peers(self.workers, self.worker) if self.workers > 1 else nullcontext()
            with guard, patched_trainer(self.strategy, self.workers):
                yield
        else:
            with self.distribution.scope() if self.distribution is not None else nullcontext():
                yield

    def check_same(self, number: int, what: str) -> None:
        """Raise RunError if the workers have different numbers, and so would resume from different states."""
        if self.strategy is None or self.workers == 1:
            return
        import tensorflow as tf

        values = self.strategy.run(lambda: tf.constant([number, number**2], tf.float64))
        mean, square = self.strategy.reduce("MEAN", values, axis=None).numpy()
        if square != mean**2:
            raise RunError(f"not all workers see {what} of worker 0; put the runs on a shared file system")

    def distribute(self, batches: "tf.data.Dataset") -> Any:
        """Whole batches -> the rows of each replica, for `fit`, `evaluate` and `predict` of a model made in `scope`.

        `batches` must be the same in every worker, have a known cardinality, and have at least one row for each
        replica: see `check_batches` and `evaluation_size`.
        """
        import tensorflow as tf

        if self.replicas == 1:
            return batches
        steps = int(batches.cardinality())
        if steps < 0:
            raise RecipeError("batches must have a known cardinality to be distributed; use assert_cardinality")
        if self.strategy is None:
            share = batches.map(lambda *batch: rows_of(batch, self.worker, self.workers)).prefetch(2)
            return share.apply(tf.data.experimental.assert_cardinality(steps))
        local = self.replicas // self.workers

        def parts(*batch: Any) -> "tf.data.Dataset":
            replicas = tf.data.Dataset.range(self.worker * local, (self.worker + 1) * local)
            return replicas.map(lambda replica: rows_of(batch, replica, self.replicas))

        shares = batches.flat_map(parts).prefetch(2 * local)
        shares = shares.apply(tf.data.experimental.assert_cardinality(steps * local))
        distributed = self.strategy.distribute_datasets_from_function(lambda _: shares)
        set_steps(distributed, steps)
        return distributed

    def weighted_loss(self, loss: "keras.losses.Loss") -> "keras.losses.Loss":
        """The loss to compile with. Examples have equal weights, even if replicas have different numbers of rows."""
        if self.strategy is None:
            return loss
        from kerazoo.pipelines.devices.even_loss import ExampleWeightedLoss

        return ExampleWeightedLoss(loss)

    @property
    def jit_compile(self) -> bool | str:
        """The argument of `compile`: False with a strategy, which fails with XLA, and "auto" uses XLA on a GPU."""
        return "auto" if self.strategy is None else False

    def evaluation_size(self, count: int, wanted: int) -> int:
        """A batch size near `wanted` for which every replica has a row of each batch of `count` examples.

        On the JAX backend all replicas have equally many rows, so `count` must be a multiple of their number: see
        `whole_count`. Raises RecipeError if there are fewer examples than replicas.
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
        batch_size: int = next(size for size in sizes if not 0 < count % size < self.replicas)
        return batch_size

    def whole_count(self, count: int) -> int:
        """The number of `count` examples to evaluate during training: on JAX, a multiple of the replicas; else all."""
        return count - count % self.replicas if self.distribution is not None else count

    def check_batches(self, *, batch_size: int, count: int, drop_last: bool = True) -> None:
        """Raise RecipeError if batches of `count` training examples cannot be distributed over these devices."""
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
                f"on {what} every batch size must be a multiple of {self.replicas}, or the processes wait forever: "
                f"training.batch_size={batch_size}, and the last batch has {last or batch_size}; set "
                f"training.drop_last=true and a multiple of {self.replicas}"
            )

    def check_batch_norm(self, model: "keras.Model") -> None:
        """Raise RecipeError if each replica would train batch norm alone: only one replica's statistics are kept."""
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
                f"{model.name} trains batch norm ({alone[0]} and {len(alone) - 1} more) that the {self.replicas} "
                "replicas do not share; set training.synchronized_batch_norm=true for a network of the zoo, keep the "
                "batch norm of a pretrained backbone frozen, or use one device"
            )


def rows_of(batch: Any, part: Any, parts: int) -> Any:
    """Rows [part n / parts, (part + 1) n / parts) of each (n, ...) tensor in `batch`; there may be no rows."""
    import tensorflow as tf

    count = tf.shape(tf.nest.flatten(batch)[0], tf.int64)[0]
    first, last = part * count // parts, (part + 1) * count // parts
    return tf.nest.map_structure(lambda tensor: tensor[first:last], batch)
