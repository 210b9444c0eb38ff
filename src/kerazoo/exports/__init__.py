"""Exports: a run as a SavedModel, which is kept only if it gives the same answers as the run."""
