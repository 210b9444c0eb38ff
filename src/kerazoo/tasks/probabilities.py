"""The common base of tasks whose answers are probabilities: multiclass and multilabel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerazoo.tasks.base import Task

# the float32 numbers next to 0 and to 1
LEAST = np.finfo(np.float32).smallest_subnormal
MOST = 1 - np.finfo(np.float32).epsneg
SMALLEST = 1e-37  # a probability below it counts as this, whose logarithm is finite everywhere


def log_mean(probabilities: Sequence[Any]) -> Any:
    """(B, K) of several models -> (B, K) logarithms of their means."""
    from keras import ops

    return ops.log(ops.maximum(sum(probabilities) / len(probabilities), SMALLEST))


@dataclass(frozen=True)
class Probabilities(Task):
    """A task whose answers are probabilities."""

    probabilities: bool = True
    main_output: str = "probabilities"
    outputs: frozenset[str] = frozenset({"probabilities", "label", "top_labels", "top_probabilities", "class_names"})
    digits: str = ".6f"

    def chart_values(self, score: float) -> dict[str, float]:
        """As in `Task`."""
        return {"accuracy": score}

    def signature(self, answers: Any, every: Any, names: Any, count: int) -> Mapping[str, Any]:
        """As in `Task`."""
        import tensorflow as tf

        values, indices = tf.math.top_k(answers, count)
        top = tf.gather(names, indices)
        return {
            "probabilities": answers,
            "label": top[:, 0],
            "top_labels": top,
            "top_probabilities": values,
            "class_names": every,
        }

    def top(self, answer: np.ndarray, names: Sequence[str], count: int) -> tuple[tuple[str, float], ...]:
        """As in `Task`."""
        order = np.argsort(-answer, kind="stable")[:count]
        return tuple((names[i], float(answer[i])) for i in order)

    def top_json(self, top: Sequence[tuple[str, float]], labels: Sequence[str] | None = None) -> dict[str, Any]:
        """As in `Task`."""
        label, probability = top[0]
        values: dict[str, Any] = {"label": label, "probability": probability, "top": [list(row) for row in top]}
        return values if labels is None else {**values, "labels": list(labels)}
