"""Encoded bytes -> numbers: decode, resize, scale. Training, evaluation and exports use the same functions."""
