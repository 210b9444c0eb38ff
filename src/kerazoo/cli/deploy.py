"""The command that writes files for production: deploy."""

from pathlib import Path
from typing import Annotated

import typer

from kerazoo import api
from kerazoo.cli.output import Json, print_json, print_text


def deploy(
    export: Annotated[
        str, typer.Argument(metavar="NAME", help="An export: saved_models/NAME, or .../VERSION to pin it.")
    ],
    to: Annotated[str, typer.Option("--to", metavar="TARGET", help="docker, kubernetes or kserve.")],
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where to write them. [default: deploy/NAME/TARGET]")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="The name in Docker Compose or Kubernetes. [default: the export's name]"),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option("--memory", help="The memory limit, such as 2Gi. [default: 1 GiB and four times the weights]"),
    ] = None,
    cpus: Annotated[int | None, typer.Option("--cpus", min=1, help="The CPU limit. [default: none]")] = None,
    claim: Annotated[
        str | None,
        typer.Option("--claim", help="kubernetes: the PersistentVolumeClaim with the export. [default: models]"),
    ] = None,
    storage_uri: Annotated[
        str | None, typer.Option("--storage-uri", help="kserve: where the export is, such as s3://models/NAME.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the files of an earlier call.")] = False,
    as_json: Json = False,
) -> None:
    """Write the files that run an export on TensorFlow Serving: with Docker Compose, Kubernetes or KServe."""
    files = api.deploy(
        export, to=to, folder=folder, name=name, memory=memory, cpus=cpus, claim=claim, storage_uri=storage_uri,
        overwrite=overwrite,
    )  # fmt: skip
    if as_json:
        print_json({"export": export, "to": to, "files": [str(path) for path in files]})
        return
    for path in files:
        print_text(str(path))
    print_text(f"next: see {files[-1]}")
