"""What a network is: builders, backbones, heads, preprocessing. Nothing heavy is imported until it is used."""

from kerazoo.models.build import build
from kerazoo.models.registry import find, list_models

__all__ = ["build", "find", "list_models"]
