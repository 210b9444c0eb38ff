"""The anatomy of the network in short: sizes, parameters, operations and receptive fields from map to map."""

from typing import TYPE_CHECKING

from kerazoo.keras_private import without_variables
from kerazoo.reports.html import Cell, Html, code, facts, join, section, table
from kerazoo.reports.material import Material
from kerazoo.reports.sections.answer import words_for
from kerazoo.startup import start_tensorflow
from kerazoo.terminal import format_bytes, format_macs

if TYPE_CHECKING:
    from kerazoo.insight.anatomy import Anatomy
    from kerazoo.insight.anatomy_parts import Part

MOST = 30  # rows


def network(material: Material) -> Html | None:
    """What the network is made of; None if it cannot be inspected, which a note says."""
    try:
        anatomy = _anatomy_of(material)
    except Exception as error:  # such as a builder that is no longer there; the numbers are still worth a report
        material.leave_out("the anatomy of the network", error)
        return None
    last = anatomy.last_map
    spec = material.run.spec
    macs = "unknown" if anatomy.macs is None else f"{format_macs(anatomy.macs)} (multiply-accumulate operations)"
    twice = " The mirror image is answered as well, for as much again." if any(n.flip for n in spec.networks) else ""
    pairs: list[tuple[object, object]] = [
        ("Network", code(spec.name) if not spec.members else join([f"{len(spec.members)} times ", code(spec.name)])),
        ("Image", f"{' x '.join(map(str, anatomy.input_shape))} (height, width, channels)"),
        ("Parameters", f"{anatomy.parameters:,}, {anatomy.parameters * 4 / 1e6:,.1f} MB as 32-bit floats"),
        ("For one image", f"{macs}, {format_bytes(anatomy.activation_bytes)} of outputs of layers.{twice}"),
    ]
    if last is not None:
        pairs.append(("Receptive field", join([
            f"A position of the last feature map ({' x '.join(map(str, last.output_shape[:-1]))}, ", code(last.name),
            f") sees {last.field.text()} px in height and width, padding included.",
        ])))  # fmt: skip
    from kerazoo.insight.anatomy_parts import parts_of

    parts = list(parts_of(anatomy))
    some = f"The last {MOST} of {len(parts)} parts. " if len(parts) > MOST else ""
    note = join([some, code(f"kerazoo inspect {words_for(material.run)}"), " has a row for each layer."])
    columns = ["output", "layers", "parameters", "operations", "receptive field"]
    made = table("From map to map", columns, [_row(part, anatomy) for part in parts[-MOST:]], note=note)
    return section("The network", facts(pairs), made, anchor="network")


def _anatomy_of(material: Material) -> "Anatomy":
    start_tensorflow()
    from kerazoo.insight.anatomy import anatomy_of

    with without_variables():
        return anatomy_of(material.run.spec.build())


def _row(part: "Part", anatomy: "Anatomy") -> list[object]:
    parameters = sum(layer.parameters for layer in part.layers)
    shape = " x ".join(map(str, part.size or part.last.output_shape))
    share = "" if not (part.macs and anatomy.macs) else f" ({100 * part.macs / anatomy.macs:.0f} %)"
    macs = "unknown" if part.macs is None else f"{part.macs:,}{share}"
    field = part.last.field
    return [
        shape, Cell(f"{len(part.layers):,}", len(part.layers)), Cell(f"{parameters:,}", parameters),
        Cell(macs, part.macs or 0), field.text() if field.unknown or field.is_whole_image else f"{field.text()} px",
    ]  # fmt: skip
