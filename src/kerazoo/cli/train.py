"""The commands that make runs: train, finetune, resume."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from kerazoo import api
from kerazoo.cli.options import (
    DATA,
    MODEL,
    RUN,
    BatchSize,
    Data,
    DevicesFlag,
    Epochs,
    FailOn,
    Log,
    LogEvery,
    Name,
    Overwrite,
    Rate,
    Seed,
    Set,
    Size,
    Teacher,
    Timings,
    To,
)
from kerazoo.cli.output import Json, print_json
from kerazoo.cli.tables import timings_table

if TYPE_CHECKING:
    from kerazoo.api import Finding
    from kerazoo.api.run import Run


def train(
    model: Annotated[str, typer.Argument(help=MODEL)],
    data: Data = None,
    name: Name = None,
    epochs: Epochs = None,
    rate: Rate = None,
    batch: BatchSize = None,
    size: Size = None,
    seed: Seed = None,
    devices: DevicesFlag = None,
    log: Log = None,
    log_every: LogEvery = None,
    to: To = None,
    teacher: Teacher = None,
    diagnose: Annotated[
        bool, typer.Option("--diagnose", help="Train for a short while only, and tell what is wrong; no run is kept.")
    ] = False,
    fail_on: FailOn = None,
    settings: Set = None,
    overwrite: Overwrite = False,
    timings: Timings = False,
    as_json: Json = False,
) -> None:
    """Train a zoo network from random weights, evaluate it, and save everything in a run folder.

    Run the same command again to resume an unfinished run.
    """
    exit_on([], fail_on)  # an unknown severity is refused before any work
    if diagnose:
        found = api.diagnose(
            model, data, epochs=epochs, learning_rate=rate, batch_size=batch, size=size, seed=seed, devices=devices,
            teacher=teacher, settings=settings or (),
        )  # fmt: skip
        if as_json:
            print_json({"findings": [finding.to_json() for finding in found]})
        exit_on(found, fail_on)
        return
    run = api.train(
        model, data, epochs=epochs, learning_rate=rate, batch_size=batch, size=size, seed=seed, devices=devices,
        log=log, log_every=log_every, to=to, teacher=teacher, settings=settings or (), name=name, overwrite=overwrite,
        reported=False,
    )  # fmt: skip
    report(run, as_json, fail_on, timings)


def finetune(
    data: Annotated[str, typer.Argument(help=DATA)],
    backbone: Annotated[str, typer.Option("--backbone", help="A name from `kerazoo models`.")] = "mobilenet_v2_100",
    weights: Annotated[
        str,
        typer.Option("--weights", help="imagenet (downloaded), the name of shipped weights, a file, a run, or none."),
    ] = "imagenet",
    name: Name = None,
    preset: Annotated[
        str, typer.Option("--preset", help="linear, light, full, norm, lora or bit: what to fine-tune, and how.")
    ] = "light",
    folds: Annotated[
        int | None,
        typer.Option("--folds", metavar="K", help="Train a network for each of K folds; the run is their ensemble."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=0, help="Epochs of fine-tuning. [default: the preset's]")
    ] = None,
    rate: Rate = None,
    batch: BatchSize = None,
    size: Size = None,
    seed: Seed = None,
    devices: DevicesFlag = None,
    log: Log = None,
    log_every: LogEvery = None,
    to: To = None,
    teacher: Teacher = None,
    fail_on: FailOn = None,
    settings: Set = None,
    overwrite: Overwrite = False,
    timings: Timings = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a pretrained network on your images: features, a probe on them, then the unfrozen network.

    Each phase is measured on validation and kept only if it helps. `--preset linear` stops after the probe.
    """
    exit_on([], fail_on)  # an unknown severity is refused before any work
    run = api.finetune(
        data, backbone, weights=weights, preset=preset, folds=folds, epochs=epochs, learning_rate=rate,
        batch_size=batch, size=size, seed=seed, devices=devices, log=log, log_every=log_every, to=to, teacher=teacher,
        settings=settings or (), name=name, overwrite=overwrite, reported=False,
    )  # fmt: skip
    report(run, as_json, fail_on, timings)


def resume(run: Annotated[str, typer.Argument(help=RUN)], as_json: Json = False) -> None:
    """Resume an unfinished run with its own recipe."""
    report(api.resume(run, reported=False), as_json)


def report(run: "Run", as_json: bool, fail_on: str | None = None, timings: bool = False) -> None:
    """Print the last line, or the results as JSON, and mark the run as reported. Exit with 1 for findings.

    With `timings`, lines before it, or a key, say where the seconds went.
    """
    if not run.is_chief:
        return
    if as_json:
        phases = {"phases": run.phases} if run.phases else {}
        phases |= {"folds": run.folds} if run.folds else {}
        findings = {"findings": [finding.to_json() for finding in run.findings]}
        parts = {"timings": run.timings} if timings else {}
        print_json({"run": str(run.folder), "seconds": run.seconds, **run.results, **phases, **findings, **parts})
    else:
        if timings:
            timings_table(run.timings)
        print(f"{run.folder} is finished after {run.seconds:.0f} s; next: kerazoo export {run.name}")
    sys.stdout.flush()
    run.set_reported()
    exit_on(run.findings, fail_on)


def exit_on(findings: "list[Finding]", severity: str | None) -> None:
    """Exit with 1 if one of `findings` is of that severity, or worse."""
    if severity is not None and api.has_finding(findings, severity):
        raise typer.Exit(1)
