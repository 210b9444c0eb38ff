"""Encoded bytes to numbers: decode, resize, scale. The same functions for training, evaluation and exports."""
