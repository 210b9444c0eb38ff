"""Reports: what they say, that they are one harmless file, and that a failure leaves the run as it was."""

import base64
import hashlib
import math
import os
import re
import shutil
import time
from contextlib import suppress
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import devtools
import keras
import numpy as np
import pytest
from conftest import make_images
from made_runs import HOSTILE, evaluation, guesses, make_run, sealed
from PIL import Image
from scipy.stats import binomtest

import kerazoo
from kerazoo.api.reports import report_finished
from kerazoo.errors import DataError, InputError, RunError
from kerazoo.evaluation.calibration import calibration_of
from kerazoo.evaluation.comparison import compare, mcnemar
from kerazoo.evaluation.label_thresholds import label_results
from kerazoo.evaluation.mistakes import likely_label_errors, top_losses
from kerazoo.evaluation.per_class import class_results_of, most_confused
from kerazoo.evaluation.recorded import recorded_results
from kerazoo.files import read_json, write_json
from kerazoo.insight.anatomy_parts import parts_of
from kerazoo.reports.card import card_of
from kerazoo.reports.comparison import write_comparison
from kerazoo.reports.html import escape
from kerazoo.reports.page import write_report
from kerazoo.reports.sections.learning import in_order
from kerazoo.runs.run import Run

NAMES = ("cat", "dog", "owl")


class Outline(HTMLParser):
    """The elements of a page: (tag, attributes); the addresses in it; and its text without style and script."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements = []
        self.words = []
        self._hidden = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._hidden = tag in ("style", "script")

    def handle_endtag(self, tag):
        self._hidden = False

    def handle_data(self, data):
        if not self._hidden:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def check_page(path: Path) -> Outline:
    """The page needs nothing else, allows nothing else, and has no id twice."""
    page = Outline(path)
    text = path.read_text(encoding="utf-8")
    (policy,) = [each["content"] for each in page.of("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:; ")
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    for _, attributes in page.elements:
        for name in ("src", "href"):
            assert attributes.get(name, "#")[:1] == "#" or attributes[name].startswith("data:")
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {each["href"][1:] for each in page.of("a")} <= set(ids)
    assert all(each.get("alt") is not None for each in page.of("img"))
    return page


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run with a report, and its log."""
    root = tmp_path_factory.mktemp("trained")
    data = make_images(root / "images", count=16, size=24)
    return kerazoo.train(
        "cnn", data, epochs=2, size=24, batch_size=8, learning_rate=1e-5, settings={"report": True}, name="one",
        root=root / "runs",
    )  # fmt: skip


def test_a_training_ends_with_its_report(trained):
    page = check_page(trained.folder / "report.html")
    accuracy = trained.results["val_accuracy"]
    assert page.text.count(f"Right for {100 * accuracy:.1f} % of {trained.results['val_examples']} validation images")
    low, high = trained.results["val_accuracy_interval"]
    assert f"expect {100 * low:.1f} % to {100 * high:.1f} %" in page.text
    assert trained.recipe.model.name in page.text
    assert accuracy < 1, "the test needs mistakes"
    assert "Grad-CAM" in page.text
    assert [each for each in page.of("img") if each["alt"].startswith("where the network looked")]
    assert len(page.of("svg")) >= 3  # curves of loss and accuracy, calibration
    anatomy = kerazoo.anatomy(trained)
    assert f"{anatomy.parameters:,}, {anatomy.parameters * 4 / 1e6:,.1f} MB" in page.text
    assert f"sees {anatomy.last_map.field.text()} px" in page.text
    assert "kerazoo export" in page.text


def test_the_parts_of_a_network_are_maps_of_one_size():
    """A factor beside the maps belongs to them, padding to the convolution after it, and the end is one part."""
    layers = keras.layers
    x = start = keras.Input((16, 16, 3))
    x = y = layers.Conv2D(4, 3, padding="same", name="first")(x)
    x = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.Multiply()([y, layers.Dense(4, activation="sigmoid")(x)])
    x = layers.Conv2D(8, 3, strides=2, name="second")(layers.ZeroPadding2D()(x))
    anatomy = kerazoo.anatomy(keras.Model(start, layers.Dense(2)(layers.GlobalAveragePooling2D()(x))))
    parts = list(parts_of(anatomy))
    assert [(part.size, part.last.field.text()) for part in parts] == [
        ((16, 16), "3+"), ((8, 8), "5+"), ((), "whole image"),
    ]  # fmt: skip
    assert [layer for part in parts for layer in part.layers] == list(anatomy.layers)
    assert [part.macs for part in parts] == [16 * 16 * 3 * 9 * 4 + 4 * 4, 8 * 8 * 4 * 9 * 8, 8 * 2]


