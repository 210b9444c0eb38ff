"""All loggers and the diagnostics at once, at every step: training ends with the bits of one without any of them."""

import pytest
from conftest import Memory
from observed import check_observed, check_observed_apart

from kerazoo.callbacks import Diagnostics, EpochMetrics, FeatureMapLogger, GradientLogger, WeightLogger


def everything(model, x):
    writer = Memory()
    diagnostics = Diagnostics(data=(x, (x[:, 0, 0, 0] > 0).astype("int64")), own_gradients=False)
    options = {"every": 1, "histograms": True}
    return [
        GradientLogger([writer, diagnostics], **options),
        WeightLogger([writer, diagnostics], **options),
        FeatureMapLogger([writer, diagnostics], x[:2], **options),
        diagnostics,
        EpochMetrics(writer),
    ]


EVERYTHING = "from test_all_loggers import everything as callbacks"


# slow: each is two trainings, one of them with all loggers
SLOW = [pytest.param(mode, marks=pytest.mark.slow) for mode in ("eager", "XLA", "accumulated", "float16")]


@pytest.mark.parametrize("mode", ["graph", *SLOW])
def test_in_every_way_to_train(mode):
    check_observed(mode, everything)


@pytest.mark.slow  # processes of their own; test_devices.py has the gradients of replicas
def test_on_two_devices():
    check_observed_apart(["mirrored"], EVERYTHING)


@pytest.mark.slow  # a process of its own; test_gradients.py and test_feature_maps.py have JAX each
def test_on_jax():
    check_observed_apart(["graph"], EVERYTHING, backend="jax")
