"""What others see of a run: its report, the comparison of several, its card, and its export on a hub."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kerazoo.api.runs import open_run
from kerazoo.api.settings import PathLike, path_of

if TYPE_CHECKING:
    from kerazoo.api.run import Run
    from kerazoo.exports.folder import Export
    from kerazoo.runs.run import Run as PlainRun

log = logging.getLogger("kerazoo")


def report(runs: "PathLike | Run | Sequence[PathLike | Run]", *, path: PathLike | None = None) -> Path:
    """Write the report of a run, or the comparison of several, as one HTML file that needs nothing else.

    Args:
        runs: A run, its folder, or its name under runs/; or several of them, of which the first is what the others are
            compared with.
        path: Where to write. The default is `report.html`, or `comparison.html`, in the folder of the (first) run.

    Returns:
        The path of the file.

    Raises:
        RunError: if there is no such run, it did not finish, or its answers cannot be read.
        OSError: if the file cannot be written.

    Example:
    ```python
    kerazoo.report("first")
    ```
    """
    from kerazoo.reports.comparison import write_comparison
    from kerazoo.reports.page import write_report

    named = [*runs] if isinstance(runs, Sequence) and not isinstance(runs, str) else [runs]
    opened = [open_run(path_of(run)) for run in named]
    place = None if path is None else Path(path)
    return write_report(opened[0], place) if len(opened) == 1 else write_comparison(opened, place)


def push(export: "PathLike | Export", *, to: str, private: bool = False) -> str:
    """Upload an export to the Hugging Face hub, with its card, as one commit.

    Args:
        export: An export, or its path.
        to: The repository, "hf://USER/NAME". One that does not exist is made. Files of a former export are replaced
            or removed; other files stay.
        private: Whether a new repository is private.

    Returns:
        The address of the repository.

    Raises:
        InputError: if `to` is no such name, or huggingface_hub is not installed.
        RunError: if there is no such export, or a file of it was changed.
        KerazooError: if the hub refuses or cannot be reached.

    Example:
    ```python
    kerazoo.push("saved_models/first", to="hf://ada/first")
    ```
    """
    from kerazoo.api.exports import open_export
    from kerazoo.reports.push import check_address
    from kerazoo.reports.push import push as upload

    check_address(to)
    return upload(open_export(path_of(export)), to, private=private)


def report_finished(run: "PlainRun") -> None:
    """Write the card of a run that has just finished, and its report, if its recipe wants one; not what is there.

    A failure is one line in the log.
    """
    from kerazoo.reports.card import FILE as CARD
    from kerazoo.reports.card import write_card_or_say
    from kerazoo.reports.page import FILE, write_report

    if not (run.folder / CARD).exists():  # somebody may have added a license to it
        write_card_or_say(run)
    if not run.recipe.report or (run.folder / FILE).is_file():
        return
    start = time.perf_counter()
    try:
        path = write_report(run)
        log.info(f"report: {path}, {time.perf_counter() - start:.1f} s")
    except Exception as error:  # the run is finished, and stays so
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        log.warning(f"the report could not be written: {reason}; repeat it with `kerazoo report {run.folder}`")
