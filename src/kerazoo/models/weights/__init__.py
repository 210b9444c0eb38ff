"""Weights: find or download them, check them, and load them into a network."""