def test_images_that_are_gone_leave_a_report_with_one_line(trained, tmp_path, said):
    folder = shutil.copytree(trained.folder, tmp_path / "copy")
    for name in ("recipe.toml", "data.json"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace(str(trained.recipe.data.path), str(tmp_path / "gone")))
    with pytest.raises(RunError, match=r"data.json was changed after the run finished"):
        write_report(Run(folder))
    page = check_page(write_report(sealed(folder)))
    assert not [each for each in page.of("img") if "where the network looked" in each["alt"]]
    assert "images could not be shown" in page.text
    assert f"Right for {100 * trained.results['val_accuracy']:.1f} %" in page.text
    assert [line for line in said if "without images" in line] == said


def test_a_report_that_fails_leaves_the_run_finished(trained, tmp_path, said):
    """A folder has the page's name, so that it cannot be written, as on a full disk: one line says what to do."""
    folder = shutil.copytree(trained.folder, tmp_path / "copy")
    (folder / "report.html").unlink()
    (folder / "report.html").mkdir()
    report_finished(Run(folder))
    assert Run(folder).status == "finished"
    (line,) = said
    assert line.startswith("the report could not be written: ")
    assert line.endswith(f"repeat it with `kerazoo report {folder}`")


def test_the_command_writes_the_page(trained, capsys, monkeypatch, tmp_path):
    from kerazoo.cli import app

    monkeypatch.setattr(
        "sys.argv", ["kerazoo", "report", str(trained.folder), "--out", str(tmp_path / "r.html"), "--json"]
    )
    with pytest.raises(SystemExit) as stop:
        app.main()
    assert not stop.value.code
    assert capsys.readouterr().out.strip() == f'{{"report": "{tmp_path / "r.html"}"}}'
    check_page(tmp_path / "r.html")


def test_what_was_written_is_read_again(tmp_path):
    """Answers of all three tasks, with names that a CSV file and a spreadsheet take for something else."""
    names = ("=1+1", "'quoted'", 'a "b", c', "line\r\nbreak", "a|b")
    keys = ("-x.png", "'y'.png", 'z"\n.png', "+w.png")
    rng = np.random.default_rng(0)
    cases = {
        "multiclass": np.array([0, 1, 3, 4]),
        "multilabel": np.array([[1, 0, 0, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 0, 0]], np.float32),
        "regression": rng.normal(size=(4, 5)).astype(np.float32),
    }
    for task, labels in cases.items():
        made = evaluation(keys, labels, rng.random((4, 5)), names, task)
        if task != "regression":
            made.labels.setflags(write=False)
        (read,) = recorded_results(make_run(tmp_path / task, made))
        assert (read.keys, read.class_names, read.task) == (made.keys, made.class_names, task)
        assert np.allclose(read.labels, made.labels, rtol=1e-6)
        assert np.array_equal(read.probabilities, made.probabilities)
        assert read.loss == pytest.approx(made.loss)
    (tmp_path / "multiclass" / "evaluation" / "val.csv").write_text("key,label\nx,unknown\n")
    with pytest.raises(RunError, match=r"val\.csv cannot be read"):
        recorded_results(sealed(tmp_path / "multiclass"))


def test_reports_of_several_labels_and_of_numbers(tmp_path):
    rng = np.random.default_rng(1)
    labels = (rng.random((60, 3)) < 0.4).astype(np.float32)
    answers = np.clip(labels * 0.4 + rng.random((60, 3)) * 0.5, 0, 1)
    keys = [f"{n}.png" for n in range(60)]
    page = check_page(write_report(make_run(tmp_path / "a", evaluation(keys, labels, answers, NAMES, "multilabel"))))
    assert "All labels right for" in page.text
    assert "no/such/data 60 val Digest" in page.text  # images, not labels; how many in train is not known
    data = read_json(tmp_path / "a" / "data.json") | {"examples": {"train": 1234, "val": 60}}
    write_json(tmp_path / "a" / "data.json", data)
    assert "1,234 train, 60 val Digest" in check_page(write_report(sealed(tmp_path / "a"))).text
    assert "best threshold" in page.text
    assert "The model keeps no thresholds" in page.text
    made = replace(evaluation(keys, labels, answers, NAMES, "multilabel"), thresholds=(0.5, 0.3125, 0.5), chose=True)
    run = make_run(tmp_path / "kept", made)
    page = check_page(write_report(run))
    assert "that the model and its exports keep" in page.text
    assert "0.312" in page.text
    assert "validation macro f1 thresholds The same with" in page.text
    assert f"{made.macro_f1_thresholds:.4f}" in page.text
    assert recorded_results(run)[0].metrics() == made.metrics()
    assert "these from their own thresholds on: dog 0.312." in card_of(run)
    true = rng.normal(size=(60, 2)).astype(np.float32) * 10
    made = evaluation(keys, true, true + rng.normal(size=(60, 2)), ("width", "height"), "regression")
    page = check_page(write_report(make_run(tmp_path / "b", made)))
    assert f"Off by {made.metrics()['mae']:.4g} on average" in page.text
    assert "width: residuals" in page.text
    assert "60 train, 60 val Digest" in page.text


