"""What a model answers for each example, and the metrics of that."""
