"""What the findings say of numbers whose answer is known; planted faults in trainings: `test_diagnostics.py`."""

import json
import math

import numpy as np
import pytest

from kerazoo.insight.findings import data, learning, network
from kerazoo.insight.findings.finding import Finding, lines, rank, reaches, to_json


def named(finding, name, severity):
    return finding is not None and (finding.name, finding.severity) == (name, severity)


def test_ranked_worst_first_printed_and_as_json():
    found = [
        Finding("a", "note", "", {"x": 1.0}, "Means.", "Nothing."),
        None,
        Finding("b_c", "serious", "conv", {"y": math.inf}, "Means.", "Do.", (3, 1)),
    ]
    assert [one.name for one in rank(found)] == ["b_c", "a"]
    assert lines(rank(found))[:3] == ["serious: b c (conv): y inf", "  Means.", "  Change: Do."]
    read = json.loads(to_json(rank(found)))["findings"]
    assert read[0] == {
        "name": "b_c", "severity": "serious", "where": "conv", "evidence": {"y": "inf"}, "meaning": "Means.",
        "change": "Do.", "examples": [3, 1],
    }  # fmt: skip
    assert reaches(rank(found), "warning")
    assert not reaches([found[0]], "warning")
    assert lines([]) == ["no findings"]


def test_loss_at_start_is_that_of_a_guess():
    assert learning.loss_at_start(math.log(10), 10) is None
    assert named(learning.loss_at_start(3.0, 10), "loss_at_start", "note")
    assert named(learning.loss_at_start(6.0, 10), "loss_at_start", "warning")
    assert learning.loss_at_start(math.nan, 10) is None


def test_nothing_learned_is_the_entropy_of_the_labels():
    assert named(learning.nothing_learned(math.log(10), math.log(10)), "nothing_learned", "serious")
    assert named(learning.nothing_learned(math.log(10), math.log(10), steps=100), "nothing_learned", "warning")
    assert learning.nothing_learned(2.0, math.log(10)) is None
    assert learning.nothing_learned(0.1, 0.0) is None  # one class only


@pytest.mark.parametrize(
    ("ratio", "progress", "dead", "expected"),
    [
        (1e-3, 1.0, 0.0, None),
        (1e-6, 0.99, 0.0, ("update_ratio_low", "warning")),
        (1e-6, 0.2, 0.0, ("update_ratio_low", "note")),
        (0.1, None, 0.0, ("update_ratio_high", "warning")),
        (0.1, 0.2, 0.0, ("update_ratio_high", "note")),
        (0.1, 0.2, 0.9, ("update_ratio_high", "note")),
        (0.1, 0.7, 0.9, ("update_ratio_high", "warning")),
        (0.1, 1.0, 0.0, ("update_ratio_high", "serious")),
        (0.0, 1.0, 1.0, None),
    ],
)
def test_update_ratio_weighs_as_much_as_the_loss(ratio, progress, dead, expected):
    finding = learning.update_ratio({"a": [ratio] * 60, "b": [ratio] * 60}, progress=progress, dead=dead)
    assert finding is None if expected is None else named(finding, *expected)


def test_a_rate_that_ends_at_zero_is_not_low():
    assert learning.update_ratio({"a": [1e-3] * 50 + [1e-7] * 500}) is None
    assert learning.update_ratio({"a": [math.nan] * 3}) is None


def test_a_large_first_update_that_killed_the_network_is_named():
    died = {"a": [0.05, 0.0, 0.0, 0.0], "b": [0.05, 0.0, 0.0, 0.0]}
    assert named(learning.update_ratio(died, progress=1.0, dead=0.9), "update_ratio_high", "serious")
    assert learning.update_ratio(died, progress=1.0) is None
    assert learning.update_ratio(died, progress=0.3, dead=0.9) is None


def test_unmoved_weights_are_those_that_no_update_changed():
    assert learning.unmoved({"a": [0.0, 0.1], "b": [0.1]}) is None
    finding = learning.unmoved({"a": [0.0, 0.0], "b": [0.1, 0.1]})
    assert named(finding, "unmoved_weights", "warning")
    assert finding.where == "a"
    assert named(learning.unmoved({"a": [0.0]}), "unmoved_weights", "serious")


