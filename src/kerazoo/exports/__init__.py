"""A run as a SavedModel, which leaves only if it answers as the run did."""
