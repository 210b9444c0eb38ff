"""What a network is: builders, backbones, heads, preprocessing. Nothing heavy is imported until it is used."""

from kerazoo.models.registry import build, find, list_models

__all__ = ["build", "find", "list_models"]
