"""Curves: well-formed SVG with every series in its place, whatever the numbers, and a PNG of the same."""

import math
import os
import random
import signal
import time
from xml.etree import ElementTree

import pytest
from PIL import Image

from kerazoo.insight.curves import COLOURS, axis, curves_of, draw_curves
from kerazoo.insight.drawing import Drawing, _dashed

SVG = "{http://www.w3.org/2000/svg}"


def draw(path, series, **options):
    draw_curves(path, series, title="t", x_label="x", y_label="y", **options)
    return ElementTree.parse(path).getroot()


def texts(root):
    return [element.text for element in root.iter(f"{SVG}text")]


def curves(root):
    """name -> its pieces, each a list of (x, y) in px."""
    found = {}
    for element in root.iter(f"{SVG}polyline"):
        if "aria-label" in element.attrib:
            points = [tuple(map(float, pair.split(","))) for pair in element.attrib["points"].split()]
            found.setdefault(element.attrib["aria-label"], []).append(points)
    return found


def dots(root):
    return [
        (element.attrib["aria-label"], float(element.attrib["cx"]), float(element.attrib["cy"]))
        for element in root.iter(f"{SVG}circle")
    ]


HISTORY = [
    {"epoch": float(n), "loss": 1 / n, "accuracy": 1 - 1 / n, "val_loss": abs(n - 4) + 0.5, "val_accuracy": 0.5}
    for n in range(1, 7)
]


def test_a_run_has_a_chart_for_each_metric_with_the_best_epoch(tmp_path):
    curves_of(HISTORY, tmp_path / "curves.svg")
    root = ElementTree.parse(tmp_path / "curves.svg").getroot()
    assert root.attrib["role"] == "img"
    assert root.find(f"{SVG}title").text == "Training curves"
    found = texts(root)
    assert [text for text in found if text in ("loss", "accuracy")] == ["loss", "accuracy"]
    assert found.count("best: 4") == 2
    assert found.count("train") == found.count("validation") == 2
    drawn = curves(root)
    assert {name: len(pieces) for name, pieces in drawn.items()} == {"train": 2, "validation": 2}
    loss = drawn["train"][0]
    assert len(loss) == 6
    assert [y for _, y in loss] == sorted(y for _, y in loss)  # it falls: px grow downwards
    assert loss[0][0] == 66.0
    assert drawn["train"][1][0][0] == 66.0 + 640
    # linear: a share of the range is the same share of the height
    heights = [y for _, y in drawn["validation"][0]]
    assert (heights[1] - heights[0]) == pytest.approx(heights[2] - heights[1], abs=0.11)
    curves_of(HISTORY, tmp_path / "curves.svg", best=2)
    assert "best: 2" in (tmp_path / "curves.svg").read_text()


def levels_in(root):
    """label -> the height of its line in px."""
    return {name: pieces[0][0][1] for name, pieces in curves(root).items() if name[-1].isdigit()}


def test_what_was_kept_is_drawn_as_a_line(tmp_path):
    """Of epochs that were dropped: no best one, but the line of what was kept; its height is that of its value."""
    levels = {"kept: probe": {"loss": 3.5, "accuracy": 0.9150}}
    curves_of(HISTORY, tmp_path / "curves.svg", dropped=True, levels=levels)
    root = ElementTree.parse(tmp_path / "curves.svg").getroot()
    assert not [text for text in texts(root) if text.startswith("best")]
    assert texts(root).count("validation (dropped)") == texts(root).count("train (dropped)") == 2
    assert {"kept: probe 3.5000", "kept: probe 0.9150"} <= set(texts(root))
    ends = curves(root)["validation (dropped)"][0]  # val_loss 3.5 in the first epoch
    assert levels_in(root)["kept: probe 3.5000"] == pytest.approx(ends[0][1], abs=0.11)

    levels = {"probe": {"accuracy": 0.25}, "kept: average, 0.8 tuned": {"accuracy": 7.0}}
    curves_of(HISTORY, tmp_path / "curves.svg", kept=6, levels=levels)
    root = ElementTree.parse(tmp_path / "curves.svg").getroot()
    assert texts(root).count("kept: 6") == 2
    assert texts(root).count("validation") == 2
    heights = levels_in(root)
    assert heights["probe 0.2500"] > heights["kept: average, 0.8 tuned 7.0000"] > 0  # the axis takes in both
    curves_of(HISTORY, tmp_path / "curves.svg", levels=levels)  # the weights of no epoch
    assert not {"kept: 6", "best: 4"} & set(texts(ElementTree.parse(tmp_path / "curves.svg").getroot()))


def test_two_phases_have_charts_of_their_own(tmp_path):
    head = [{"head_epoch": float(n), "loss": 1 / n} for n in range(1, 4)]
    curves_of(head + HISTORY, tmp_path / "curves.svg")
    root = ElementTree.parse(tmp_path / "curves.svg").getroot()
    assert texts(root).count("loss") == 2
    assert {"head epoch", "epoch"} <= set(texts(root))
    assert len(curves(root)["train"]) == 3
    assert root.attrib["viewBox"] == "0 0 1280 800"


