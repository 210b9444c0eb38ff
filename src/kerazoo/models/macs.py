"""The MACs of the models of the registry at their default sizes, without the heads of backbones.

They are kept in `macs.json`, so that reading them builds nothing. `python benchmarks/macs.py` writes the file, and
tests/test_anatomy.py counts again.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path

FILE = Path(__file__).with_suffix(".json")


@functools.cache
def macs() -> Mapping[str, int]:
    """Multiply-accumulate operations for one image, by the name of the model."""
    values: dict[str, int] = json.loads(FILE.read_text(encoding="utf-8"))["macs"]
    return values
