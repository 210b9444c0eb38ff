"""What the gate compares: every output of an export, for each kind of task."""

import numpy as np
import pytest

from kerazoo.errors import GateError
from kerazoo.evaluation.answers import Evaluation
from kerazoo.exports.asking import unsteady
from kerazoo.exports.gate import compare
from kerazoo.exports.questions import Question
from kerazoo.exports.synthetic import KINDS, encoded_images, float_images
from kerazoo.tasks.task import find_task

NAMES = ("a", "b", "c")
ANSWERS = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.25, 0.5, 0.25]], np.float32)


def outputs_of(answers, task):
    status = ["ok"] * len(answers)
    if task == "regression":
        return {"values": answers.copy(), "class_names": [list(NAMES)], "status": status}
    order = np.argsort(-answers, axis=1, kind="stable")
    top = [[NAMES[i] for i in row] for row in order]
    return {
        "probabilities": answers.copy(), "label": [row[0] for row in top], "top_labels": top,
        "top_probabilities": np.take_along_axis(answers, order, axis=1), "class_names": [list(NAMES)],
        "status": status,
    }  # fmt: skip


def asked(outputs, task):
    keys = [str(number) for number in range(len(ANSWERS))]
    return compare(outputs, Question(keys, keys, ANSWERS), NAMES, find_task(task))


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
def test_what_is_right_passes_and_any_changed_output_does_not(task):
    same, difference = asked(outputs_of(ANSWERS, task), task)
    assert same.all()
    assert (difference == 0).all()
    numbers = "values" if task == "regression" else "probabilities"
    for row in range(3):
        outputs = outputs_of(ANSWERS, task)
        outputs[numbers][row, 2] += 0.01
        assert asked(outputs, task)[0].tolist() == [row != 0, row != 1, row != 2]
    outputs = outputs_of(ANSWERS, task)
    outputs[numbers][1] = np.nan
    assert asked(outputs, task)[0].tolist() == [True, False, True]
    outputs = outputs_of(ANSWERS, task)
    outputs["status"][2] = "not decoded"
    assert asked(outputs, task)[0].tolist() == [True, True, False]
    for names in (["c", "b", "a"], ["a", "a", "c"], ["a", "b"], ["a", "b", "c", "d"]):
        outputs = {**outputs_of(ANSWERS, task), "class_names": [names]}
        with pytest.raises(GateError, match="the class names of the export are"):
            asked(outputs, task)
    for name in outputs_of(ANSWERS, task):
        outputs = outputs_of(ANSWERS, task)
        del outputs[name]
        with pytest.raises(GateError, match="the outputs of the signature serving_default must be"):
            asked(outputs, task)
    with pytest.raises(GateError, match="must have the shape"):
        asked({**outputs_of(ANSWERS, task), numbers: ANSWERS[:, :2]}, task)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("label", "b"),
        ("label", "d"),
        ("top_labels", ["b", "a", "c"]),
        ("top_labels", ["a", "a", "c"]),
        ("top_probabilities", [0.7, 0.1, 0.2]),
        ("top_probabilities", [0.8, 0.2, 0.1]),
        ("top_probabilities", [np.nan, 0.2, 0.1]),
    ],
)
def test_labels_and_their_probabilities_are_those_of_the_answers(task, name, value):
    outputs = outputs_of(ANSWERS, task)
    outputs[name][0] = value
    assert asked(outputs, task)[0].tolist() == [False, True, True]
    with pytest.raises(GateError, match="top_labels are not names"):
        asked({**outputs_of(ANSWERS, task), "top_labels": [["a", "b", "z"]] * 3}, task)


@pytest.mark.parametrize(
    ("row", "labels", "count"),
    [
        (0, ["b", "a", "c"], 3),  # the first two exchanged, in `label`, too
        (0, ["a", "c", "b"], 3),  # the last two
        (2, ["b", "a", "a"], 3),  # one name for two classes that have the same probability
        (0, ["a", "c"], 2),  # with the probabilities of these classes, which are not the two best
    ],
)
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_names_that_agree_with_each_other_are_still_those_of_the_answers(task, row, labels, count):
    outputs = outputs_of(ANSWERS, task)
    outputs["top_labels"] = [names[:count] for names in outputs["top_labels"]]
    outputs["top_probabilities"] = outputs["top_probabilities"][:, :count].copy()
    assert asked(outputs, task)[0].all()
    outputs["label"][row] = labels[0]
    outputs["top_labels"][row] = labels
    if count == 2:
        outputs["top_probabilities"][row] = [ANSWERS[row, NAMES.index(name)] for name in labels]
    assert asked(outputs, task)[0].tolist() == [number != row for number in range(3)]


def test_the_label_is_the_recorded_one_where_two_classes_are_nearly_alike():
    recorded = np.array([[0.400001, 0.399999, 0.2]] * 2, np.float32)
    outputs = outputs_of(recorded, "multiclass")
    outputs["label"][1] = "b"
    outputs["top_labels"][1] = ["b", "a", "c"]
    question = Question(["0", "1"], ["0", "1"], recorded)
    assert compare(outputs, question, NAMES, find_task("multiclass"))[0].tolist() == [True, False]


def test_features_have_a_scale_of_their_own():
    features = np.array([[1000.0, 0.0], [0.0, 500.0]], np.float32)
    question = Question(["0", "1"], ["0", "1"], features, "features", recorded=False)
    for off, wanted in ((0.09, [True, True]), (0.2, [True, False])):
        outputs = {"features": features + [[0, 0], [off, 0]], "status": ["ok", "ok"]}
        assert compare(outputs, question, NAMES, find_task("multiclass"))[0].tolist() == wanted
    with pytest.raises(GateError, match="must have the shape"):
        compare({**outputs, "features": features[:, :1]}, question, NAMES, find_task("multiclass"))
    outputs = {"features": features, "status": ["ok", "not decoded"]}
    assert compare(outputs, question, NAMES, find_task("multiclass"))[0].tolist() == [True, False]


