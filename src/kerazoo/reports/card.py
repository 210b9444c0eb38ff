"""The model card of a run or an export: a `README.md` that people, and the Hugging Face hub, read.

The header is YAML, as the hub wants it; the rest says what the model is for, how it was measured, and its limits.
Source: Mitchell et al. 2019, arXiv:1810.03993 (model cards); huggingface.co/docs/hub/model-cards (the header).
"""

import html
import json
import logging
import re
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from kerazoo.errors import RunError
from kerazoo.exports.folder import Export
from kerazoo.exports.passport import passport_of
from kerazoo.files import write_whole
from kerazoo.runs.run import Run
from kerazoo.tasks.base import Task
from kerazoo.tasks.task import find_task
from kerazoo.tasks.thresholds import HALF

log = logging.getLogger("kerazoo")

FILE = "README.md"
NAMES = {
    "accuracy": "accuracy", "exact_match": "all labels right", "mean_average_precision": "mean average precision",
    "macro_f1": "macro F1", "macro_f1_thresholds": "macro F1 at the labels' thresholds",
    "mae": "mean absolute error", "rmse": "root mean squared error", "r2": "R²", "loss": "loss",
}  # fmt: skip
CLASSIFICATION, REGRESSION = "image-classification", "image-regression"
SHOWN = 50  # classes that are listed; the rest are counted
SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~$-])")


def write_card(made: Run | Export) -> Path:
    """Write the card of a finished run, or of an export, into its folder, and return its path.

    A card that is there is replaced. Raises RunError if what it tells of cannot be read, and OSError if it cannot be
    written.
    """
    path = made.folder / FILE
    write_whole(path, card_of(made))
    return path


def write_card_or_say(made: Run | Export) -> None:
    """`write_card`; a failure is one line in the log, because what the card is about is there, and stays so."""
    try:
        write_card(made)
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        log.warning(f"{made.folder} has no README.md: {reason}")


def card_of(made: Run | Export) -> str:
    """The card of a finished run, or of an export, as Markdown with a YAML header. Raises RunError."""
    passport = made.passport if isinstance(made, Export) else _passport_of(made)
    name = made.folder.parent.name if isinstance(made, Export) else made.name
    try:
        return "\n".join([*_header(name, passport), *_body(name, passport, made)]) + "\n"
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{made.folder}: its description was changed ({error}); export or train it again") from error


def _passport_of(run: Run) -> dict[str, Any]:
    """What the passport of an export of `run` would hold."""
    return passport_of(run, run.spec, []) | {"metrics": run.results}


def _header(name: str, passport: Mapping[str, Any]) -> list[str]:
    """Each value is JSON, which is YAML, too: so no name can end its line or become another key."""
    task = find_task(passport["task"])
    values: dict[str, Any] = {"library_name": "keras"}
    tags = ["kerazoo", "keras", "tensorflow"]
    if task.probabilities:
        values["pipeline_tag"] = CLASSIFICATION
    else:
        tags.append(REGRESSION)
    if task.probabilities and not task.exclusive:
        tags.append("multi-label")
    source = str(passport["started_from"]["weights"])
    if source.startswith("hub:hf://"):
        values["base_model"] = source.removeprefix("hub:hf://")
    values["tags"] = tags
    splits = _splits(passport)
    values["metrics"] = sorted({metric for found in splits.values() for metric in found if metric in NAMES})
    values["model-index"] = [{"name": name, "results": [_result(passport, *found) for found in splits.items()]}]
    return ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()), "---", ""]


