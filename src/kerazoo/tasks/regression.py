"""Regression: numbers are predicted for an image."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerazoo.tasks.base import Task
from kerazoo.tasks.columns import numbers
from kerazoo.tasks.linear import ALL, Rows, Solution, ridge


@dataclass(frozen=True)
class Regression(Task):
    """Labels are (N, K) float32 numbers, answers the logits themselves."""

    name: str = "regression"
    column: str = "target"
    units: str = "numbers to predict"
    loss: str = "mse"
    other_losses: tuple[str, ...] = ("mae",)
    exclusive: bool = False
    probabilities: bool = False
    main_output: str = "values"
    outputs: frozenset[str] = frozenset({"values", "class_names"})
    digits: str = ".9g"

    def make_metric(self, *, soft: bool = False) -> Any:
        """Mean absolute error."""
        import keras

        return keras.metrics.MeanAbsoluteError(name="mae")

    def answers(self, logits: Any) -> Any:
        """The logits."""
        return logits

    def pooled(self, logits: Sequence[Any]) -> Any:
        """The means."""
        return sum(logits) / len(logits)

    def read_columns(
        self, where: str, columns: Sequence[Sequence[Any]], names: Sequence[str]
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """The numbers from a column for each."""
        return numbers(where, columns, names).astype(np.float32), tuple(names)

    def from_stored(self, values: Sequence[Any], units: int) -> np.ndarray:
        """The numbers."""
        return np.array(values, np.float32).reshape(len(values), -1)

    def text(self, label: Any, names: Sequence[str]) -> str:
        """The numbers."""
        return ", ".join(f"{number:g}" for number in label)

    def scores(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Minus the mean absolute errors."""
        scores: np.ndarray = -np.abs(logits - labels).mean(axis=1)
        return scores

    def losses(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The mean squared errors."""
        losses: np.ndarray = ((logits.astype(np.float64) - labels) ** 2).mean(axis=1)
        return losses

    def losses_of_answers(self, answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """As in `Task`."""
        return self.losses(answers, labels)

    def chart_values(self, score: float) -> dict[str, float]:
        """As in `Task`."""
        return {"mae": -score}

    def solutions(
        self, x: np.ndarray, y: np.ndarray, w: np.ndarray, path: Sequence[float], rows: Rows = ALL
    ) -> Iterator[Solution]:
        """Ridge regression."""
        yield from (ridge(x[rows], y[rows], w[rows], penalty) for penalty in path)

    def predicted(self, answers: np.ndarray) -> np.ndarray:
        """(N, K) numbers."""
        return answers

    def quality(self, labels: np.ndarray, answers: np.ndarray) -> tuple[str, float]:
        """The share of the variance that is explained; 0 where there is none."""
        return "r2", float(self.metrics(labels, answers)["r2"] or 0)

    def metrics(self, labels: np.ndarray, answers: np.ndarray) -> dict[str, Any]:
        """The metrics mae, rmse and r2."""
        wide = labels.astype(np.float64)
        error = answers - wide
        unexplained = (error**2).sum()
        all_of_it = ((wide - wide.mean(axis=0)) ** 2).sum()
        return {
            "mae": float(np.abs(error).mean()),
            "rmse": float(np.sqrt((error**2).mean())),
            "r2": float(1 - unexplained / all_of_it) if all_of_it else None,
        }

    def line(self, labels: np.ndarray, answers: np.ndarray) -> str:
        """The metrics in one line."""
        values = self.metrics(labels, answers)
        return ", ".join(f"{name} {value:.4g}" for name, value in values.items() if value is not None)

    def columns(self, names: Sequence[str]) -> list[str]:
        """The true numbers and the predicted numbers."""
        return [*names, *(f"predicted_{name}" for name in names)]

    def cells(self, label: Any, predicted: Any, answer: np.ndarray, names: Sequence[str]) -> list[str | float]:
        """As in `Task`."""
        return [*label, *answer]

    def labels_of_cells(self, rows: Sequence[Sequence[str]], names: Sequence[str]) -> np.ndarray:
        """The numbers."""
        return np.array([[float(cell) for cell in row[: len(names)]] for row in rows], np.float32)

    def signature(self, answers: Any, every: Any, names: Any, count: int) -> Mapping[str, Any]:
        """As in `Task`."""
        return {"values": answers, "class_names": every}

    def top(self, answer: np.ndarray, names: Sequence[str], count: int) -> tuple[tuple[str, float], ...]:
        """As in `Task`."""
        return tuple(zip(names, map(float, answer), strict=True))

    def top_json(self, top: Sequence[tuple[str, float]], labels: Sequence[str] | None = None) -> dict[str, Any]:
        """As in `Task`."""
        return {"values": dict(top)}
