"""kerazoo: a Keras 3 / TensorFlow model zoo with a transfer-learning pipeline.

Importing this package imports neither keras nor tensorflow, and touches no device, network or seed.
"""

from kerazoo.models.registry import build, list_models

__version__ = "0.1.0"
__all__ = ["__version__", "build", "list_models"]
