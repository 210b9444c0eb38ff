"""Who imports whom in kerazoo, read from the syntax trees. `python tests/house.py` prints rooms, floors and shares."""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "kerazoo"
# what each room may import of the others; imports inside functions and for types count
ALLOWED: dict[str, set[str]] = {
    "insight": set(),
    "preprocessing": set(),
    "tasks": set(),
    "models": {"preprocessing", "tasks"},
    "recipes": {"models"},
    "pipelines": {"preprocessing", "recipes", "tasks"},
    "callbacks": {"insight"},
    "runs": {"models", "pipelines", "recipes", "callbacks"},
    "evaluation": {"models", "pipelines", "runs", "tasks"},
    "training": {
        "models", "pipelines", "callbacks", "preprocessing", "recipes", "tasks", "runs", "evaluation", "insight",
    },
    "exports": {"models", "pipelines", "preprocessing", "runs", "evaluation", "tasks"},
    "transfer": {"training", "models", "pipelines", "callbacks", "recipes", "tasks", "runs"},
    "reports": {"evaluation", "exports", "insight", "runs", "tasks"},
    "serving": {"evaluation", "exports", "insight", "models", "pipelines", "preprocessing", "runs", "tasks"},
}  # fmt: skip
# modules that every room may import
FLOOR = {"errors", "files", "arrays", "caches", "startup", "terminal", "version", "keras_private", "period"}
TOP = {"__init__", "__main__", "api"}  # may import every room
CLI = {"api"}  # what the command line may import, beside the floor and itself
CLI_ALONE = {"kerazoo.cli.weights": {"models"}}  # and what one of its modules may


def name_of(path: Path) -> str:
    """The dotted name of the module in `path`."""
    return ".".join(("kerazoo", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


@cache
def modules() -> Mapping[str, Path]:
    """Every module of the package, by its dotted name."""
    return {name_of(path): path for path in sorted(SOURCE.rglob("*.py"))}


def imports(path: Path) -> Iterator[str]:
    """The modules that `path` imports anywhere; of kerazoo those that a name is taken from."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                full = f"{node.module}.{name.name}"
                yield full if full in modules() else node.module or ""


@cache
def graph() -> Mapping[str, set[str]]:
    """The modules of kerazoo that each module imports."""
    return {name: {m for m in imports(path) if m in modules() and m != name} for name, path in modules().items()}


def room_of(name: str) -> str:
    """The room of a module: the folder below the package, or the module itself where it lies beside the rooms."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def circles() -> list[str]:
    """The modules that import themselves by way of others."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(graph()[start])
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += graph()[name]
        return seen

    return [name for name in graph() if name in reached(name)]


def floor_of(room: str) -> int:
    """How many rooms lie below `room`, one upon another."""
    return max((floor_of(below) + 1 for below in ALLOWED[room]), default=0)


def main() -> None:
    """Print the rooms from the lowest floor to the highest, with lines of code and shares."""
    lines: dict[str, int] = {}
    for name, path in modules().items():
        room = room_of(name)
        lines[room] = lines.get(room, 0) + len(path.read_text(encoding="utf-8").splitlines())
    total = sum(lines.values())
    for room in sorted(ALLOWED, key=lambda room: (floor_of(room), room)):
        print(f"floor {floor_of(room)}  {room:<14} {lines[room]:>6,} lines  {lines[room] / total:6.1%}")
    largest = max(ALLOWED, key=lambda room: lines[room])
    print(
        f"{len(ALLOWED)} rooms on {1 + max(map(floor_of, ALLOWED))} floors, {len(modules())} modules, {total:,} lines"
    )
    print(f"largest: {largest}, {lines[largest] / total:.1%}; circles: {len(circles())}")


if __name__ == "__main__":
    main()
