"""What happens to the data: examples, batches, training, transfer, evaluation, runs."""