def test_gradients_by_depth_are_root_mean_squares_a_weight():
    shrinking = {str(n): [10.0 ** (2 * n)] for n in range(5)}  # each layer a tenth of the one after it
    finding = learning.gradients_by_depth(shrinking, progress=0.95)
    assert named(finding, "vanishing_gradients", "serious")
    assert finding.evidence["ratio"] == pytest.approx(1e-4)
    assert named(learning.gradients_by_depth(shrinking, progress=0.1), "vanishing_gradients", "note")
    growing = dict(reversed(shrinking.items()))
    assert named(learning.gradients_by_depth(growing), "exploding_gradients", "warning")
    assert learning.gradients_by_depth({key: [1.0] for key in "abcde"}) is None
    assert learning.gradients_by_depth({"a": [1e-9], "b": [1.0]}) is None  # too few layers


def test_a_spike_is_ten_times_the_median_before_it():
    norms = [1.0] * 60
    assert learning.gradient_spikes(norms) is None
    finding = learning.gradient_spikes([*norms, 25.0, 1.0])
    assert named(finding, "gradient_spikes", "note")
    assert finding.evidence["largest_factor"] == 25
    assert named(learning.gradient_spikes(norms + [1.0, 1.0, 1.0, 25.0] * 20), "gradient_spikes", "warning")


def test_noise_scale_of_gaussian_gradients_is_their_variance_over_their_mean():
    """Gradients of one example N(g, s^2 I) in d dimensions: tr(S) / |G|^2 = d s^2 / |g|^2."""
    rng = np.random.default_rng(0)
    dimensions, size, spread = 2000, 4, 0.3
    mean = np.full(dimensions, 0.1)
    micro = mean + rng.normal(size=(64, dimensions)) * spread / math.sqrt(size)
    norms = np.linalg.norm(micro, axis=1)
    expected = dimensions * spread**2 / (mean @ mean)
    assert learning.noise_scale(norms, np.linalg.norm(micro.mean(0)), size) == pytest.approx(expected, rel=0.1)
    noise = rng.normal(size=(64, dimensions))
    assert learning.noise_scale(np.linalg.norm(noise, axis=1), np.linalg.norm(noise.mean(0)), size) is None
    assert learning.noise_scale(norms[:4], 1.0, size) is None  # too few
    assert learning.batch_against_noise(None, 64) is None
    assert learning.batch_against_noise(100.0, 64) is None
    assert named(learning.batch_against_noise(1000.0, 64), "noise_scale", "note")
    assert "larger batch" in learning.batch_against_noise(1000.0, 64).meaning
    assert "smaller batch" in learning.batch_against_noise(3.0, 64).meaning


def test_non_finite_names_step_layer_and_images():
    finding = learning.non_finite(7, cause="input", examples=[2], saved="batch.npz")
    assert (finding.where, finding.examples) == ("step 7, the input", (2,))
    assert "batch.npz" in finding.change
    assert learning.non_finite(7, cause="output", layer="logits").where == "step 7, logits"
    assert learning.non_finite(7).where == "step 7"


def test_dead_and_saturated_units():
    assert network.dead_units({"a": 0.1}) is None
    assert named(network.dead_units({"a": 0.2, "b": 0.1}), "dead_units", "warning")
    assert named(network.dead_units({"a": 0.2, "b": 0.0, "c": 0.0}), "dead_units", "note")  # few of all
    assert named(network.dead_units({"a": 0.5, "b": 0.0, "c": 0.0, "d": 0.0, "e": 0.0}), "dead_units", "serious")
    finding = network.dead_units({"a": 0.2, "b": 0.5})
    assert named(finding, "dead_units", "serious")
    assert finding.where == "b"
    assert named(network.dead_units({"a": 0.5}, progress=0.1), "dead_units", "warning")
    assert named(network.dead_units({"a": 0.3}, progress=0.1), "dead_units", "note")
    assert named(network.dead_units({"a": 0.5}, images=64), "dead_units", "note")
    assert network.saturated_units({"a": 0.5}) is None
    assert named(network.saturated_units({"a": 0.6}), "saturated_units", "warning")


