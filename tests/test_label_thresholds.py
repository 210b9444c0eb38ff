"""Thresholds of labels: chosen by F1, kept if cross-fitting says so, part of the model, and used by predictions."""

import csv
import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
from made_runs import evaluation
from PIL import Image
from servers import serving
from sklearn.metrics import f1_score

import kerazoo
from kerazoo.errors import RunError
from kerazoo.evaluation.label_thresholds import choose_thresholds
from kerazoo.exports.passport import write_passport
from kerazoo.exports.saved_model import ExportedModel
from kerazoo.exports.signatures import write_saved_model
from kerazoo.files import read_json, sha256, write_json
from kerazoo.models.saved import load_model
from kerazoo.serving.predict import Prediction
from kerazoo.tasks.columns import join_labels, split_labels
from kerazoo.tasks.thresholds import best_threshold, cross_fitted_labels, given_labels, kept_thresholds

RNG = np.random.default_rng(0)


def some_label(rng, examples=40):
    """A label and probabilities that know something of it, with equal ones among them."""
    has = rng.random(examples) < rng.uniform(0.1, 0.9)
    chances = np.clip(has * rng.uniform(0, 0.5) + rng.random(examples) * rng.uniform(0.3, 1), 0, 1)
    return has, np.round(chances, rng.integers(1, 4)).astype(np.float32)


def score(has, given):
    """F1 by counting, which is much faster than scikit-learn's."""
    right, wrong = (has & given).sum(), (has ^ given).sum()
    return 2 * right / max(2 * right + wrong, 1)


def best_of_all(has, chances):
    """The largest F1 of all cuts between probabilities."""
    return max(score(has, chances >= cut) for cut in np.unique(chances[chances > 0]))


# -- the choice -------------------------------------------------------------------------------------------------------


def test_the_best_threshold_is_as_good_as_any_and_0_5_if_that_is():
    rng = np.random.default_rng(1)
    halves = 0
    for _ in range(60):
        has, chances = some_label(rng)
        threshold = best_threshold(has, chances)
        best = best_of_all(has, chances)
        assert 0 < threshold < 1
        assert score(has, chances >= threshold) == pytest.approx(best)
        at_half = score(has, chances >= 0.5) == pytest.approx(best)
        assert (threshold == 0.5) == at_half
        halves += at_half
    assert 5 < halves < 55


def test_thresholds_at_the_edges():
    has = np.array([1, 1, 1, 0, 0, 0], bool)
    assert best_threshold(has, np.array([0.4, 0.3, 0.25, 0.2, 0.1, 0.0])) == pytest.approx(0.225)
    assert best_threshold(has, np.array([0.9, 0.8, 0.7, 0.3, 0.2, 0.1])) == 0.5
    assert best_threshold(has, np.array([0.9, 0.8, 0.6, 0.55, 0.2, 0.1])) == pytest.approx(0.575)
    assert 0 < best_threshold(has, np.full(6, 0.3)) <= 0.3  # all or none
    assert best_threshold(~has, np.zeros(6)) == 0.5  # a probability of 0 is never enough
    assert 0 < best_threshold(~has, np.array([1, 1, 1, 0, 0, 1e-45], np.float32)) < 1
    high = np.float32(0.7)  # in float32 no threshold lies between it and the next lower number, and 0.5 is too low
    answers = np.tile([high, np.nextafter(high, np.float32(0)), np.float32(0.1)], 10)
    labels = np.tile([1, 0, 0], 10)
    (threshold,) = kept_thresholds(labels[:, None], answers[:, None])
    assert f1_score(labels, given_labels(answers[:, None], (threshold,))[:, 0]) == 1


def fitted(has, chances, choose):
    """The answers of five folds, in turn within those that have the label and those that do not."""
    given = np.zeros(len(has), bool)
    for fold in range(5):
        out = np.zeros(len(has), bool)
        for group in (np.flatnonzero(has), np.flatnonzero(~has)):
            out[group[fold::5]] = True
        given[out] = chances[out] >= choose(has[~out], chances[~out])
    return given


def kept_by_hand(has, chances):
    if min(has.sum(), (~has).sum()) < 5:
        return 0.5
    cross_fitted = score(has, fitted(has, chances, best_threshold))
    return best_threshold(has, chances) if cross_fitted > score(has, chances >= 0.5) else 0.5


