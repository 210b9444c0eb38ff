"""The honest export of the registry's networks passes the gate, in every format that can be written here."""

import csv
import importlib.util
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
# random weights answer single pixels, so fewer bits change answers, which are no better than chance to begin with
LOSES = {
    "litert-float16": ("does not give the same answers", "it may lose"),
    **{name: ("it may lose",) for name, one in FORMATS.items() if one.tolerance is None},
}


def rows_of(name, formats, folder):
    command = [sys.executable, SCRIPT, "--models", name, "--formats", *formats, "--csv", folder / "rows.csv"]
    subprocess.run(command, check=True, capture_output=True)
    with (folder / "rows.csv").open(newline="") as file:
        return {row["format"]: row for row in csv.DictReader(file)}


@pytest.mark.slow  # minutes each; the largest take many GB
@pytest.mark.parametrize("name", list_models())
def test_the_honest_export_of_every_network_passes(name, tmp_path):
    """Formats of fewer bits may be refused for what they lose, and for no other reason."""
    rows = rows_of(name, FORMATS_HERE, tmp_path)
    assert set(rows) == {"saved_model", *FORMATS_HERE}
    for one, row in rows.items():
        if row["passed"] == "True":
            continue
        assert (name, one.split("-")[0]) in CANNOT or any(words in row["why_not"] for words in LOSES.get(one, ())), row
