"""The passport of an export: what it was made from, what it answers, how well, and the hashes of its files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerazoo.evaluation.answers import Evaluation
from kerazoo.exports.layout import PASSPORT
from kerazoo.files import read_json, write_json
from kerazoo.models.saved import DESCRIPTION
from kerazoo.models.weights.published import manifest
from kerazoo.runs.environment import environment
from kerazoo.runs.records import read_data, read_state
from kerazoo.runs.run import Run
from kerazoo.version import __version__

if TYPE_CHECKING:
    from kerazoo.models.description import ModelSpec


def passport_of(run: Run, spec: "ModelSpec", evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """The passport but for the files. Its metrics are computed from the recorded answers and the labels of the data."""
    return {
        "kerazoo": __version__,
        "run": run.name,
        **spec.to_json(),
        "recipe": run.recipe.model_dump(mode="json"),
        "started_from": _started_from(run),
        "weights_sha256": read_json(run.folder / DESCRIPTION)["weights_sha256"],
        "data_digest": read_data(run.folder)["digest"],
        "metrics": {name: value for evaluation in evaluations for name, value in evaluation.summary().items()},
        "environment": environment(),
    }


def write_passport(folder: Path, passport: dict[str, Any]) -> None:
    """Write `passport` into the export in `folder`, under a temporary name first. Raises OSError."""
    path = folder / PASSPORT
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, passport)


def _started_from(run: Run) -> dict[str, str]:
    """The weights that training began with; the license is an SPDX name, or "" if it is not known."""
    recipe = run.recipe
    weights = "none" if recipe.transfer is None else recipe.transfer.weights
    preset = read_state(run.folder).get("preset")
    if isinstance(preset, dict):
        return {"weights": weights, **{key: str(preset.get(key, "")) for key in ("license", "license_source")}}
    entry = manifest().get(recipe.model.name) if weights == "imagenet" else None
    return {
        "weights": weights,
        "license": entry.license if entry else "",
        "license_source": entry.license_source if entry else "",
    }