def test_batch_norm_lag_weighs_as_much_as_it_costs():
    assert network.batch_norm_lag({"a": 0.1}, {"a": 0.1}) is None
    for gap, severity in ((None, "warning"), (0.5, "serious"), (0.03, "warning"), (0.0, "note")):
        assert named(network.batch_norm_lag({"a": 0.1}, {"a": 3.9}, gap=gap), "batch_norm_lag", severity)


def test_outputs_and_loss_agree():
    right = {"sum_error": 1e-7, "lowest": 0.0}
    assert named(network.output_activation(from_logits=True, **right), "softmax_twice", "serious")
    assert network.output_activation(from_logits=False, **right) is None
    logits = {"sum_error": 4.0, "lowest": -3.0}
    assert network.output_activation(from_logits=True, **logits) is None
    assert named(network.output_activation(from_logits=False, **logits), "softmax_missing", "serious")
    best = np.eye(10)[0]
    assert network.loss_floor(10) == pytest.approx(-math.log(math.exp(best[0]) / np.exp(best).sum()))


@pytest.mark.parametrize(
    ("values", "arguments", "found"),
    [
        ((0.0, 255.0, 33.0), {"expects": (-1, 1)}, True),
        ((-1.0, 1.0, 0.0), {"expects": (-1, 1)}, False),
        ((0.0, 1.0, 0.3), {"expects": (-1, 1)}, False),
        ((0.0, 0.004, 0.001), {"expects": (-1, 1)}, True),
        ((0.0, 255.0, 33.0), {}, True),
        ((0.0, 255.0, 33.0), {"scaled": True}, False),
        ((-2.1, 2.6, 0.0), {}, False),
        ((0.0, 0.0039, 0.001), {}, True),
        ((math.nan, math.nan, math.nan), {}, False),
    ],
)
def test_input_range(values, arguments, found):
    finding = network.input_range(*values, **arguments)
    assert (finding is not None) == found
    assert finding is None or finding.evidence["highest"] == values[1]


def test_frozen_weights_that_move_and_features_that_move_first():
    assert network.frozen_moves([], 3) is None
    assert named(network.frozen_moves(["a"], 3), "frozen_weights_move", "serious")
    assert network.feature_movement({"one": 0.01, "two": 0.5}, head=0.1) is None  # late blocks may
    assert network.feature_movement({"one": 0.2, "two": 0.2}, head=1.0) is None  # the head moved first
    assert named(network.feature_movement({"one": 0.2, "two": 0.2}, head=0.1), "feature_movement", "warning")
    assert network.feature_movement({}, head=0.1) is None


def test_label_errors_lists_the_lowest_margins():
    margins = np.full(100, 3.0)
    margins[[5, 40, 7]] = -9.0, -1.0, np.nan
    finding = data.label_errors(margins, epochs=5)
    assert named(finding, "label_errors", "note")
    assert finding.examples == (5, 40)
    assert data.label_errors(margins, epochs=2) is None
    assert data.label_errors(-margins, epochs=5) is None  # nothing was learned
    assert data.label_errors(np.full(100, 3.0), epochs=5) is None


def test_overfitting_is_a_loss_that_rose_for_long():
    rising = [1.0, 0.5, 0.4, 0.5, 0.6, 0.7]
    assert named(data.overfitting(rising, 0.1), "overfitting", "warning")
    assert named(data.overfitting(rising, 0.1, kept_best=True), "overfitting", "note")
    assert data.overfitting(rising, 0.6) is None  # the training loss is as high
    assert data.overfitting(sorted(rising, reverse=True), 0.1) is None
    assert data.overfitting([1.0, 0.5, 0.52, 0.53], 0.1) is None  # hardly
    assert data.overfitting([1.0], 0.1) is None


def test_data_bound_is_a_share_of_the_step():
    assert data.data_bound(0.1, 1.0) is None
    assert named(data.data_bound(0.3, 1.0), "data_bound", "warning")
    assert named(data.data_bound(0.6, 1.0), "data_bound", "serious")
    assert data.data_bound(0.005, 0.01) is None  # what Python takes
    assert data.data_bound(0.0, 0.0) is None


def test_a_batch_that_takes_as_long_as_a_step_sets_the_pace():
    assert data.data_alone(0.05, 0.1) is None
    assert named(data.data_alone(0.098, 0.1), "data_bound", "warning")
    assert data.data_alone(0.0009, 0.001) is None
    assert data.data_alone(0.0, 0.0) is None
