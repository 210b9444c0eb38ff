"""Upload an export to the Hugging Face hub: its files as the gate saw them, and its card.

The passport goes without what is about the machine: of an absolute path only the name, and no command and variables.
"""

import json
from fnmatch import fnmatchcase
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from kerazoo.errors import InputError, KerazooError, RunError
from kerazoo.exports.folder import Export
from kerazoo.exports.formats.table import FORMATS
from kerazoo.exports.hashes import changed_file
from kerazoo.exports.layout import PASSPORT
from kerazoo.reports.card import FILE, write_card

HUB = "hf://"
OURS = ("variables/*", "assets/*", "assets.extra/*", "preprocessing/*", *(f"{name}/*" for name in FORMATS))


def push(export: Export, to: str, *, private: bool = False) -> str:
    """Upload `export` to the repository `to`, "hf://USER/NAME", as one commit, and return its address.

    A repository that does not exist is made, `private` or not. Files of a former export that this one does not have are
    removed from it; other files stay. A `README.md` in the export is its card; one is written if there is none.

    Raises InputError if `to` is no such name or huggingface_hub is not installed, RunError if a file of the export was
    changed, and KerazooError if the hub refuses or cannot be reached.
    """
    name = check_address(to)
    try:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
        from huggingface_hub.utils import httpx
    except ModuleNotFoundError as error:
        raise InputError(f"{to} needs {error.name}, which is not installed; run pip install 'kerazoo[hub]'") from error
    changed = changed_file(export.folder, export.passport)
    if changed:
        raise RunError(f"{export.folder / changed} was changed after the export; export the run again")
    if not (export.folder / FILE).exists():
        write_card(export)
    hub = HfApi()
    try:
        hub.create_repo(name, private=private or None, exist_ok=True)
        before = hub.list_repo_files(name)
        files = {
            path.relative_to(export.folder).as_posix(): path for path in export.folder.rglob("*") if path.is_file()
        }
        old = [one for one in before if one not in files and any(fnmatchcase(one, ours) for ours in OURS)]
        contents = {one: str(path) for one, path in files.items()} | {PASSPORT: _public(export)}
        done = hub.create_commit(
            name, [*(CommitOperationAdd(*one) for one in contents.items()), *map(CommitOperationDelete, old)],
            commit_message=f"{export.folder.parent.name}, version {export.version}, by kerazoo",
        )  # fmt: skip
    except HFValidationError as error:
        raise InputError(f"--to {to}: {_first_line(error)}") from error
    except LocalTokenNotFoundError as error:
        raise KerazooError(f"{to}: {LOG_IN}") from error
    except HfHubHTTPError as error:
        refused = error.response is not None and error.response.status_code in (401, 403)
        raise KerazooError(f"{to}: {LOG_IN if refused else _first_line(error)}") from error
    except httpx.HTTPError as error:
        raise KerazooError(f"{to}: {hub.endpoint} cannot be reached ({_first_line(error)}); try again later") from error
    return str(done.repo_url)


LOG_IN = "the hub refused to write; run `hf auth login`, or set HF_TOKEN to a token that may write there"


def _public(export: Export) -> bytes:
    """The passport for everybody, as JSON."""
    values = _named(export.passport)
    for name in ("command", "variables"):
        values.get("environment", {}).pop(name, None)
    return json.dumps(values, indent=1, ensure_ascii=False).encode()


def _named(value: Any) -> Any:
    """`value`, with the last part alone of every absolute path in it."""
    if isinstance(value, dict):
        return {key: _named(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_named(one) for one in value]
    if isinstance(value, str):
        for kind in (PurePosixPath, PureWindowsPath):
            path = kind(value.removeprefix("hub:"))
            if path.is_absolute():
                return path.name
    return value


def check_address(to: str) -> str:
    """USER/NAME of "hf://USER/NAME". Raises InputError."""
    name = to.removeprefix(HUB)
    if name == to or name.count("/") != 1 or not all(name.split("/")):
        raise InputError(f"--to must be hf://USER/NAME, got {to!r}")
    return name


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