class Server:
    """It answers with the means of images, the way an export does; `fault` is what it does wrong."""

    def __init__(self, fault=None):
        self.fault, self.calls = fault, 0

    def __call__(self, images):
        self.calls += 1
        means = np.array([image.mean() for image in images], np.float32)
        good = np.isfinite(means)
        if self.fault == "by chance":
            means = means + np.float32(1e-7) * self.calls
        elif self.fault == "by place":
            means = means + 0.01 * np.arange(len(means), dtype=np.float32)
        elif self.fault == "by neighbours" and len(means) > 1:
            means = means * 1.01
        elif self.fault == "by broken neighbours" and not good.all():
            means = np.nextafter(means, np.float32(2))
        elif self.fault == "answers what is broken":
            means = np.nan_to_num(means)
        elif self.fault == "says that all is well":
            good[:] = True
        status = np.array([b"ok" if one else b"not answered" for one in good], object)
        return {"probabilities": means[:, None], "label": np.array([b"a"] * len(means), object), "status": status}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (None, None),
        ("by chance", "differs from one call to the next"),
        ("by place", "depends on its place in the batch"),
        ("by neighbours", "depends on the other images in its batch"),
        ("by broken neighbours", "depends on broken images in its batch"),
        ("answers what is broken", "a broken image in its place is answered"),
        ("says that all is well", "a broken image in its place is answered"),
    ],
)
def test_an_answer_depends_on_its_image_alone(fault, words):
    images = np.random.default_rng(0).uniform(0, 1, (5, 4, 4, 1)).astype(np.float32)
    found = unsteady(Server(fault), images)
    assert ([words in found[0][0]] if found else []) == ([True] if fault else [])


def test_synthetic_images_are_of_every_format_and_of_other_shapes():
    images = encoded_images()
    assert len(images) == len(KINDS)
    assert {contents[:2] for contents in images.values()} == {b"\x89P", b"\xff\xd8", b"BM", b"GI", b"RI"}
    assert encoded_images() == images
    assert all(pixels.shape[2] == 4 and 0 <= pixels.min() < pixels.max() <= 255 for pixels in float_images(4).values())


def test_losses_follow_from_answers():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (50, 3)).astype(np.float32)
    classes, labels = rng.integers(0, 3, 50), rng.integers(0, 2, (50, 3)).astype(np.float32)
    softmax = np.exp(logits - logits.max(axis=1, keepdims=True))
    softmax = (softmax / softmax.sum(axis=1, keepdims=True)).astype(np.float32)
    sigmoid = (1 / (1 + np.exp(-logits))).astype(np.float32)
    for answers, right, task in ((softmax, classes, "multiclass"), (sigmoid, labels, "multilabel")):
        np.testing.assert_allclose(
            find_task(task).losses_of_answers(answers, right),
            find_task(task).losses(logits, right),
            rtol=1e-4,
            atol=1e-6,
        )
    np.testing.assert_array_equal(
        find_task("regression").losses_of_answers(logits, labels), find_task("regression").losses(logits, labels)
    )
    certain = np.array([[0.0, 1.0]], np.float32)
    assert np.isfinite(find_task("multiclass").losses_of_answers(certain, np.array([0]))).all()
    assert np.isfinite(find_task("multilabel").losses_of_answers(certain, np.array([[1.0, 0.0]]))).all()


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
def test_cells_of_the_evaluation_are_no_formulas(tmp_path, task):
    """Names that a spreadsheet would run are text; numbers stay numbers; an apostrophe less gives the name back."""
    import csv

    odd = ("=1+1", "+1", "-1", "@x", "\tx", "\rx", "'x", "plain", "a=1")
    labels = {
        "multiclass": np.arange(9),
        "multilabel": np.eye(9, dtype=np.float32),
        "regression": -np.eye(9, dtype=np.float32),
    }[task]
    answers = np.eye(9, dtype=np.float32) * (-1 if task == "regression" else 1)
    Evaluation("val", odd, labels, answers, odd, 0.0, task).write(tmp_path)
    with (tmp_path / "val.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    cells = [*head, *(cell for row in rows for cell in row)]
    assert not [cell for cell in cells if cell[:1] in "=+@\t\r" and cell]
    assert {cell for cell in cells if cell[:1] == "-"} <= {"-1", "-0"}  # numbers
    assert [row[0].removeprefix("'") for row in rows] == list(odd)
    if task == "multiclass":
        assert [row[1].removeprefix("'") for row in rows] == list(odd)
    if task == "regression":
        assert rows[0][1] == "-1"


def test_classify_is_compared_by_names_and_scores():
    question = Question(["0", "1"], ["0", "1"], ANSWERS[:2], "classify")
    classes = [list(NAMES)] * 2
    task = find_task("multiclass")
    assert compare({"classes": classes, "scores": ANSWERS[:2]}, question, NAMES, task)[0].all()
    turned = [list(NAMES), list(NAMES)[::-1]]
    assert compare({"classes": turned, "scores": ANSWERS[:2]}, question, NAMES, task)[0].tolist() == [True, False]
    off = ANSWERS[:2] + [[0] * len(NAMES), [0.01] * len(NAMES)]
    assert compare({"classes": classes, "scores": off}, question, NAMES, task)[0].tolist() == [True, False]
    with pytest.raises(GateError, match="outputs of the signature classify must be classes, scores, got scores"):
        compare({"scores": ANSWERS[:2]}, question, NAMES, task)