def test_feature_maps_are_in_the_order_of_the_network():
    names = ["block_10/relu.png", "block_2/relu_12.png", "block_2/relu_3.png", "stem.png"]
    assert sorted(names, key=in_order) == [names[2], names[1], names[0], names[3]]


def test_intervals_of_classes():
    """Recall and precision against scipy's Wilson intervals, F1 by its own formula."""
    counts = np.array([[8, 2, 0], [1, 9, 0], [3, 0, 0]])
    first, _, last = class_results_of(counts, NAMES)
    for share, right, whole in ((first.recall, 8, 10), (first.precision, 8, 12), (last.recall, 0, 3)):
        wanted = binomtest(right, whole).proportion_ci(method="wilson")
        assert (share.low, share.high) == pytest.approx((wanted.low, wanted.high))
        assert share.value == right / whole
    assert first.f1.value == pytest.approx(2 * 8 / (2 * 8 + 4 + 2))
    union = binomtest(8, 14).proportion_ci(method="wilson")
    assert first.f1.low == pytest.approx(2 * union.low / (1 + union.low))
    assert math.isnan(last.precision.value)
    assert [(p.true, p.answer, p.count, p.share) for p in most_confused(counts, 2)] == [(2, 0, 3, 1), (0, 1, 2, 0.2)]


def test_the_interval_of_f1_covers_the_truth():
    """Of 400 samples of a known confusion, about 95 % have an interval with the true F1."""
    rng = np.random.default_rng(0)
    shares = np.array([[0.3, 0.1], [0.05, 0.55]])
    true = 2 * 0.3 / (2 * 0.3 + 0.1 + 0.05)
    drawn = rng.multinomial(120, shares.ravel(), size=400).reshape(-1, 2, 2)
    found = [class_results_of(counts, ("a", "b"))[0].f1 for counts in drawn]
    assert 0.92 <= np.mean([each.low <= true <= each.high for each in found]) <= 0.98


def test_calibration_in_closed_form():
    """Nine answers at 0.9, of which six are right, and one at 0.6 that is right: 0.9 |6/9 - 0.9| + 0.1 |1 - 0.6|."""
    answers = np.array([[0.9, 0.1]] * 9 + [[0.6, 0.4]])
    labels = np.array([0] * 6 + [1] * 3 + [0])
    found = calibration_of(evaluation(range(10), labels, answers, ("a", "b")))
    assert found.error == pytest.approx(0.9 * abs(6 / 9 - 0.9) + 0.1 * 0.4, abs=1e-6)
    assert [(each.count, round(each.right, 3)) for each in found.bins] == [(1, 1.0), (9, 0.667)]
    assert calibration_of(evaluation(range(2), np.zeros((2, 1)), np.zeros((2, 1)), ("x",), "regression")) is None


def test_thresholds_of_labels():
    has = np.array([1, 1, 1, 0, 0, 0], bool)
    chances = np.where(np.tile(has, 10), 0.3, 0.1)
    labels = np.tile(has, 10)[:, None].astype(np.float32)
    (found,) = label_results(evaluation(range(60), labels, chances[:, None], ("a",), "multilabel"))
    assert (found.average_precision, found.f1, found.f1_best) == (1, 0, 1)
    assert (found.threshold, found.kept) == (pytest.approx(0.2), 0.5)


def test_cross_fitted_f1_of_noise_is_no_better_than_chance():
    """With the threshold of the same examples, noise looks better than it is: 0.485; all labels given have 0.46."""
    rng = np.random.default_rng(0)
    labels = (rng.random((60, 40)) < 0.3).astype(np.float32)
    names = tuple(f"label {n}" for n in range(40))
    found = label_results(evaluation(range(60), labels, rng.random((60, 40)), names, "multilabel"))
    assert np.mean([each.f1_best for each in found]) <= 2 * 0.3 / 1.3


