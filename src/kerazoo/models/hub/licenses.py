"""The license of a preset, as far as its files or its family state one."""

import re
from pathlib import Path

from kerazoo.files import read_json
from kerazoo.models.hub.families import FAMILIES
from kerazoo.models.hub.presets import CONFIG, source_of, table

FREE = (
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc0-1.0", "isc", "unlicense",
)  # fmt: skip
UNKNOWN = "unknown"


def license_of(preset: str, folder: Path, kind: str = "") -> tuple[str, str]:
    """(license, its source): from the model card, else what is known of the family, else "unknown" and the address.

    The family is that of the class `kind`, or else of the class in the table or in the config.
    """
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace")[:20_000] if card.is_file() else ""
    head = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    values = dict(re.findall(r"^(license(?:_name|_link)?):[ \t]*(\S.*)$", head[1] if head else "", re.MULTILINE))
    stated = str(values.get("license", "")).strip("\"' ")
    if stated == "other":
        stated = str(values.get("license_name", stated)).strip("\"' ")
    if stated:
        return stated, str(values.get("license_link", "")) or source_of(preset) or str(card)
    kind = kind or (table()[preset][0] if preset in table() else str(read_json(folder / CONFIG).get("class_name")))
    family = FAMILIES.get(kind)
    if family is not None and family.license:
        return family.license, family.license_source
    return UNKNOWN, source_of(preset) or str(folder)


def license_note(license: str, source: str) -> str:
    """A line for people about a license that is not known to be free; "" for a free one."""
    if license.lower() in FREE:
        return ""
    return f"license {license}: see {source}" if source else f"license {license}"
