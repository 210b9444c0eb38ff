"""kerazoo: a Keras 3 / TensorFlow model zoo with a transfer-learning pipeline.

Importing this package imports neither keras, tensorflow nor numpy, and touches no device, network or seed: each name is
imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from kerazoo.version import __version__

if TYPE_CHECKING:
    from kerazoo import callbacks
    from kerazoo.api import (
        anatomy,
        build,
        check,
        deploy,
        describe,
        diagnose,
        evaluate,
        export,
        finetune,
        grad_cam,
        list_models,
        load_examples,
        open_export,
        open_run,
        predict,
        push,
        rank,
        report,
        resume,
        serve,
        train,
        verify,
    )
    from kerazoo.api.run import Run
    from kerazoo.errors import InputError, Interrupted, KerazooError
    from kerazoo.evaluation.answers import Evaluation
    from kerazoo.exports.folder import Export
    from kerazoo.insight.findings.finding import Finding
    from kerazoo.pipelines.data.examples import Examples
    from kerazoo.preprocessing.preprocessing import Preprocessing
    from kerazoo.recipes.recipe import Recipe
    from kerazoo.serving.predict import Prediction

__all__ = [
    "Evaluation", "Examples", "Export", "Finding", "InputError", "Interrupted", "KerazooError", "Prediction",
    "Preprocessing", "Recipe", "Run", "__version__", "anatomy", "build", "callbacks", "check", "deploy", "describe",
    "diagnose", "evaluate", "export", "finetune", "grad_cam", "list_models", "load_examples", "open_export", "open_run",
    "predict", "push", "rank", "report", "resume", "serve", "train", "verify",
]  # fmt: skip

PLACES = {  # modules of names that are not functions of `kerazoo.api`
    "Evaluation": "kerazoo.evaluation.answers",
    "Examples": "kerazoo.pipelines.data.examples",
    "Export": "kerazoo.exports.folder",
    "Finding": "kerazoo.insight.findings.finding",
    "InputError": "kerazoo.errors",
    "Interrupted": "kerazoo.errors",
    "KerazooError": "kerazoo.errors",
    "Prediction": "kerazoo.serving.predict",
    "Preprocessing": "kerazoo.preprocessing.preprocessing",
    "Recipe": "kerazoo.recipes.recipe",
    "Run": "kerazoo.api.run",
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "callbacks":
        from kerazoo.startup import import_keras

        import_keras()
        return importlib.import_module("kerazoo.callbacks")
    globals()[name] = getattr(importlib.import_module(PLACES.get(name, "kerazoo.api")), name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
