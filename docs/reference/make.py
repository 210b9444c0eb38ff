"""Write recipe.md, python.md and commands.md beside this file: `python docs/reference/make.py`.

They are made from the fields of the recipe, the docstrings of public names, and the options of commands.
"""

import importlib
import inspect
import json
import re
import textwrap
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import kerazoo
from kerazoo.cli.app import app
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


PYTHON = Path(__file__).parent / "python.md"
PYTHON_HEAD = """# Python

Every public name of `kerazoo`, in the words of its docstring. This page is written by `python docs/reference/make.py`.
Callbacks are in the [guide to training](../guides/training.md#callbacks-in-your-own-fit), settings in
[the recipe](recipe.md).
"""
RETURNED = (  # what functions return and `kerazoo` does not name
    "kerazoo.models.info.ModelInfo", "kerazoo.insight.anatomy.Anatomy", "kerazoo.insight.anatomy.LayerAnatomy",
    "kerazoo.pipelines.checks.check.CheckReport",
    "kerazoo.pipelines.checks.check.Finding", "kerazoo.transfer.ranking.Ranked", "kerazoo.exports.gate.GateResult",
)  # fmt: skip
SECTION = re.compile(r"^(Args|Returns|Raises|Example):$")


def python_page() -> str:
    """The page of the public names, as it should be."""
    names = [name for name in kerazoo.__all__ if name not in ("__version__", "callbacks")]
    public = {f"kerazoo.{name}": getattr(kerazoo, name) for name in names}
    functions = {name: value for name, value in public.items() if inspect.isfunction(value)}
    classes = {name: value for name, value in public.items() if inspect.isclass(value)}
    returned = [getattr(importlib.import_module(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in RETURNED]
    sections = [PYTHON_HEAD, "## Functions\n"]
    sections += [f"### {name}\n\n{called(name, value)}{text_of(value)}" for name, value in functions.items()]
    sections += ["## Objects\n"]
    sections += [f"### {name}\n\n{text_of(value)}{members(value)}" for name, value in classes.items()]
    sections += ["## What some functions return\n"]
    sections += [f"### {value.__name__}\n\n{text_of(value)}{members(value)}" for value in returned]
    return "\n".join(sections)


def called(name: str, function: Any) -> str:
    """The signature without types, in a block."""
    parameters = inspect.signature(function).parameters.values()
    plain = inspect.Signature([one.replace(annotation=one.empty) for one in parameters])
    line = textwrap.fill(
        f"{name}{plain}", 110, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    return f"```text\n{line}\n```\n\n"


def text_of(value: Any) -> str:
    """The docstring, with its sections as lists."""
    lines: list[str] = []
    section = ""
    for line in (inspect.getdoc(value) or "").splitlines():
        if found := SECTION.match(line):
            section = found[1]
            lines += [f"**{section}**", ""]
        elif section in ("Args", "Returns", "Raises") and line.strip():
            entry = re.match(r"    (\*{0,2}\w+): (.*)", line) if section != "Returns" else None
            if entry:
                lines.append(f"- `{entry[1]}`: {entry[2]}")
            else:
                lines.append(line.strip() if section == "Returns" else f"  {line.strip()}")
        else:
            lines.append(line)
    return "\n".join(lines).strip() + "\n"


def members(kind: type) -> str:
    """What an object has, with the first paragraph of each."""
    rows = []
    own = [base for base in kind.__mro__ if base.__module__.startswith("kerazoo") and base.__name__ != "Part"]
    for name in sorted({name for base in own for name in vars(base) if not name.startswith("_")}):
        value = inspect.getattr_static(kind, name)
        value = getattr(value, "__func__", value)
        function = value.fget if isinstance(value, property) else getattr(value, "func", value)
        if not callable(function) or not inspect.getdoc(function) or name in ("model_config", "fill"):
            continue
        about = " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())
        call = "()" if inspect.isfunction(value) else ""
        rows.append(f"- `{name}{call}`: {about}")
    return "\n" + "\n".join(rows) + "\n" if rows else ""


COMMANDS = Path(__file__).parent / "commands.md"
COMMANDS_HEAD = """# Commands

Every command with its arguments and options, as `--help` shows them. This page is written by
`python docs/reference/make.py`. DATA is an image folder, an `.npz` file, a CSV, TSV or Parquet table, or `tfds:NAME`.
A RUN is a folder, or its name under `runs/`. Exit codes: 0, 1 for a failure, 2 for bad input, 130 after Ctrl-C.
"""


def commands_page() -> str:
    """The page of the commands, as it should be."""
    found = typer.main.get_command(app)
    sections = [COMMANDS_HEAD, "## Of every command\n", options(found)]
    for name, command in sorted(found.commands.items()):
        inner = getattr(command, "commands", {})
        sections.append(f"## kerazoo {name}\n\n{words_of(command.help)}\n")
        sections += [] if inner else [usage(f"kerazoo {name}", command)]
        for part, one in inner.items():
            sections += [f"### kerazoo {name} {part}\n\n{words_of(one.help)}\n", usage(f"kerazoo {name} {part}", one)]
    return "\n".join(sections)


def words_of(text: str | None) -> str:
    """The paragraphs of a help text, each in one line."""
    return "\n\n".join(" ".join(part.split()) for part in (text or "").split("\n\n"))


def usage(name: str, command: Any) -> str:
    """How it is called, and what its arguments and options mean."""
    given = [one for one in command.params if one.param_type_name == "argument"]
    words = [name, *(metavar(one) if one.required else f"[{metavar(one)}]" for one in given)]
    needed = [f"{one.opts[0]} {metavar(one)}" for one in command.params if one not in given and one.required]
    return f"```text\n{' '.join([*words, *needed, '[OPTIONS]'])}\n```\n\n{options(command)}"


def options(command: Any) -> str:
    """A row for each argument and option."""
    rows = ["| | meaning | default |", "|---|---|---|"]
    for one in command.params:
        if getattr(one, "hidden", False) or one.name == "help":
            continue
        is_argument = one.param_type_name == "argument"
        name = metavar(one) if is_argument else ", ".join([*one.opts, *one.secondary_opts])
        value = "" if is_argument or getattr(one, "is_flag", False) else f" {metavar(one)}"
        shown = "" if callable(one.default) or one.default in (None, False, True, "", ()) else f"`{one.default}`"
        cells = (f"`{name}{value}`", words_of(one.help), shown)
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def metavar(one: Any) -> str:
    """What stands for the value of an argument or an option."""
    return str(one.metavar or one.name.upper().replace("_", "-"))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    PYTHON.write_text(python_page(), encoding="utf-8")
    COMMANDS.write_text(commands_page(), encoding="utf-8")