def test_a_threshold_is_kept_only_where_cross_fitting_says_so():
    rng = np.random.default_rng(2)
    pairs = [some_label(rng) for _ in range(40)]
    labels, answers = (np.stack(each, axis=1) for each in zip(*pairs, strict=True))
    expected = tuple(kept_by_hand(has, chances.astype(np.float64)) for has, chances in pairs)
    found = kept_thresholds(labels.astype(np.float32), answers)
    assert found == pytest.approx(expected)
    tempting = [best_threshold(*pair) != 0.5 and kept == 0.5 for pair, kept in zip(pairs, expected, strict=True)]
    assert 3 < sum(tempting) < 20
    assert sum(kept != 0.5 for kept in expected) > 10
    given = cross_fitted_labels(labels, answers)
    for column, (has, chances) in enumerate(pairs):
        np.testing.assert_array_equal(given[:, column], fitted(has, chances.astype(np.float64), kept_by_hand))


def test_too_few_examples_and_perfect_answers_keep_0_5():
    rare = np.arange(50) < 4
    assert kept_thresholds(np.stack([rare, ~rare], 1), np.stack([rare * 0.3, 1 - rare * 0.3], 1)) == ()
    rare = np.arange(50) < 5
    (found,) = kept_thresholds(rare[:, None], rare[:, None] * 0.3)
    assert found == pytest.approx(0.15)
    assert kept_thresholds(rare[:, None], rare[:, None] * 0.9) == ()


# -- the metrics ------------------------------------------------------------------------------------------------------


def test_the_metrics_are_those_of_scikit_learn_and_a_threshold_changes_no_other():
    labels = (RNG.random((80, 4)) < [0.3, 0.5, 0.2, 0]).astype(np.float32)  # the last one does not occur
    answers = np.clip(labels * 0.3 + RNG.random((80, 4)) * 0.4, 0, 1).astype(np.float32)
    plain = evaluation(range(80), labels, answers, "abcd", "multilabel")
    chosen = choose_thresholds(plain)
    assert chosen.chose
    assert chosen.thresholds[3] == 0.5
    assert min(chosen.thresholds) < 0.4
    others = replace(chosen, chose=False)
    at_half = f1_score(labels[:, :3], answers[:, :3] >= 0.5, average="macro")
    assert plain.metrics()["macro_f1"] == pytest.approx(at_half)
    kept = f1_score(labels[:, :3], (answers.astype(np.float64) >= chosen.thresholds)[:, :3], average="macro")
    assert others.metrics()["macro_f1_thresholds"] == pytest.approx(kept)
    fitted_f1 = f1_score(labels[:, :3], cross_fitted_labels(labels, answers)[:, :3], average="macro")
    assert chosen.metrics()["macro_f1_thresholds"] == pytest.approx(fitted_f1)
    assert at_half < fitted_f1 < kept  # the answers that chose the thresholds flatter them
    assert f"macro F1 {at_half:.4f}, mean" in chosen.line()
    assert f"macro F1 at the labels' thresholds by cross-fitting {fitted_f1:.4f}, loss" in chosen.line()
    assert f"macro F1 at the labels' thresholds {kept:.4f}, loss" in others.line()
    for result in (chosen, others):
        assert {**result.summary(), "val_macro_f1_thresholds": None} == {
            **plain.summary(), "val_macro_f1_thresholds": None,
        }  # fmt: skip
        assert result.loss == plain.loss
        np.testing.assert_array_equal(result.predicted, plain.predicted)
    assert "macro_f1_thresholds" not in plain.metrics()
    none = evaluation(range(4), np.zeros((4, 2)), np.full((4, 2), 0.6), "ab", "multilabel")
    assert none.metrics()["macro_f1"] is None
    classes = evaluation(range(4), np.zeros(4, np.int64), np.full((4, 2), 0.5), "ab")
    assert choose_thresholds(classes) is classes


# -- the cells of names -----------------------------------------------------------------------------------------------


