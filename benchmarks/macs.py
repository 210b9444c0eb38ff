"""Count the MACs of every model of the registry into src/kerazoo/models/macs.json: `python benchmarks/macs.py`.

It builds each model without values of its weights, at its default size: about 5 minutes on two CPU cores.
"""

import json

from kerazoo.startup import start_tensorflow

start_tensorflow()

import keras  # noqa: E402

from kerazoo.insight.anatomy import anatomy_of  # noqa: E402
from kerazoo.keras_private import without_variables  # noqa: E402
from kerazoo.models.macs import FILE  # noqa: E402
from kerazoo.models.registry import ENTRIES, Network, construct  # noqa: E402

ABOUT = (
    "Multiply-accumulate operations for one image of the default size, written by benchmarks/macs.py. The head of a "
    "backbone is not counted."
)


def count(name: str, *, with_head: bool) -> int:
    """The MACs of one model."""
    with without_variables():
        anatomy = anatomy_of(construct(name))
    head = anatomy.layer("logits").macs
    if anatomy.macs is None or head is None:
        raise SystemExit(f"{name}: {[layer.name for layer in anatomy.layers if layer.macs is None]} are not counted")
    return anatomy.macs if with_head else anatomy.macs - head


def main() -> None:
    """Write the file."""
    values = {}
    for entry in ENTRIES:
        values[entry.name] = count(entry.name, with_head=isinstance(entry, Network))
        print(entry.name, f"{values[entry.name]:,}", flush=True)
        keras.backend.clear_session()
    rows = ",\n".join(f'  "{name}": {number}' for name, number in values.items())
    FILE.write_text(f'{{\n "about": {json.dumps(ABOUT)},\n "macs": {{\n{rows}\n }}\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
