"""What was asked: recipe, command, data; and the environment, with how to run it again."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kerazoo.reports.html import Cell, Html, code, facts, join, name_of, plural, section, table, tag
from kerazoo.reports.material import Material
from kerazoo.reports.sections.answer import words_for

MOST_CLASSES = 200  # in the table of counts; of more, the smallest and the largest


def asked(material: Material) -> Html:
    """The recipe, the command and the data."""
    recipe = material.run.recipe
    data = material.data
    counts = data.get("counts", {})
    totals = ", ".join(f"{total:,} {split}" for split, total in _totals(material).items())
    pairs: list[tuple[object, object]] = [
        ("Network", code(recipe.model.name)),
        ("Weights at the start", code(recipe.transfer.weights) if recipe.transfer else "random"),
        ("Data", join([code(data.get("source", recipe.data.path)), tag("br"), totals])),
        ("Digest of the data", code(data.get("digest", "unknown"))),
    ]
    command = material.environment.get("command")
    if isinstance(command, list):
        pairs.append(("Command", code(_command([str(word) for word in command]))))
    left_out = data.get("left_out") or {}
    if left_out:
        shown = [join([code(key), f": {why}", tag("br")]) for key, why in list(left_out.items())[:20]]
        more = f"and {len(left_out) - 20:,} more" if len(left_out) > 20 else ""
        words = plural(len(left_out), "file")
        pairs.append(("Left out", tag("details", tag("summary", words), tag("p", *shown, more))))
    values = recipe.model_dump(mode="json", exclude_none=True)
    settings = tag("details", tag("summary", "The whole recipe"), _recipe(values))
    return section("What was asked", facts(pairs), _classes(material, counts), settings, anchor="asked")


def _command(words: list[str]) -> str:
    """What was typed; the path of the program is left out."""
    own = Path(words[0]).name in ("kerazoo", "__main__.py")
    return shlex.join(["kerazoo", *words[1:]] if own else words)


def _totals(material: Material) -> dict[str, int]:
    """The number of images of each split. Runs of earlier versions have only counts of classes and of labels."""
    known: dict[str, int] | None = material.data.get("examples")
    if known is not None:
        return known
    totals = {split: sum(counts.values()) for split, counts in material.data.get("counts", {}).items()}
    evaluated = {result.split: len(result.keys) for result in material.results if result.split in totals}
    several = material.main.has_probabilities and not material.main.is_exclusive
    return ({} if several else totals) | evaluated


def _classes(material: Material, counts: Mapping[str, Mapping[str, int]]) -> Html | None:
    """The number of images of each class in each split."""
    if not material.main.has_probabilities:
        return None
    names = material.main.class_names
    order = list(range(len(names)))
    note = None
    if len(names) > MOST_CLASSES:
        sizes = [counts.get("train", {}).get(name, 0) for name in names]
        order.sort(key=lambda number: sizes[number])
        order = order[: MOST_CLASSES // 2] + order[-MOST_CLASSES // 2 :]
        note = f"Of {len(names):,} classes, the {MOST_CLASSES // 2} smallest and the {MOST_CLASSES // 2} largest."
    rows = [
        [Cell(name_of(names[n]), str(n)), *(_images(each.get(names[n], 0)) for each in counts.values())] for n in order
    ]
    made = table("Images", ["class", *counts], rows, sortable=True, note=note)
    return tag("details", tag("summary", f"{plural(len(names), 'class', 'classes')}"), made)


def _images(count: int) -> Cell:
    return Cell(f"{count:,}", count)


def _recipe(values: Mapping[str, Any]) -> Html:
    rows = [[code(key), code(value)] for key, value in _flat(values)]
    return table("Recipe", ["key", "value"], rows)


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", json.dumps(value, ensure_ascii=False)))
    return rows


def again(material: Material) -> Html:
    """Versions and hardware, the time it took, and the command that runs it again."""
    env = material.environment
    git = env.get("git") or {}
    versions = env.get("versions") or {}
    name = words_for(material.run)
    pairs: list[tuple[object, object]] = [
        ("Run it again", code(f"kerazoo train {shlex.quote(str(material.run.folder / 'recipe.toml'))} --name NAME")),
        ("Evaluate it again", code(f"kerazoo evaluate {shlex.quote(name)}")),
        ("This report again", code(f"kerazoo report {shlex.quote(name)}")),
        ("Took", _seconds(material)),
        ("Started", str(env.get("started", "unknown"))),
        ("Computer", _computer(material)),
        ("Python", f"{env.get('python', 'unknown')} on {env.get('platform', 'unknown')}"),
        ("Packages", ", ".join(f"{key} {value}" for key, value in versions.items() if value) or "unknown"),
    ]
    if git.get("commit"):
        changed = " with changes that are not committed" if git.get("dirty") else ""
        pairs.append(("Commit of kerazoo", join([code(git["commit"]), changed])))
    if env.get("variables"):
        pairs.append(("Variables", join([code(f"{k}={v}") for k, v in env["variables"].items()], " ")))
    resumed = material.state.get("resumed", [])
    if resumed:
        pairs.append(("Resumed", plural(len(resumed), "time")))
    return section("How to run it again", facts(pairs), anchor="again")


def _seconds(material: Material) -> Html:
    seconds = f"{material.run.seconds:,.0f} s"
    timings = sorted(material.run.timings.items(), key=lambda each: -each[1])
    if not timings:
        return join([seconds])
    parts = ", ".join(f"{name} {value:,.1f} s" for name, value in timings[:5])
    return join([seconds, tag("span", f" ({parts})", class_="note")])


def _computer(material: Material) -> str:
    env = material.environment
    gpus = env.get("gpus") or []
    memory = env.get("memory")
    words = [plural(env["cpus"], "processor core")] if isinstance(env.get("cpus"), int) else []
    words += [f"{memory / 2**30:.0f} GB of memory"] if isinstance(memory, int) else []
    words += [", ".join(map(str, gpus)) if gpus else "no GPU", f"devices: {material.state.get('devices', 'unknown')}"]
    return ", ".join(words)
