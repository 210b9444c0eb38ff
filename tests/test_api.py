"""The door: names and errors of `kerazoo`, and that the command line goes through it and gives the same."""

import ast

import house

from kerazoo.errors import InputError, KerazooError


def test_names_of_errors():
    """Each ends in Error, but for what a signal asked for; bad input is a ValueError, a failure is not."""
    bases = {}
    for path in house.modules().values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [ast.unparse(base).split(".")[-1] for base in node.bases]
    kinds = {"Exception", "BaseException", "SystemExit"}
    while more := {name for name, of in bases.items() if any(b in kinds or b.endswith("Error") for b in of)} - kinds:
        kinds |= more
    ours = kinds & set(bases)
    assert {"KerazooError", "NotRegularError", "TerminatedError", "Interrupted"} <= ours
    assert {name for name in ours if not name.endswith("Error")} == {"Interrupted"}
    assert issubclass(InputError, ValueError)
    assert not issubclass(KerazooError, ValueError)
