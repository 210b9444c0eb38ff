"""Write recipe.md beside this file from the fields of the recipe: `python docs/reference/make.py`."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from kerazoo.recipes.augmentation import POLICIES
from kerazoo.recipes.recipe import Recipe
from kerazoo.recipes.refusals import allowed, parts_of

PAGE = Path(__file__).parent / "recipe.md"
HEAD = """# The recipe

Every key, what it must be, and its default. A key may be left out unless the table says *must be set*. This page is
written by `python docs/reference/make.py` from the fields that check a recipe when it is read.

A recipe is a TOML file, and `--set` changes one key of it: `--set optimizer.learning_rate=0.1`, `--set 'log=[]'`. In
Python it is made by `Recipe.for_training("resnet20", "photos", optimizer={"learning_rate": 0.1})`, and changed by
`recipe.override("seed", 1)`, which gives another one.

Some networks of the zoo have defaults of their own, a file each in `recipes/zoo`: training one by name starts from its
optimizer and augmentation. A preset of fine-tuning has its own, too.
"""


def page() -> str:
    """The page, as it should be."""
    parts = parts_of(Recipe)
    top = {name: field for name, field in Recipe.model_fields.items() if name not in parts}
    sections = [HEAD, "## Keys of their own\n", table(top, "")]
    for name, part in parts.items():
        about = " ".join((part.__doc__ or "").split())
        sections += [f"## [{name}]\n", f"{about}\n", table(part.model_fields, f"{name}.")]
        if name == "augmentation":
            sections.append(policies())
    return "\n".join(sections)


def table(fields: dict[str, Any], prefix: str) -> str:
    """A row for each of `fields`."""
    rows = ["| key | must be | default | meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        cells = (f"`{prefix}{name}`", allowed(field.annotation, field.metadata), default(field.default), meaning(field))
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def default(value: Any) -> str:
    """A default as TOML writes it."""
    if value is PydanticUndefined:
        return "*must be set*"
    return "" if value is None or isinstance(value, BaseModel) else f"`{json.dumps(value)}`"


def meaning(field: Any) -> str:
    """The description, which every field must have."""
    if not field.description:
        raise SystemExit(f"a field of the recipe has no description: {field}")
    return str(field.description)


def policies() -> str:
    """What each policy of augmentation sets."""
    rows = ["| policy | sets |", "|---|---|"]
    for name, values in POLICIES.items():
        rows.append(f"| {name} | {', '.join(f'`{key} = {json.dumps(value)}`' for key, value in values.items())} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
