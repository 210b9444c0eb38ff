"""The state of a training as plain values: what a checkpoint holds, and how it is put back."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# what Keras's own callbacks remember from epoch to epoch, and lose in `on_train_begin`
REMEMBERED: tuple[tuple[type, tuple[str, ...]], ...] = (
    (keras.callbacks.EarlyStopping, ("wait", "stopped_epoch", "best", "best_epoch", "best_weights")),
    (keras.callbacks.ReduceLROnPlateau, ("wait", "cooldown_counter", "best")),
    (keras.callbacks.ModelCheckpoint, ("best",)),
)


def blank_of(specs: Any) -> Any:
    """A batch of zeros; parts of it may know its size, and others not."""
    rows = next((spec.shape[0] for spec in tf.nest.flatten(specs) if spec.shape[0] is not None), 1)
    return tf.nest.map_structure(lambda spec: tf.zeros([rows, *spec.shape[1:]], spec.dtype), specs)


def scope_of(model: keras.Model) -> AbstractContextManager[Any]:
    """Where variables of `model` are made."""
    strategy = getattr(model, "distribute_strategy", None)
    return nullcontext() if strategy is None else strategy.scope()


def components_of(variable: Any) -> list[Any]:
    """What a Keras variable keeps on each replica."""
    value = variable.value
    return list(value.values) if isinstance(value, tf.distribute.DistributedValues) else [variable]


def parts_of(variable: Any) -> list[np.ndarray]:
    """The values of `variable` on its replicas; one where they are all the same."""
    parts = [np.array(keras.ops.convert_to_numpy(component)) for component in components_of(variable)]
    same = all(part.tobytes() == parts[0].tobytes() for part in parts)
    return parts[:1] if same else parts


def state_of(callback: keras.callbacks.Callback) -> Any:
    """What `callback` must be given back to go on: its own `state()`, or the attributes in REMEMBERED."""
    if hasattr(callback, "state") and hasattr(callback, "restore"):
        return callback.state()
    for kind, names in REMEMBERED:
        if isinstance(callback, kind):
            return {name: getattr(callback, name) for name in names}
    return None


def restore(callback: keras.callbacks.Callback, state: Any) -> None:
    """Give `callback` back what `state_of` took."""
    if hasattr(callback, "state") and hasattr(callback, "restore"):
        callback.restore(state)
    elif state is not None:
        for name, value in state.items():
            setattr(callback, name, value)
