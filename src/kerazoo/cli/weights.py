"""`kerazoo weights`: list, fetch and check the published weights, and copy them to machines without a network."""

from pathlib import Path
from typing import Annotated, Any

import typer

from kerazoo.caches import cache_path
from kerazoo.cli.output import Json, print_json, say
from kerazoo.errors import WeightsError
from kerazoo.terminal import format_bytes

app = typer.Typer(
    help="Published ImageNet weights: list, fetch and check them, and copy them to a machine without a network.",
    no_args_is_help=True, rich_markup_mode=None,
)  # fmt: skip

Names = Annotated[list[str], typer.Argument(help="Names from `kerazoo weights list`, or hub:PRESET of keras-hub.")]


@app.command("list")
def list_weights(
    filter: Annotated[str, typer.Option(help="Show only names that contain this text.")] = "", as_json: Json = False
) -> None:
    """List the published weights: size, cache, kind of check, accuracy, license."""
    from kerazoo.models.weights.download import cache_paths
    from kerazoo.models.weights.published import manifest

    rows: list[dict[str, Any]] = []
    for name, entry in manifest().items():
        if filter.lower() in name:
            ours, theirs = (path.is_file() for path in cache_paths(entry))
            rows.append(
                {
                    "name": name, "file": entry.file, "url": entry.url, "bytes": entry.bytes,
                    "bytes_exact": entry.size is not None, "cached": "kerazoo" if ours else "keras" if theirs else None,
                    "checked_by": entry.checked_by, "md5": entry.md5, "sha256": entry.sha256, "top1": entry.top1,
                    "top5": entry.top5, "accuracy_source": entry.accuracy_source, "license": entry.license,
                    "license_source": entry.license_source, "training_data": entry.training_data,
                }
            )  # fmt: skip
    if as_json:
        print_json({"folder": str(cache_path("weights")), "weights": rows})
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        size = format_bytes(row["bytes"]) if row["bytes_exact"] else f"~{format_bytes(row['bytes'])}"
        top1 = "-" if row["top1"] is None else f"{row['top1']:.1f} %"
        here = f"in {row['cached']}'s cache" if row["cached"] else "-"
        license = row["license"] or "none stated"
        print(f"{row['name']:<{width}}  {size:>9}  {here:<18}  {row['checked_by']:<9}  {top1:>6}  {license}")


