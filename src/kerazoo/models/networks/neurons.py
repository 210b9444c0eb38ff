"""Single layers of neurons: the threshold unit (Rosenblatt 1958) and the sigmoid neuron."""

import keras
from keras import layers

from kerazoo.models.argument_checks import check_choice, check_counts
from kerazoo.models.heads.classifier import attach
from kerazoo.models.layers import Threshold


def perceptron(
    *, input_shape: tuple[int, ...] = (28, 28, 1), num_classes: int = 10, output: str = "logits"
) -> keras.Model:
    """(B, ...) -> (B, num_classes): one threshold unit for each class over all inputs, z = w x + b.

    `output="logits"` gives z, for the perceptron criterion (`losses.PerceptronCriterion`); `output="threshold"` gives
    the unit's own answer, 1 if z >= 0 else 0, with a straight-through gradient. Weights start at zero, as in the
    rule's convergence proof. It learns classes that one hyperplane can separate: AND and OR, but not XOR.

    `input_shape` is any shape without the batch: (2,) for two inputs. Raises ModelError.
    Source: Rosenblatt 1958, "The perceptron"; Minsky & Papert 1969 for XOR.
    """
    check_choice(output, ("logits", "threshold"), name="output", model="perceptron")
    inputs, logits = _layer(input_shape, num_classes, "perceptron", "zeros")
    outputs = logits if output == "logits" else Threshold(name="threshold")(logits)
    return keras.Model(inputs, outputs, name="perceptron")


def sigmoid_neuron(*, input_shape: tuple[int, ...] = (28, 28, 1), num_classes: int = 10) -> keras.Model:
    """(B, ...) -> (B, num_classes) logits z of sigmoid neurons; the neuron's output is sigmoid(z).

    Use it with the quadratic cost (`losses.QuadraticCost`), which applies the sigmoid itself. Raises ModelError.
    Source: Nielsen 2015, "Neural Networks and Deep Learning", chapter 1.
    """
    inputs, logits = _layer(input_shape, num_classes, "sigmoid_neuron", "glorot_uniform")
    return keras.Model(inputs, logits, name="sigmoid_neuron")


def _layer(
    input_shape: tuple[int, ...], num_classes: int, model: str, initializer: str
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    shape = check_counts(input_shape, name="input_shape", model=model)
    inputs = keras.Input(shape, name="inputs")
    x = layers.Flatten(name="flatten")(inputs)
    return inputs, attach(x, num_classes, model=model, kernel_initializer=initializer)
