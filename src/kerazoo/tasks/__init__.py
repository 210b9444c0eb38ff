"""The tasks: classes, labels or numbers, with their losses and scores."""
