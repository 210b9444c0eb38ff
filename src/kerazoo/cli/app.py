"""The command line application, and its errors and exit codes.

Results go to standard output (one JSON object with `--json`), everything else to standard error. The exit code is 0, 2
for bad input, 1 for a failure, 130 after Ctrl-C, and 143 after SIGTERM; `serve` ends with 0 after both. Only commands
import TensorFlow.
"""

import functools
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from kerazoo.cli import weights as cli_weights
from kerazoo.cli.data import check
from kerazoo.cli.deploy import deploy
from kerazoo.cli.export import export, verify
from kerazoo.cli.inspect import inspect
from kerazoo.cli.looking import feature_maps, grad_cam
from kerazoo.cli.models import models
from kerazoo.cli.output import log_to_stderr, say
from kerazoo.cli.report import push, report
from kerazoo.cli.runs import evaluate, predict
from kerazoo.cli.serve import serve
from kerazoo.cli.signals import stoppable
from kerazoo.cli.train import finetune, resume, train
from kerazoo.cli.trials import rank, try_
from kerazoo.errors import InputError, Interrupted, KerazooError, is_out_of_memory
from kerazoo.version import __version__

app = typer.Typer(
    help="A Keras 3 / TensorFlow model zoo with a transfer-learning pipeline.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich.markdown takes a third of the time of --help
)  # fmt: skip
app.add_typer(cli_weights.app, name="weights")

RENAMED = {  # the present names of commands and flags of earlier versions
    ("probe", ""): "rank DATA",
    ("train", "--resume"): "resume RUN",
    ("train", "--lr-find"): "try MODEL --data DATA --learning-rate CHART.svg",
    ("train", "--overfit-one-batch"): "try MODEL --data DATA --one-batch",
    ("finetune", "--probe-only"): "finetune DATA --preset linear",
}
CTRL_C = 130
TERMINATED = 143  # SIGTERM
GOES_ON = "; run the same command again to resume an unfinished run"
KEEP_RUNS = ("train", "finetune", "resume")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"kerazoo {__version__}")
        raise typer.Exit


@app.callback()
def options(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A Keras 3 / TensorFlow model zoo with a transfer-learning pipeline."""


def _stops_as_error(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, whose Interrupted is an error with the same message and exit code: typer makes it a bare 130."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except Interrupted as stop:
            error = KerazooError(str(stop))
            error.exit_code = stop.exit_code
            raise error from stop

    return run


COMMANDS = (
    models, check, train, finetune, resume, rank, try_, evaluate, predict, report, inspect, grad_cam, feature_maps,
    export, verify, push, serve, deploy,
)  # fmt: skip
for command in COMMANDS:
    app.command(command.__name__.rstrip("_").replace("_", "-"))(_stops_as_error(command))


def main() -> None:
    """The console script: print one line for an error, and exit with its code."""
    arguments = sys.argv[1:]
    try:
        with log_to_stderr(), stoppable(at_the_end=True):
            _check_names(arguments)
            app(standalone_mode=True)
    except (KerazooError, OSError) as error:
        if "--traceback" in arguments:
            raise
        say(f"kerazoo: {error}")
        sys.exit(error.exit_code if isinstance(error, KerazooError) else 1)
    except Exception as error:
        if "--traceback" in arguments or not is_out_of_memory(error):
            raise
        say("kerazoo: out of memory; lower --batch-size or --size, or close other programs")
        sys.exit(1)
    except (SystemExit, KeyboardInterrupt) as error:  # an interrupt may come after typer has finished
        code = error.code if isinstance(error, SystemExit) else CTRL_C
        if code in (CTRL_C, TERMINATED):  # typer raises the first, `stoppable` the second
            say(_stopped(arguments))
        sys.exit(code)


def _check_names(arguments: list[str]) -> None:
    """Raise InputError if a command or a flag was renamed."""
    used_command = _command(arguments)
    flags = {argument.partition("=")[0] for argument in arguments}
    for (command, flag), new_name in RENAMED.items():
        if used_command == command and (not flag or flag in flags):
            raise InputError(f"`{f'{command} {flag}'.strip()}` was renamed; use: kerazoo {new_name}")


def _stopped(arguments: list[str]) -> str:
    """The message for a command that SIGTERM or Ctrl-C stopped."""
    command = _command(arguments)
    name = f"kerazoo {command}".strip()
    return f"kerazoo: `{name}` was stopped{GOES_ON if command in KEEP_RUNS else ''}"


def _command(arguments: list[str]) -> str:
    """The command among `arguments`, after the flags of `kerazoo` itself; "" if there is none."""
    return next((argument for argument in arguments if not argument.startswith("-")), "")


if __name__ == "__main__":
    main()