def test_wrong_labels_come_first():
    made = guesses(NAMES, 90, right=1.0)
    labels = made.labels.copy()
    labels[[4, 40]] = (labels[[4, 40]] + 1) % 3
    wrong = evaluation(made.keys, labels, made.probabilities, NAMES)
    assert set(likely_label_errors(wrong)) <= set(top_losses(wrong, 9)) == {4, 40}
    assert {4, 40} & set(likely_label_errors(wrong))
    assert likely_label_errors(evaluation(made.keys, np.roll(labels, 1), made.probabilities, NAMES)) == []


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (3, 0), (7, 2), (12, 30)])
def test_mcnemar_is_the_sum_of_binomials(won, lost):
    both = won + lost
    tail = sum(math.comb(both, k) for k in range(min(won, lost) + 1)) / 2**both
    assert mcnemar(won, lost) == pytest.approx(min(1.0, 2 * tail))


def test_two_runs_are_compared_on_the_same_images(tmp_path):
    """Of 200 shared images, the second run is right in 30 where the first is not, and wrong in 10 where it is not."""
    labels = np.arange(200) % 3
    first, second = (np.full((200, 3), 0.1) for _ in range(2))
    right = np.ones((2, 200), bool)
    right[0, :30] = False
    right[1, 30:40] = False
    for each, good in zip((first, second), right, strict=True):
        each[np.arange(200), np.where(good, labels, (labels + 1) % 3)] = 0.8
    keys = [f"{n}.png" for n in range(200)]
    a = evaluation(keys, labels, first, NAMES)
    order = np.random.default_rng(0).permutation(200)
    b = evaluation([keys[n] for n in order], labels[order], second[order], NAMES)
    found = compare(a, b)
    assert (found.images, found.won, found.lost) == (200, 30, 10)
    assert found.gained.mean == pytest.approx(0.1)
    assert found.chance == pytest.approx(2 * sum(math.comb(40, k) for k in range(11)) / 2**40)
    center, n = 20 / 202, 202  # Agresti and Min 2005, with half an image in each cell
    half = 1.959964 * math.sqrt(41 - 20**2 / n) / n
    assert (found.gained.low, found.gained.high) == pytest.approx((center - half, center + half))
    runs = [make_run(tmp_path / "a", a, seed=1), make_run(tmp_path / "b", b, seed=2)]
    page = check_page(write_comparison(runs))
    assert "b is better than a on 200 validation images: +10.0 points of right answers (95 %" in page.text
    assert "seed 1 2" in page.text
    with pytest.raises(InputError, match="named twice"):
        write_comparison([runs[0], runs[0]])
    with pytest.raises(DataError, match="no val images in common"):
        compare(a, evaluation(["other.png"], labels[:1], first[:1], NAMES))


