"""What stands on top of features."""
