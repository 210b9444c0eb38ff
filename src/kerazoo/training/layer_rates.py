"""A learning rate for each layer: the optimizer's rate times a factor that falls from the head to the stem.

Source: "discriminative fine-tuning", Howard & Ruder 2018, arXiv:1801.06146, section 3.2.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import keras

from kerazoo.keras_private import all_layers, index_of
from kerazoo.models.registry import Entry, Network


def rates_of(model: keras.Model, entry: Entry, decay: float) -> dict[str, float]:
    """The factor of each trainable variable by its path: 1 for the head, `decay` for the last stage, then its powers.

    The stages are those of the backbone; a network of the zoo is one stage.
    """
    names = [layer.name for layer in model.layers]
    head = names.index("features")
    stages = () if isinstance(entry, Network) else entry.stages
    ends = [names.index(stage) for stage in stages[:-1]]
    factors: dict[str, float] = {}
    for index, layer in enumerate(model.layers):
        above = 0 if index >= head else 1 + sum(index <= end for end in ends)
        factors |= {variable.path: decay**above for variable in layer.trainable_variables}
    return factors


def with_norm_bias_rate(model: keras.Model, rate: float, factors: Mapping[str, float]) -> dict[str, float]:
    """`factors`, with those of the biases (beta) of batch norms multiplied by `rate`.

    Source: "scaled bias", Jordan 2024, arXiv:2404.00498, section 3.4: the biases learn 64 times as fast.
    """
    norms = [layer for layer in all_layers(model) if isinstance(layer, keras.layers.BatchNormalization)]
    biases = [layer.beta.path for layer in norms if layer.beta is not None]
    return {**factors, **{path: rate * factors.get(path, 1.0) for path in biases}}


class LayerRates:
    """A mixin before an optimizer class: multiply its rate, and decoupled decay, by a factor for each variable.

    `factors` maps the variables' paths to factors, which are 1 by default. `decay` subtracts rate * factor * decay * w
    from w before the gradient's step, except for variables whose path matches `spared`.
    """

    def __init__(self, *args: Any, factors: Mapping[str, float], decay: float, spared: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.factors = dict(factors)
        self.decay = decay
        self.spared = spared

    def build(self, variables: list[Any]) -> None:
        """Look up each variable's factor and decay."""
        super().build(variables)  # type: ignore[misc]
        self._factors = [self.factors.get(variable.path, 1.0) for variable in variables]
        self._decays = [0.0 if re.search(self.spared, variable.path) else self.decay for variable in variables]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable."""
        index = index_of(self, variable)
        rate = learning_rate * self._factors[index]
        if self._decays[index]:
            self.assign_sub(variable, variable * keras.ops.cast(rate * self._decays[index], variable.dtype))  # type: ignore[attr-defined]
        super().update_step(gradient, variable, rate)  # type: ignore[misc]

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        config: dict[str, Any] = super().get_config()  # type: ignore[misc]
        return config | {"factors": self.factors, "decay": self.decay, "spared": self.spared}


@functools.cache
def with_layer_rates(kind: type[keras.optimizers.Optimizer]) -> type[keras.optimizers.Optimizer]:
    """The optimizer class `kind` with a rate for each layer; it also takes `factors`, `decay` and `spared`."""
    return type(f"{kind.__name__}ByLayer", (LayerRates, kind), {})