@pytest.mark.parametrize(
    ("ys", "pieces", "single"),
    [
        ([], 0, 0),
        ([math.nan, math.inf, -math.inf], 0, 0),
        ([3.0], 0, 1),
        ([2.0, 2.0, 2.0], 1, 0),
        ([0.0, 0.0], 1, 0),
        ([1.0, 2.0, math.nan, 5.0, math.inf, 1.0, 2.0], 2, 1),
        ([1e-30, 2e-30], 1, 0),
        ([-1e299, 1e299], 1, 0),
        ([1e308, 1.0, 2.0], 1, 0),
        ([1.0, 1.0 + 1e-15], 1, 0),
    ],
)
@pytest.mark.parametrize("log", [False, True])
def test_whatever_the_numbers(tmp_path, ys, pieces, single, log):
    if log:
        ys = [abs(y) + 1e-40 for y in ys]
    root = draw(tmp_path / "c.svg", {"s": (range(1, len(ys) + 1), ys)}, log_x=log, log_y=log)
    assert (len(curves(root).get("s", [])), len(dots(root))) == (pieces, single)
    assert ("nothing to draw" in texts(root)) == (not pieces and not single)
    for places in curves(root).get("s", []):
        assert all(66 <= x <= 622 and 0 <= y <= 354 for x, y in places)
    draw_curves(tmp_path / "c.png", {"s": (range(1, len(ys) + 1), ys)}, title="t", x_label="x", y_label="y", log_y=log)


def test_text_is_text(tmp_path):
    names = ["<script>alert('&')</script>", 'a"b', "\x00\x1b\ud800", "acc]]>"]
    root = draw(tmp_path / "c.svg", {name: ([1, 2], [1, 2]) for name in names})
    assert {name for name in texts(root) if name in names} == {names[0], names[1], names[3]}
    assert "???" in texts(root)
    assert set(curves(root)) == {names[0], names[1], names[3], "???"}
    assert not list(root.iter(f"{SVG}script"))


def test_each_curve_has_a_colour_a_dash_and_a_name(tmp_path):
    series = {f"curve {n}": ([1, 2], [n, n + 1]) for n in range(9)}
    root = draw(tmp_path / "c.svg", series)
    lines = [e for e in root.iter(f"{SVG}polyline") if "aria-label" in e.attrib]
    looks = {(e.attrib["stroke"], e.attrib.get("stroke-dasharray")) for e in lines}
    assert len(looks) == len(series)
    legend = [e for e in root.iter(f"{SVG}text") if e.text in series]
    assert len(legend) == len(series)
    assert all(float(e.attrib["x"]) + 7 * len(e.text) < 640 for e in legend)


def test_marks_and_logarithmic_axes(tmp_path):
    """x grows tenfold by equal ways; a value that a logarithm has not leaves a gap."""
    root = draw(
        tmp_path / "c.svg", {"loss": ([0, 1e-3, 1e-2, 1e-1], [9, 1, 1, 1])}, log_x=True,
        marks=[(1e-2, "suggestion 0.01"), (0.0, "never"), (math.nan, "never")],
    )  # fmt: skip
    [[(a, _), (b, _), (c, _)]] = curves(root)["loss"]
    assert b - a == pytest.approx(c - b, abs=0.11)
    assert {"suggestion 0.01", "0.001", "0.01", "0.1"} <= set(texts(root))
    assert "never" not in texts(root)
    dashed = [e for e in root.iter(f"{SVG}polyline") if e.attrib.get("stroke-dasharray") == "3 3"]
    assert [e.attrib["points"].split(",")[0] for e in dashed] == [f"{b:.1f}"]


@pytest.mark.parametrize(
    ("values", "options", "labels"),
    [
        ([1, 12], {"whole": True}, ["2", "4", "6", "8", "10", "12"]),
        ([1, 2], {"whole": True}, ["1", "2"]),
        ([0.0, 1.0], {}, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ([0.91, 0.92], {}, ["0.910", "0.912", "0.914", "0.916", "0.918", "0.920"]),
        ([0, 2.5e6], {}, ["0", "5e+05", "1e+06", "1.5e+06", "2e+06", "2.5e+06"]),
        ([1e-6, 1], {"log": True}, ["1e-06", "1e-05", "0.0001", "0.001", "0.01", "0.1", "1"]),
        ([3, 4], {"log": True}, ["3.0", "3.2", "3.4", "3.6", "3.8", "4.0"]),
    ],
)
def test_ticks_are_round_numbers(values, options, labels):
    assert [label for _, label in axis(values, **options).ticks] == labels


def test_a_png_shows_the_same(tmp_path):
    curves_of(HISTORY, tmp_path / "curves.png")
    image = Image.open(tmp_path / "curves.png")
    assert image.size == (2 * 1280, 2 * 400)
    colours = {colour for count, colour in image.getcolors(1 << 20) if count > 300}
    for name in COLOURS[:2]:
        assert tuple(bytes.fromhex(name[1:])) in colours


def test_dashes_are_as_long_as_they_say():
    pieces = list(_dashed([(0, 0), (10, 0), (10, 10)], (6, 3)))
    assert pieces == [[(0, 0), (6.0, 0.0)], [(9.0, 0.0), (10, 0), (10.0, 5.0)], [(10.0, 8.0), (10, 10)]]


def test_a_killed_process_leaves_the_old_image_or_the_new(tmp_path):
    path = tmp_path / "curves.svg"
    images = [Drawing(9, 9, letter * 2_000_000, "") for letter in "ab"]
    images[0].save(path)
    whole = set()
    for image in images:
        image.save(path)
        whole.add(path.read_bytes())
    for _ in range(12):
        child = os.fork()
        if not child:
            try:
                while True:
                    for image in images:
                        image.save(path)
            finally:
                os._exit(1)
        time.sleep(random.uniform(0.02, 0.1))
        os.kill(child, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        assert path.read_bytes() in whole
