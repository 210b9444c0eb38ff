"""The command line: each command parses, calls one function, and says what came of it.

Standard output carries results (one JSON object with `--json`), standard error everything else. Exit codes: 0; 2 for
bad input; 1 for a failure; 130 after Ctrl-C, 143 after SIGTERM. TensorFlow is imported inside commands only.
"""

import sys
from typing import Annotated

import typer

from kerazoo.cli import weights as cli_weights
from kerazoo.cli.data import check
from kerazoo.cli.export import export
from kerazoo.cli.models import models
from kerazoo.cli.output import log_to_stderr, say
from kerazoo.cli.runs import evaluate, predict
from kerazoo.cli.signals import stoppable
from kerazoo.cli.train import finetune, probe, train
from kerazoo.errors import KerazooError, is_out_of_memory
from kerazoo.version import __version__

app = typer.Typer(
    help="A Keras 3 / TensorFlow model zoo with a transfer-learning pipeline.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich.markdown takes a third of the time of --help
)  # fmt: skip
app.add_typer(cli_weights.app, name="weights")

CTRL_C = 130
TERMINATED = 143  # SIGTERM
STOPPED = "kerazoo: stopped"
GOES_ON = "; the same command goes on with a run that did not finish"  # of commands that keep one


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


for command in (models, check, train, finetune, probe, evaluate, predict, export):
    app.command()(command)


def main() -> None:
    """The console script: one clear line for an error, and the exit code that belongs to it."""
    arguments = sys.argv[1:]
    try:
        with log_to_stderr(), stoppable(at_the_end=True):
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
    except (SystemExit, KeyboardInterrupt) as error:  # an interrupt once typer had done its part
        code = error.code if isinstance(error, SystemExit) else CTRL_C
        if code in (CTRL_C, TERMINATED):  # typer's own, and that of `stoppable`
            say(STOPPED + (GOES_ON if arguments[:1] in (["train"], ["finetune"]) else ""))
        sys.exit(code)


if __name__ == "__main__":
    main()
