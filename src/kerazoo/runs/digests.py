"""The digests (sha256) of a finished run's files, which show whether a file was changed afterwards.

`model.json` holds the digest of the weights, `data.json` that of the data, and `run.json` those of both files and of
the evaluation.
"""

from pathlib import Path

from kerazoo.errors import RunError
from kerazoo.files import read_json, sha256
from kerazoo.models.saved import DESCRIPTION
from kerazoo.runs.records import DATA, STATE, read_data, read_state

RECORDED = ("npy", "csv", "json")  # the endings of a split's evaluation


def digests_of(folder: Path) -> dict[str, str]:
    """The sha256 of each file of the run in `folder` that must not change, by its path in the folder."""
    return {name: sha256(folder / name) for name in _names(folder)}


def check_digests(folder: Path) -> None:
    """Raise RunError, which names the file, if a file was changed after the run in `folder` finished."""
    recorded = read_state(folder).get("digests")
    if not isinstance(recorded, dict):
        raise RunError(
            f"{folder / STATE} has no digests of the run's files, so changes cannot be detected: an earlier "
            "version made the run, or run.json was changed; train the run again"
        )
    for name in _names(folder):
        path = folder / name
        try:
            digest = sha256(path)
        except OSError as error:
            raise RunError(f"{path} cannot be read: {error.strerror}; restore it, or train the run again") from error
        if recorded.get(name) != digest:
            raise RunError(
                f"{path} was changed after the run finished (its sha256 is {digest[:16]}, run.json has "
                f"{str(recorded.get(name))[:16]}); restore the original, or train the run again"
            )


def _names(folder: Path) -> list[str]:
    counts = read_data(folder).get("counts")
    splits = [split for split in ("val", "test") if split in counts] if isinstance(counts, dict) else []
    if not splits:
        raise RunError(f"{folder / DATA} does not name the splits; restore it, or train the run again")
    if read_json(folder / DESCRIPTION).get("members"):
        splits.append("folds")  # the out-of-fold answers of an ensemble
    return [DATA, DESCRIPTION, *(f"evaluation/{split}.{ending}" for split in splits for ending in RECORDED)]
