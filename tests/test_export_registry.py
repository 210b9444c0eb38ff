"""The honest export of the registry's networks passes the gate, in every format that can be written here."""

import csv
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kerazoo.exports.formats.table import FORMATS
from kerazoo.models.registry import list_models

SCRIPT = Path(__file__).parents[1] / "benchmarks/export_registry.py"
FORMATS_HERE = [
    name
    for name, one in FORMATS.items()
    if name != "web" and all(importlib.util.find_spec(package) for package in one.packages)
]


# LiteRT has no loops whose length is not fixed
CANNOT = {("recurrent", "litert")}
# fewer bits change answers, and those of random weights are no better than chance to begin with
LOSES = {
    "litert-float16": ("it may lose",),
    **{name: ("it may lose",) for name, one in FORMATS.items() if one.tolerance is None},
}
# deep networks with random weights may answer the last bits of pixels: then Keras's own answers are no other
UNSTEADY = re.compile(r"for (\d+) of \d+ images.*; Keras answers (\d+) of \d+ images otherwise if")
HALVES = re.compile(r"largest difference 0\.0\d+,")  # of float16, whose rounding these weights answer, too


def is_chance(why_not):
    """Whether Keras itself answers as many images otherwise if pixels change by next to nothing."""
    found = UNSTEADY.search(why_not)
    return found is not None and int(found[2]) >= int(found[1])


def rows_of(name, formats, folder):
    command = [sys.executable, SCRIPT, "--models", name, "--formats", *formats, "--csv", folder / "rows.csv"]
    subprocess.run(command, check=True, capture_output=True)
    with (folder / "rows.csv").open(newline="") as file:
        return {row["format"]: row for row in csv.DictReader(file)}


@pytest.mark.slow  # minutes each; the largest take many GB
@pytest.mark.parametrize("name", list_models())
def test_the_honest_export_of_every_network_passes(name, tmp_path):
    """A format may be refused for fewer bits, or where these weights answer by chance, and for nothing else."""
    rows = rows_of(name, FORMATS_HERE, tmp_path)
    assert set(rows) == {"saved_model", *FORMATS_HERE}
    for one, row in rows.items():
        if row["passed"] == "True":
            continue
        loses = any(words in row["why_not"] for words in LOSES.get(one, ()))
        rounded = one == "litert-float16" and HALVES.search(row["why_not"])
        assert loses or rounded or is_chance(row["why_not"]) or (name, one.split("-")[0]) in CANNOT, row
