"""What is wrong with data, found before a run."""