def _result(passport: Mapping[str, Any], split: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    kind = CLASSIFICATION if find_task(passport["task"]).probabilities else REGRESSION
    data = _data(passport)
    return {
        "task": {"type": kind},
        "dataset": {"name": data, "type": re.sub(r"[^\w.-]+", "-", data).strip("-") or "data", "split": split},
        "metrics": [
            {"type": metric, "name": NAMES[metric], "value": value}
            for metric, value in metrics.items()
            if metric in NAMES and isinstance(value, int | float)
        ],
    }


def _splits(passport: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The metrics of each split, test first."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in passport["metrics"].items():
        split, metric = name.split("_", 1)
        found.setdefault(split, {})[metric] = value
    return dict(sorted(found.items(), key=lambda item: item[0] != "test"))


def _data(passport: Mapping[str, Any]) -> str:
    """The last part of the path of the data, because a card is public."""
    path = str(passport["recipe"]["data"]["path"])
    return path if path.startswith("tfds:") else PurePath(path).name


def _weights(start: Mapping[str, Any]) -> str:
    """The weights that training started from, without the folder of a file."""
    weights = str(start["weights"])
    return weights if weights.startswith("hub:") else PurePath(weights).name


def _body(name: str, passport: Mapping[str, Any], made: Run | Export) -> list[str]:
    network, task, classes = _plain(passport["name"]), find_task(passport["task"]), passport["class_names"]
    start = passport["started_from"]
    tuned = passport["recipe"].get("transfer") is not None
    how = f"fine-tuned from weights {_plain(_weights(start))}" if tuned else "trained from random weights"
    kind = "regression" if not task.probabilities else f"{'' if task.exclusive else 'multi-label '}image classification"
    listed = ", ".join(_plain(one) for one in classes[:SHOWN])
    more = f" and {len(classes) - SHOWN:,} more" if len(classes) > SHOWN else ""
    return [
        f"# {_plain(name)}", "",
        f"{kind.capitalize()} by {network}, {how} on {_plain(_data(passport))} with kerazoo "
        f"{passport['kerazoo']}.", "",
        f"{len(classes):,} {task.units}: {listed}{more}.", "",
        "## Results", "", *_table(passport), "",
        "Intervals are of 95 %." + _judged(passport, tuned), "",
        "## Use", "", *_use(passport, made), "", *_thresholds(passport),
        "## Intended use and limits", "",
        f"For images like those of {_plain(_data(passport))}. {_always(task, len(classes))} Nothing is known of its "
        "answers for images of another kind, of another camera or of another time. Do not let it alone decide about "
        "people.", "",
        "## Data", "",
        f"{_plain(_data(passport))}, digest `{passport['data_digest']}`. {_license_of_data(passport)}", "",
        "## Weights", "",
        f"`sha256` of the weights: `{passport['weights_sha256']}`.", *_license(start), "",
        "The license of this model is for its publisher to state, as `license:` in the header.", "",
        "## Reproduce", "", *_again(passport, made), "",
        "## Citation", "", "```bibtex", "@software{kerazoo,", "  title = {kerazoo: a Keras model zoo},",
        f"  version = {{{passport['kerazoo']}}},", "}", "```",
    ]  # fmt: skip


def _table(passport: Mapping[str, Any]) -> list[str]:
    lines = ["| images | metric | value | 95 % interval |", "|---|---|---:|---|"]
    for split, metrics in _splits(passport).items():
        for metric, words in NAMES.items():
            value = metrics.get(metric)
            if isinstance(value, int | float):
                low, high = metrics.get(f"{metric}_interval") or (None, None)
                between = "" if low is None else f"{low:.4f} to {high:.4f}"
                lines.append(f"| {metrics['examples']:,} of {split} | {words} | {value:.4f} | {between} |")
    return lines


def _judged(passport: Mapping[str, Any], tuned: bool) -> str:
    """What was chosen on the validation images, so that their numbers may be too good."""
    chosen = []
    if tuned:
        chosen.append("the phases of fine-tuning that were kept")
    if passport["recipe"]["training"].get("early_stopping"):
        chosen.append("the epoch")
    if passport.get("temperature", 1.0) != 1.0:
        chosen.append("the temperature")
    cross_fitted = ""
    if passport.get("thresholds"):
        where = "the answers of folds" if passport.get("members") else "val"
        cross_fitted = (
            f" The thresholds of the labels were chosen on {where}; macro F1 at the thresholds is by cross-fitting "
            "there, each fifth with what the others choose."
        )
    if not chosen:
        return cross_fitted
    words = " and ".join([", ".join(chosen[:-1]), chosen[-1]] if chosen[1:] else chosen)
    return f" Chosen on the images of val: {words}. So these numbers of val may be a little too good.{cross_fitted}"


def _always(task: Task, classes: int) -> str:
    if task.exclusive:
        return f"It answers with one of the {classes:,} classes for every image, also for one that has none of them."
    if task.probabilities:
        return "It knows only these labels."
    return "It gives a number for every image, also for one where it means nothing."


def _license_of_data(passport: Mapping[str, Any]) -> str:
    given = passport["recipe"]["data"].get("license")
    if given is None:
        return "The license of these images was not stated (`data.license`)."
    return f"License of these images: {_plain(given)}."


def _license(start: Mapping[str, Any]) -> list[str]:
    if not start.get("license"):
        return []
    return ["", f"The weights that training started from: license {_plain(start['license'])} "
                f"({_plain(start.get('license_source', ''))})."]  # fmt: skip


def _use(passport: Mapping[str, Any], made: Run | Export) -> list[str]:
    if isinstance(made, Run):
        return ["```", "pip install kerazoo", f"kerazoo predict {_word(made.name)} image.jpg", "```"]
    answer = "label" if find_task(passport["task"]).exclusive else "probabilities"
    return [
        "It needs TensorFlow only; images are prepared inside.", "",
        "```python", "from pathlib import Path", "", "import tensorflow as tf", "",
        'served = tf.saved_model.load(".").signatures["serving_default"]  # this folder',
        'image = Path("image.jpg").read_bytes()',
        f'print(served(image_bytes=tf.constant([image]))["{answer}"].numpy())', "```", "",
        "`assets.extra/passport.json` holds labels, preprocessing, metrics, hashes and versions.",
    ]  # fmt: skip


def _thresholds(passport: Mapping[str, Any]) -> list[str]:
    """From which probability on a label is given, where the model keeps thresholds."""
    thresholds = passport.get("thresholds", ())
    own = [(name, value) for name, value in zip(passport["class_names"], thresholds, strict=False) if value != HALF]
    if not own:
        return []
    listed = ", ".join(f"{_plain(name)} {value:.3f}" for name, value in own[:SHOWN])
    more = f" and {len(own) - SHOWN:,} more" if len(own) > SHOWN else ""
    return [
        f"`kerazoo predict` gives a label from a probability of {HALF} on, but these from their own thresholds on: "
        f"{listed}{more}. All metrics but the macro F1 that says otherwise are at {HALF}.", "",
    ]  # fmt: skip


def _again(passport: Mapping[str, Any], made: Run | Export) -> list[str]:
    seed = passport["recipe"]["seed"]
    where = "`recipe.toml`" if isinstance(made, Run) else "`recipe` in `assets.extra/passport.json`"
    return [f"{where} has every setting (seed {seed}), and the digest above names the images."]


def _plain(text: object) -> str:
    """`text` in one line, without Markdown or HTML in it."""
    return SPECIAL.sub(r"\\\1", html.escape(" ".join(str(text).split()), quote=False))


def _word(name: str) -> str:
    """A name as one word of a command in a block of code."""
    return shlex.quote(" ".join(name.split())).replace("```", "")