def test_text_of_any_origin_is_escaped():
    assert escape("<a href='x' title=\"y\">&") == "&lt;a href=&#x27;x&#x27; title=&quot;y&quot;&gt;&amp;"
    assert escape("a\x00b\ud800c\nd") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c d"
    assert escape("\u05d7\u200d") == "\u05d7\u200d"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The report of a run whose classes, file names and findings try to run a script."""
    root = tmp_path_factory.mktemp("hostile")
    keys = []
    (root / "images").mkdir()
    for number in range(80):
        keys.append(f'images/{number}"><script>window.bad=4<.png')
        Image.fromarray(np.full((16, 16, 3), 3 * number, np.uint8)).save(root / keys[-1])
    made = guesses(HOSTILE, 80, right=0.6, keys=tuple(keys))
    rows = [
        ",".join(f'"{cell.replace(chr(34), 2 * chr(34))}"' for cell in (key, made.truth(row)))
        for row, key in enumerate(keys)
    ]
    (root / "table.csv").write_text("path,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    run = make_run(root / "run", made, data=str(root / "table.csv"))
    finding = {"name": "<script>x", "severity": "serious", "where": "<b>", "evidence": {"<i>": 1.0},
               "meaning": "<script>window.bad = 5</script>", "change": "`<img src=x onerror=alert(1)>`"}  # fmt: skip
    write_json(run.folder / "findings.json", {"findings": [finding]})
    return write_report(run)


def test_names_do_no_harm(hostile):
    page = check_page(hostile)
    assert len(page.of("script")) == 1
    assert not page.of("h1")[1:]
    assert all(name in page.words for name in HOSTILE)
    assert len(page.of("img")) > 20


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """Skips where there is no Chromium."""
    with suppress(InputError), devtools.browser(tmp_path_factory.mktemp("browser") / "profile") as started:
        started.command("Network.enable")
        started.command("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0,
                        uploadThroughput=0)  # fmt: skip
        yield started
        return
    pytest.skip("no Chromium is installed")


OVER = """(() => {
  const width = document.documentElement.clientWidth;
  return [...document.querySelectorAll("body *")].filter((e) => {
    if ((e.closest(".scroll") && !e.matches(".scroll")) || (e.closest("svg") && !e.matches("svg"))) return false;
    const box = e.getBoundingClientRect();
    return !e.matches(".skip") && box.width && (box.right > width + 1 || box.left < -1);
  }).map((e) => e.outerHTML.slice(0, 100));
})()"""


def look_at(chromium, path, width, scheme):
    """Open a page at a width; it runs nothing of others, asks for nothing, and nothing stands out at the side."""
    chromium.look(width, scheme=scheme, phone=width < 500)
    chromium.open(path.as_uri())
    assert chromium.problems() == []
    asked = [e["params"]["request"]["url"] for e in chromium.events if e.get("method") == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    assert not [e for e in chromium.events if e.get("method") in ("Log.entryAdded", "Runtime.consoleAPICalled")]
    assert chromium.evaluate("window.bad") is None
    assert chromium.evaluate(OVER) == []
    assert chromium.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_in_a_browser(chromium, hostile, width, scheme):
    look_at(chromium, hostile, width, scheme)


def test_tables_are_sorted_and_cells_lead_to_their_images(chromium, hostile):
    look_at(chromium, hostile, 1280, "light")
    chromium.evaluate("document.querySelector('#classes th:nth-child(5) button').click()")
    recalls = chromium.evaluate(
        "[...document.querySelectorAll('#classes tbody tr')].map((row) => Number(row.cells[4].dataset.key))"
    )
    assert recalls == sorted(recalls)
    before = chromium.evaluate("[...document.querySelectorAll('.matrix tbody tr')].map((r) => r.cells[0].dataset.key)")
    chromium.evaluate("""(() => {
      const order = document.querySelector("label.order select");
      order.value = "most mistakes first";
      order.dispatchEvent(new Event("change"));
    })()""")
    rows = chromium.evaluate("[...document.querySelectorAll('.matrix tbody tr')].map((r) => r.cells[0].dataset.key)")
    columns = chromium.evaluate("[...document.querySelectorAll('.matrix thead th')].slice(1).map((c) => c.dataset.key)")
    assert sorted(rows) == sorted(before)
    assert rows == columns
    assert all(
        chromium.evaluate(f"document.querySelectorAll('.matrix tbody tr')[{n}].cells[{n + 1}].className")[:5] == "right"
        for n in range(len(rows))
    )
    chromium.evaluate("location.hash = [...document.querySelectorAll('.matrix a')].pop().hash")
    chromium.wait("document.getElementById(location.hash.slice(1)).closest('details').open")
    deep = "document.querySelector('#pairs details details:last-of-type [id]')"
    assert not chromium.evaluate(f"{deep}.checkVisibility()")
    chromium.evaluate(f"location.hash = {deep}.id")
    chromium.wait(f"{deep}.checkVisibility()")


AXE = Path(os.environ.get("AXE", "/tmp/axe/node_modules/axe-core/axe.min.js"))


# slow: axe-core is no dependency; `npm install axe-core`, and AXE is the path of its axe.min.js
@pytest.mark.slow
@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not installed; set AXE to its axe.min.js")
def test_axe_finds_no_violation(chromium, trained, hostile):
    chromium.command("Page.setBypassCSP", enabled=True)
    try:
        for path in (trained.folder / "report.html", hostile):
            for width, scheme in ((1280, "light"), (390, "dark")):
                chromium.look(width, scheme=scheme, phone=width < 500)
                chromium.open(path.as_uri())
                chromium.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
                chromium.evaluate(f"{AXE.read_text()}; 0")
                found = chromium.evaluate("axe.run().then((r) => r.violations.map((v) => [v.id, v.nodes[0].html]))")
                assert found == []
    finally:
        chromium.command("Page.setBypassCSP", enabled=False)


# slow: 50 million probabilities
@pytest.mark.slow
def test_a_thousand_classes_and_fifty_thousand_images(chromium, tmp_path):
    names = tuple(f"class number {n} of a thousand" for n in range(1000))
    path = write_report(make_run(tmp_path / "big", guesses(names, 50_000, right=0.7)))
    assert path.stat().st_size < 6e6
    start = time.monotonic()
    look_at(chromium, path, 1280, "light")
    assert time.monotonic() - start < 3
