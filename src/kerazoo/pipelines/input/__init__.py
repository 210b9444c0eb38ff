"""Examples to batches: decode, prepare, augment."""
