"""Where callbacks write."""
