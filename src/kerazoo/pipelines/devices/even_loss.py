"""A loss for several replicas in which each example of a batch has the same weight."""

from typing import Any

import keras
import tensorflow as tf


class ExampleWeightedLoss(keras.losses.Loss):  # type: ignore[misc]
    """The same value as `loss`; its gradient is that of the mean over the whole batch, over all R replicas.

    Keras adds the gradients of mean_r / R. If a replica has fewer rows, its rows then have a larger weight. Here the
    gradient of replica r is multiplied by n_r R / n, where n_r of the n rows are its own.
    """

    def __init__(self, loss: keras.losses.Loss) -> None:
        super().__init__(name=loss.name, reduction=loss.reduction)
        self.loss = loss

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The loss of this replica's rows."""
        value = self.loss(y_true, y_pred, sample_weight)
        if self.reduction not in ("sum_over_batch_size", "mean") or tf.distribute.get_replica_context() is None:
            return value
        return _weighted(value, tf.cast(tf.shape(y_pred)[0], value.dtype))


def _weighted(value: Any, rows: Any) -> Any:
    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def same(x: Any) -> tuple[Any, Any]:
        def gradient(upstream: Any) -> Any:
            # only for the gradient: validation needs no communication between replicas
            replica = tf.distribute.get_replica_context()
            every = replica.all_reduce(tf.distribute.ReduceOp.SUM, rows)
            return upstream * rows * replica.num_replicas_in_sync / every

        return tf.identity(x), gradient

    return same(value)
