"""Custom layers: values by hand, the size formula over the whole zoo, and the same results on the JAX backend."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import kerazoo
from kerazoo.models.layers import MinPooling2D, ShortcutA, SumPooling2D, Threshold
from kerazoo.models.registry import NETWORKS, describe

WINDOWED = (
    keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D,
    keras.layers.MaxPooling2D, keras.layers.AveragePooling2D, MinPooling2D, SumPooling2D,
)  # fmt: skip


def windows(x, size, stride, padding):
    """Every window of a (H, W) array by the formulas of the notes; padding marked with NaN."""
    height, width = x.shape
    if padding == "same":
        pads = []
        for side in (height, width):
            total = max((-(-side // stride) - 1) * stride + size - side, 0)
            pads.append((total // 2, total - total // 2))
        x = np.pad(x, pads, constant_values=np.nan)
    rows = (x.shape[0] - size) // stride + 1
    columns = (x.shape[1] - size) // stride + 1
    return [
        [x[i * stride : i * stride + size, j * stride : j * stride + size] for j in range(columns)]
        for i in range(rows)
    ]  # fmt: skip


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2), (2, 1), (3, 3)])
@pytest.mark.parametrize(("layer", "reduce"), [(MinPooling2D, np.nanmin), (SumPooling2D, np.nansum)])
def test_pooling_by_hand(layer, reduce, size, stride, padding):
    x = np.random.default_rng(0).normal(size=(2, 7, 6, 3)).astype(np.float32)
    pooling = layer(size, strides=stride, padding=padding)
    found = np.array(pooling(x))
    expected = np.array(
        [
            [[reduce(w) for w in row] for row in windows(x[b, ..., c], size, stride, padding)]
            for b in range(2)
            for c in range(3)
        ]
    ).reshape(2, 3, *found.shape[1:3])
    np.testing.assert_allclose(found, expected.transpose(0, 2, 3, 1), atol=1e-5)
    assert pooling.compute_output_shape((None, 7, 6, 3)) == (None, *found.shape[1:])


def assert_size_formula(model):
    """Holds it for every convolution and pooling of a flat network; how many there are."""
    found = [layer for layer in model.layers if isinstance(layer, WINDOWED)]
    for layer in found:
        window = np.ravel(getattr(layer, "kernel_size", None) or layer.pool_size)
        stride = np.ravel(layer.strides)[0]
        for axis in (1, 2):
            before, after = layer.input.shape[axis], layer.output.shape[axis]
            size = window[(axis - 1) % len(window)]  # Inception has kernels of 1x7 and 7x1
            total = max((-(-before // stride) - 1) * stride + size - before, 0) if layer.padding == "same" else 0
            assert after == (before - size + total) // stride + 1, layer.name
    return len(found)


@pytest.mark.parametrize("name", [n.name for n in NETWORKS if n.name not in ("perceptron", "sigmoid_neuron", "mlp")])
@pytest.mark.parametrize("shape", [(28, 28, 1), (33, 29, 3)])
def test_size_formula_holds_for_every_window_in_the_zoo(name, shape):
    """floor((W - K + 2P) / S) + 1, where 2P is the total padding: 0 for valid; for same what makes it ceil(W / S)."""
    variants = [{}]
    if "padding" in describe(name):
        variants = [{"padding": p, "strides": s, "filters": (3,)} for p in ("same", "valid") for s in (1, 2)]
    for arguments in variants:
        model = kerazoo.build(name, input_shape=shape, **arguments)
        assert assert_size_formula(model) or name == "recurrent"


@pytest.mark.parametrize("size", [1, 2, 5, 8, 13])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_padding_is_asymmetric_where_it_must(size, kernel, stride):
    """An impulse at the first pixel is seen by kernel tap [left padding]: the extra zero goes right and below."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    x = np.zeros((1, size, size, 1), np.float32)
    x[0, 0, 0, 0] = 1.0
    layer = keras.layers.Conv2D(1, kernel, strides=stride, padding="same", use_bias=False)
    layer.build(x.shape)
    taps = np.arange(1, kernel * kernel + 1, dtype=np.float32).reshape(kernel, kernel)
    layer.set_weights([taps[..., None, None]])
    y = np.array(layer(x))
    assert y.shape[1] == -(-size // stride)
    assert y[0, 0, 0, 0] == taps[total // 2, total // 2]


def test_threshold_and_shortcut():
    x = np.array([[-2.0, -0.0, 0.0, 1e-9, 3.7e8]], np.float32)
    np.testing.assert_array_equal(Threshold()(x), [[0, 1, 1, 1, 1]])
    image = np.arange(5 * 4 * 2, dtype=np.float32).reshape(1, 5, 4, 2)
    y = np.array(ShortcutA(6, 2)(image))
    assert y.shape == (1, 3, 2, 6)
    np.testing.assert_array_equal(y[..., 2:4], image[:, ::2, ::2])
    assert not y[..., [0, 1, 4, 5]].any()


IN_JAX = """
import json, sys
import numpy as np, keras, kerazoo
assert keras.config.backend() == "jax"
path, x = sys.argv[1], np.load(sys.argv[2])
for name, arguments in json.loads(sys.argv[3]).items():
    network = arguments.pop("network")
    model = kerazoo.build(network, input_shape=x.shape[1:], **arguments)
    model = keras.Model.from_config(model.get_config())
    model.load_weights(f"{path}/{name}.weights.h5")
    np.save(f"{path}/{name}.npy", keras.ops.convert_to_numpy(model(x, training=False)))
"""


@pytest.mark.slow  # a process that builds every layer on JAX
def test_jax_gives_the_same_answers(tmp_path):
    """Threshold, min and sum pooling and the shortcut, built, rebuilt from config and run on both backends."""
    pytest.importorskip("jax", reason="the [jax] extra is not installed")
    cases = {
        "threshold": {"network": "mlp", "activation": "threshold"},
        "min": {"network": "cnn", "pooling": "min", "filters": [4, 4], "activation": "tanh"},
        "sum": {"network": "cnn", "pooling": "sum", "filters": [4, 4]},
        "shortcut": {"network": "resnet20"},
        "whitening": {"network": "fast_cnn", "filters": [4, 6]},
        "min_same": {"network": "cnn", "pooling": "min", "strides": 2, "filters": [4], "activation": "tanh"},
    }
    x = np.random.default_rng(0).normal(size=(3, 11, 13, 2)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    keras.utils.set_random_seed(0)
    expected = {}
    for name, case in cases.items():
        arguments = {key: value for key, value in case.items() if key != "network"}
        model = kerazoo.build(case["network"], input_shape=x.shape[1:], **arguments)
        model.save_weights(tmp_path / f"{name}.weights.h5")
        expected[name] = np.array(model(x, training=False))
    command = [sys.executable, "-c", IN_JAX, str(tmp_path), str(tmp_path / "x.npy"), json.dumps(cases)]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # compiling them takes longer than what they save
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, answers in expected.items():
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), answers, atol=1e-4, err_msg=name)
        assert np.ptp(answers) > 0
