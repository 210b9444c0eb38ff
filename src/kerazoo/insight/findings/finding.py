"""One finding, and several of them ranked, as text and as JSON."""

import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["note", "warning", "serious"]
SEVERITIES: tuple[Severity, ...] = ("serious", "warning", "note")  # the worst first
FILE = "findings.json"  # in the folder of a run
WIDTH = 110  # of a printed line


@dataclass(frozen=True)
class Finding:
    """What is wrong, or worth knowing.

    `name` is a word for programs (`dead_units`). `where` is a layer, a step, or "" for the whole training. `evidence`
    holds the numbers it rests on, thresholds among them. `meaning` says in two sentences what it means, `change` what
    to change, with the key of the recipe. `examples` are rows of the training data, the worst first.
    """

    name: str
    severity: Severity
    where: str
    evidence: Mapping[str, float]
    meaning: str
    change: str
    examples: tuple[int, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """As JSON has it; numbers that are not finite are strings."""
        evidence = {key: value if math.isfinite(value) else str(value) for key, value in self.evidence.items()}
        values: dict[str, Any] = {"name": self.name, "severity": self.severity, "where": self.where}
        values |= {"evidence": evidence, "meaning": self.meaning, "change": self.change}
        return values | ({"examples": list(self.examples)} if self.examples else {})

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Finding":
        """The finding that `to_json` wrote. Raises ValueError, KeyError or TypeError for anything else."""
        evidence = {str(key): float(value) for key, value in values["evidence"].items()}
        if values["severity"] not in SEVERITIES:
            raise ValueError(f"severity must be one of {', '.join(SEVERITIES)}, got {values['severity']!r:.80}")
        texts = {name: str(values[name]) for name in ("name", "where", "meaning", "change")}
        examples = tuple(int(row) for row in values.get("examples", ()))
        return cls(severity=values["severity"], evidence=evidence, examples=examples, **texts)

    def lines(self) -> list[str]:
        """The printed form: name and numbers, then what it means and what to change."""
        numbers = ", ".join(f"{key.replace('_', ' ')} {value:.3g}" for key, value in self.evidence.items())
        place = f" ({self.where})" if self.where else ""
        text = [f"{self.severity}: {self.name.replace('_', ' ')}{place}: {numbers}"]
        for part in (self.meaning, f"Change: {self.change}"):
            text += textwrap.wrap(part, WIDTH, initial_indent="  ", subsequent_indent="  ")
        return text


def rank(findings: Iterable[Finding | None]) -> list[Finding]:
    """The findings, serious ones first; those of one severity stay in their order. None is left out."""
    return sorted((one for one in findings if one is not None), key=lambda one: SEVERITIES.index(one.severity))


def lines(findings: Iterable[Finding]) -> list[str]:
    """The ranked findings as lines of text."""
    ranked = rank(findings)
    if not ranked:
        return ["no findings"]
    return [line for finding in ranked for line in finding.lines()]


def to_json(findings: Iterable[Finding], *, unseen: Sequence[str] = ()) -> str:
    """The ranked findings as one JSON document: {"findings": [...], "not_looked_at": [...]}."""
    values = {"findings": [finding.to_json() for finding in rank(findings)], "not_looked_at": list(unseen)}
    return json.dumps(values, indent=1) + "\n"


def reaches(findings: Iterable[Finding], severity: Severity) -> bool:
    """Whether one of them is of that severity, or worse."""
    limit = SEVERITIES.index(severity)
    return any(SEVERITIES.index(finding.severity) <= limit for finding in findings)
