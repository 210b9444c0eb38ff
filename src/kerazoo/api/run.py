"""A run as `kerazoo.train` returns it: what is on disk (`runs/run.py`), and what can be done with it."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kerazoo.errors import RunError
from kerazoo.exports.formats.table import find_formats
from kerazoo.exports.layout import check_images
from kerazoo.files import read_json
from kerazoo.pipelines.data.load import check_source
from kerazoo.recipes.recipe import data_part
from kerazoo.runs import run as runs
from kerazoo.startup import start_tensorflow

if TYPE_CHECKING:
    import keras

    from kerazoo.evaluation.answers import Evaluation
    from kerazoo.exports.folder import Export
    from kerazoo.insight.findings.finding import Finding
    from kerazoo.serving.predict import Prediction


class Run(runs.Run):
    """A run on disk: `folder`, `name`, `status`, `recipe`, `results`, `history`, `spec`.

    `is_chief` is False in the processes of a cluster that only compute: another one writes the run.

    Example:
    ```python
    run = kerazoo.open_run("first")
    run.results["val_accuracy"], run.history["loss"], run.recipe.optimizer.learning_rate
    run.model().summary()
    ```
    """

    @property
    def findings(self) -> "list[Finding]":
        """What the numbers of the training mean, the worst first; empty where none were kept. Raises RunError."""
        from kerazoo.insight.findings.finding import FILE, Finding

        path = self.folder / FILE
        if not path.is_file():
            return []
        try:
            return [Finding.from_json(values) for values in read_json(path)["findings"]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{path} cannot be read: {error}; remove it, or train again") from error

    def model(self) -> "keras.Model":
        """The network that answers, after a check of its weights: scaled pixels -> logits.

        It is the trained network. If the run answers from mirror images, too, the trained layers are nested in it.
        """
        start_tensorflow()
        from kerazoo.models.saved import load_model

        return load_model(self.folder)[1]

    def evaluate(self, data: str | Path | None = None) -> "dict[str, Evaluation]":
        """See `kerazoo.evaluate`."""
        if data is not None:
            data = os.fspath(data)
            check_source(data_part({"path": data}))
        start_tensorflow()
        from kerazoo.evaluation.evaluate import evaluate

        return {result.split: result for result in evaluate(self, data)}

    def predict(self, images: str | Path | Sequence[str | Path], *, top: int = 5) -> "Iterator[Prediction]":
        """See `kerazoo.predict`."""
        from kerazoo.serving.predict import find_files, predict

        files = find_files([images] if isinstance(images, str | Path) else images)
        start_tensorflow()
        return predict(self.folder, files, top=top)

    def report(self, *, path: str | Path | None = None) -> Path:
        """See `kerazoo.report`."""
        from kerazoo.reports.page import write_report

        return write_report(self, None if path is None else Path(path))

    def export(
        self,
        *,
        name: str | None = None,
        new_version: bool = False,
        images: int | None = None,
        formats: str | Sequence[str] = (),
        root: str | Path = "saved_models",
    ) -> "Export":
        """See `kerazoo.export`."""
        if name is not None:
            runs.check_name(name, "export")
        check_images(images)
        find_formats(formats)
        start_tensorflow()
        from kerazoo.exports.export import export_run
        from kerazoo.exports.folder import Export
        from kerazoo.reports.card import write_card_or_say

        made = Export(export_run(self, name=name, new_version=new_version, images=images, formats=formats, root=root))
        write_card_or_say(made)
        return made
