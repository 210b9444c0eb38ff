"""Checks that report problems of the data before a run."""
