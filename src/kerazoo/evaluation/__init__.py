"""A model's answers for each example, and their metrics."""
