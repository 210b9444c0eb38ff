"""kerazoo: a Keras 3 / TensorFlow model zoo with a transfer-learning pipeline.

Importing this package imports neither keras nor tensorflow, and touches no device, network or seed.
"""

import importlib
from typing import Any

from kerazoo.models.build import build
from kerazoo.models.registry import list_models
from kerazoo.version import __version__

__all__ = ["__version__", "build", "callbacks", "list_models"]


def __getattr__(name: str) -> Any:
    """`kerazoo.callbacks` imports keras, and does so when it is first used."""
    if name == "callbacks":
        return importlib.import_module("kerazoo.callbacks")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
