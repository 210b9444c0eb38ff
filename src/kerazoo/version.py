"""The version of kerazoo."""

__version__ = "0.1.0"
