"""What is learned: classes, labels or numbers; their losses and scores."""