@app.command()
def fetch(
    names: Names,
    mirror: Annotated[
        str | None,
        typer.Option(help="An address or a folder with the files. [default: $KERAZOO_WEIGHTS_MIRROR, else Keras's]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Fetch weights into the cache if they are not there. Every file is checked before it is used."""
    from kerazoo.models.weights.download import published_path

    rows = []
    entries = _entries(_without_presets(names))
    for preset in _presets(names):
        rows.append({"name": preset.name, "path": str(preset.folder()), "checked_by": "sha256"})
    for entry in entries:
        path = published_path(entry.name, mirror=mirror)
        rows.append({"name": entry.name, "path": str(path), "checked_by": entry.checked_by})
    if not as_json:
        for row in rows:
            print(f"{row['name']}  {row['path']}")
    if as_json:
        print_json({"weights": rows})


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Names. [default: all cached weights]")] = None,
    as_json: Json = False,
) -> None:
    """Check the cached files. The exit code is 1 if one is damaged."""
    from kerazoo.models.hub.presets import check_files
    from kerazoo.models.weights.download import cache_paths, cache_problem
    from kerazoo.models.weights.published import manifest

    rows: list[dict[str, Any]] = []
    for preset in _presets(names or []):
        files = check_files(preset.preset, preset.folder())
        rows.append(
            {
                "name": preset.name, "path": str(preset.folder()), "checked_by": "sha256", "damage": "",
                "files": {name: digest for name, (_, digest) in files.items()},
            }
        )  # fmt: skip
    for entry in _entries(_without_presets(names)) if names else manifest().values():
        cached = [path for path in cache_paths(entry) if path.is_file()]
        if names and not cached:
            raise WeightsError(f"{entry.name} is not cached; fetch it with `kerazoo weights fetch {entry.name}`")
        rows += [
            {
                "name": entry.name,
                "path": str(path),
                "checked_by": entry.checked_by,
                "damage": cache_problem(path, entry),
            }
            for path in cached
        ]
    damaged = [row for row in rows if row["damage"]]
    if as_json:
        print_json({"ok": not damaged, "weights": rows})
    else:
        for row in rows:
            only = ", as Keras publishes no hash" if row["checked_by"] == "structure" else ""
            good = f"correct {row['checked_by']}{only}"
            print(f"{row['name']}  {'DAMAGED: ' + row['damage'] if row['damage'] else good}  {row['path']}")
        if not rows:
            print(f"there are no published weights in {cache_path('weights')} or in Keras's cache")
        elif damaged:
            say("damaged files are never used; fetch them again with `kerazoo weights fetch NAME`")
    if damaged:
        raise typer.Exit(1)


@app.command()
def bundle(
    names: Names,
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="The bundle to write.")],
    as_json: Json = False,
) -> None:
    """Write weights into one file, to copy to a machine without a network. Fetches weights that are not cached."""
    from kerazoo.models.hub.presets import is_folder
    from kerazoo.models.weights.bundles import check_output, write_bundle
    from kerazoo.models.weights.download import published_path

    check_output(output)
    presets = _presets(names)
    folders = [preset.name for preset in presets if is_folder(preset.preset)]
    if folders:
        raise WeightsError(f"{folders[0]} is a folder, which can be copied as it is; bundle presets by their names")
    if presets and _without_presets(names):
        raise WeightsError("a bundle has either presets of keras-hub or other weights; make two bundles")
    if presets:
        from kerazoo.models.hub.bundles import write_presets
        from kerazoo.models.hub.licenses import license_of

        found = [(preset.preset, preset.folder(), license_of(preset.preset, preset.folder())[0]) for preset in presets]
        rows = write_presets(output, found)
    else:
        rows = write_bundle(output, [(entry, published_path(entry.name)) for entry in _entries(names)])
    if as_json:
        print_json({"bundle": str(output), "bytes": output.stat().st_size, "weights": rows})
        return
    print(f"{output}: {len(rows)} files, {format_bytes(output.stat().st_size)}")
    print(f"next, on the other machine: kerazoo weights unbundle {output.name}")


@app.command()
def unbundle(
    bundle: Annotated[Path, typer.Argument(help="A file that `kerazoo weights bundle` made.")], as_json: Json = False
) -> None:
    """Put the weights of a bundle into the cache; none of them if anything is wrong."""
    from kerazoo.models.hub.bundles import is_bundle, unpack_presets
    from kerazoo.models.weights.bundles import unpack_bundle

    if is_bundle(bundle):
        placed = unpack_presets(bundle)
        if as_json:
            found = [
                {"name": f"hub:{preset}", "path": str(folder), "checked_by": "sha256"} for preset, folder in placed
            ]
            print_json({"bundle": str(bundle), "weights": found})
            return
        for preset, folder in placed:
            print(f"hub:{preset}  {folder}")
        return
    unpacked = unpack_bundle(bundle)
    if as_json:
        rows = [{"name": entry.name, "path": str(path), "checked_by": entry.checked_by} for entry, path in unpacked]
        print_json({"bundle": str(bundle), "weights": rows})
        return
    for entry, path in unpacked:
        print(f"{entry.name}  {path}")


def _without_presets(names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith("hub:")]


def _presets(names: list[str]) -> list[Any]:
    """The entries of presets of keras-hub. All names are checked before any work is done."""
    from kerazoo.models.hub.backbone import hub_backbone

    entries = [hub_backbone(name) for name in dict.fromkeys(names) if name.startswith("hub:")]
    for entry in entries:
        entry.check()
    return entries


def _entries(names: list[str]) -> list[Any]:
    """The manifest's entries. All names are checked before any work is done."""
    from kerazoo.models.weights.published import published

    return [published(name) for name in dict.fromkeys(names)]
