"""The files that run an export in production: find it, check what is asked for, then write them."""

import os
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

from kerazoo.errors import InputError
from kerazoo.exports.folder import Export, find_export, open_export
from kerazoo.exports.layout import SAVED_MODEL
from kerazoo.serving.deploy.choices import Choices
from kerazoo.serving.deploy.deployment import Deployment, memory_for
from kerazoo.serving.deploy.docker import docker_files
from kerazoo.serving.deploy.kserve import kserve_files
from kerazoo.serving.deploy.kubernetes import kubernetes_files
from kerazoo.serving.deploy.names import resource_name
from kerazoo.serving.deploy.writing import write_files

EXPORTS = Path("saved_models")
FILES = Path("deploy")
CLAIM = "models"
Files = Callable[[Deployment, Path], dict[str, str]]  # the files by their names in the folder that is given
TARGETS = MappingProxyType({"docker": docker_files, "kubernetes": kubernetes_files, "kserve": kserve_files})


def deploy_export(
    export: str | Path, to: str, choices: Choices, *, folder: str | Path | None = None, overwrite: bool = False
) -> list[Path]:
    """Write the files that run `export` on the target `to`, and return their paths. Raises InputError or OSError."""
    files = _files_of(to)
    choices.check(to)
    opened, pinned = _find(export)
    if to == "kserve" and pinned:
        raise InputError(
            f"KServe serves the newest version at its storage URI; give {opened.folder.parent}, and put only version "
            f"{opened.version} there"
        )
    versions = Path(os.path.normpath(opened.folder.parent.absolute()))
    if not versions.name.isprintable():
        raise InputError(f"the export's name {versions.name!r:.80} must be printable; rename its folder")
    deployment = Deployment(
        export=versions,
        version=opened.version if pinned else None,
        name=resource_name(versions.name, choices.name),
        memory=choices.mebibytes or memory_for(opened.folder),
        cpus=choices.cpus,
        claim=choices.claim or CLAIM,
        storage_uri=choices.storage_uri or "",
    )
    target = FILES / versions.name / to if folder is None else Path(folder)
    return write_files(target, files(deployment, target), overwrite=overwrite)


def _files_of(to: str) -> Files:
    try:
        return TARGETS[to]
    except KeyError as error:
        raise InputError(f"to={to!r:.40} must be one of {', '.join(TARGETS)}") from error


def _find(export: str | Path) -> tuple[Export, bool]:
    """The export that a path or a bare name below saved_models names, and whether its version was named, too.

    Raises RunError if there is none, or it has no passport.
    """
    named = Path(export)
    if find_export(named) is None and find_export(EXPORTS / named) is not None:
        named = EXPORTS / named
    opened = open_export(named)
    opened.version, opened.passport  # noqa: B018  both raise RunError where they are wrong
    return opened, (named / SAVED_MODEL).is_file()