def test_labels_in_a_cell_are_read_again_whatever_their_names():
    rng = np.random.default_rng(3)
    for _ in range(200):
        words = {"".join(rng.choice(list("ab|\\"), rng.integers(1, 4))) for _ in range(rng.integers(1, 8))}
        names = tuple(rng.permutation(sorted(words)))
        labels = (rng.random((4, len(names))) < 0.5).astype(np.float32)
        cells = [join_labels(row, names) for row in labels]
        np.testing.assert_array_equal(split_labels(cells, names), labels, err_msg=f"{names}")
    assert join_labels([1, 0, 1], ("a", "b", "c\\d")) == "a|c\\d"  # names without a `|` are as they were


def test_cells_of_earlier_versions_are_read():
    assert split_labels(["a|b|c", "b|c", "", "a|d\\e"], ("a", "b|c", "d\\e")).tolist() == [
        [1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1],
    ]  # fmt: skip
    assert split_labels(["a|c"], ("a", "a|c")).tolist() == [[0, 1]]
    for cell in ("x", "a|", "|", "a|a", "c|a", "b"):
        for names in (("a", "c"), ("a", "b|c", "c")):
            with pytest.raises(ValueError, match="has a label that is not known"):
                split_labels([cell], names)


# -- runs, predictions and exports ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose labels are rare, so that hardly trained probabilities are below 0.5."""
    folder = tmp_path_factory.mktemp("thresholds")
    rng = np.random.default_rng(0)
    rows = [["path", "labels", "split"]]
    for number in range(90):
        red, bright = number % 4 == 0, number % 3 == 0
        pixels = np.full((8, 8, 3), 200 if bright else 60, np.uint8)
        pixels[..., 1:] //= 4 if red else 1
        pixels += rng.integers(0, 40, pixels.shape).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        words = "|".join(name for name, on in (("red", red), ("bright", bright)) if on)
        rows.append([f"{number}.png", words, ("val", "train", "test")[number // 6 % 3]])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return trained(folder)


def trained(folder, **words):
    settings = {"data.channels": 3, "optimizer.learning_rate": 0.003, **words.pop("settings", {})}
    words = {"name": "labels", "root": folder / "runs", "epochs": 3, "batch_size": 10, "size": 8} | words
    return kerazoo.train("mlp", folder / "labels.csv", settings=settings, **words)


def images_of(run):
    return sorted(run.folder.parents[1].glob("*.png"))


def test_a_run_keeps_the_thresholds_that_its_validation_answers_choose(run):
    thresholds = run.spec.thresholds
    examples = kerazoo.load_examples(run.folder.parents[1] / "labels.csv")
    answers = np.load(run.folder / "evaluation" / "val.npy")
    assert thresholds == kept_thresholds(examples.split("val").labels, answers)
    assert any(threshold != 0.5 for threshold in thresholds)
    assert run.results["val_macro_f1_thresholds"] > run.results["val_macro_f1"]
    found = run.evaluate()  # which checks digests and answers
    for split in ("val", "test"):
        assert found[split].thresholds == thresholds
        assert {key: run.results[key] for key in found[split].summary()} == found[split].summary()
        assert read_json(run.folder / "evaluation" / f"{split}.json").items() >= found[split].summary().items()
    test = found["test"]
    given = (test.probabilities.astype(np.float64) >= thresholds).astype(int)
    expected = f1_score(test.labels, given, average="macro")
    assert test.metrics()["macro_f1_thresholds"] == pytest.approx(expected)
    other = run.evaluate(run.folder.parents[1] / "labels.csv")["val"]  # as other data, which chose nothing
    assert [found["val"].chose, test.chose, other.chose] == [True, False, False]
    assert other.thresholds == thresholds


def test_a_run_that_was_killed_at_its_end_keeps_the_same(run):
    kept = read_json(run.folder / "model.json")
    state = read_json(run.folder / "run.json")
    before = {key: value for key, value in kept.items() if key != "thresholds"}
    write_json(run.folder / "model.json", before)  # as it is until the answers for val are known
    running = {key: value for key, value in state.items() if key not in ("digests", "results", "seconds")}
    write_json(run.folder / "run.json", {**running, "status": "running"})
    again = kerazoo.resume(run.folder)
    assert again.spec.thresholds == tuple(kept["thresholds"])
    weights = {"weights_sha256": read_json(run.folder / "model.json")["weights_sha256"]}  # HDF5 files differ in bytes
    assert read_json(run.folder / "model.json") == {**kept, **weights}
    assert again.results == state["results"]
    for name, digest in read_json(run.folder / "run.json")["digests"].items():
        assert digest == (sha256(run.folder / name) if name == "model.json" else state["digests"][name])


@pytest.fixture(scope="module")
def export(run):
    """The SavedModel of the run with its passport, without the gate."""
    spec, model = load_model(run.folder)
    folder = run.folder.parents[1] / "exports" / "1"
    write_saved_model(folder, spec, model)
    write_passport(folder, spec.to_json())
    return folder


def test_a_run_and_its_export_give_the_same_labels(run, export):
    names, thresholds = run.spec.class_names, run.spec.thresholds
    by_run = list(kerazoo.predict(run, images_of(run), top=1))
    by_export = list(kerazoo.predict(export, images_of(run), top=1))
    assert [found.labels for found in by_run] == [found.labels for found in by_export]
    assert {len(found.labels) for found in by_run} == {0, 1, 2}
    answers = dict(ExportedModel(export).predict_files(images_of(run)))
    for found in by_run:
        expected = [n for n, p, t in zip(names, answers[found.path], thresholds, strict=True) if float(p) >= t]
        assert found.to_json()["labels"] == expected
        assert found.line().startswith(f"{found.path}  [{', '.join(expected)}]  ")
        (row,) = found.rows()
        assert dict(zip(found.columns, row, strict=True))["labels"] == "|".join(expected)
    halves = [tuple(n for n, p in zip(names, answers[found.path], strict=True) if p >= 0.5) for found in by_run]
    assert halves != [found.labels for found in by_run]
    kept = (export / "assets.extra" / "passport.json").read_bytes()
    write_passport(export, {**json.loads(kept), "thresholds": [0.5, 2]})
    with pytest.raises(RunError, match=r"passport.json was changed: thresholds must be numbers between 0 and 1, got 2"):
        next(kerazoo.predict(export, images_of(run)[:1]))
    (export / "assets.extra" / "passport.json").write_bytes(kept)


def test_rows_of_a_table_have_labels_only_where_there_may_be_several():
    assert Prediction("x.png", (("a", 0.5),)).columns == ("file", "rank", "name", "value", "error")
    assert "labels" not in Prediction("x.png", (("a", 0.5),)).to_json()
    several = Prediction("x.png", (("a", 0.5), ("=b|c\\d", 0.4)), "multilabel", labels=("=b|c\\d", "a"))
    assert several.columns == ("file", "rank", "name", "value", "error", "labels")
    assert [row[-1] for row in several.rows()] == [r"'=b\|c\\d|a"] * 2
    wrong = Prediction("x.png", task="multilabel", error="not decoded")
    assert list(wrong.rows()) == [("x.png", "", "", "", "not decoded", "")]
    assert wrong.line() == "x.png  not decoded"


@pytest.mark.slow  # three trainings, and exports in several formats with their gates
def test_an_ensemble_keeps_thresholds_and_each_format_of_an_export_gives_the_same_labels(run, tmp_path):
    folder = run.folder.parents[1]
    ensemble = trained(folder, name="ensemble", root=tmp_path, settings={"data.folds": 2})
    found = ensemble.evaluate()
    assert ensemble.spec.thresholds == kept_thresholds(found["folds"].labels, found["folds"].probabilities)
    assert found["folds"].chose
    assert ensemble.results["folds_macro_f1_thresholds"] == found["folds"].metrics()["macro_f1_thresholds"]
    files = images_of(run)
    expected = [found.labels for found in kerazoo.predict(run, files)]
    formats = ("onnx", "litert", *(["openvino"] if importlib.util.find_spec("openvino") else []))
    export = run.export(root=tmp_path / "exports", formats=formats)
    assert export.passport["thresholds"] == list(run.spec.thresholds)
    assert kerazoo.verify(export, run).images
    for name in ("saved_model", *formats):
        assert [found.labels for found in kerazoo.predict(export, files, format=name)] == expected
    with serving(export.folder) as served:
        answers = [served.json("POST", "/classify", file.read_bytes()) for file in files[:12]]
    assert [(status, tuple(answer["labels"])) for status, answer in answers] == [
        (200, given) for given in expected[:12]
    ]
    assert any(expected[:12])
