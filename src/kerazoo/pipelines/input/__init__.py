"""Examples -> batches: decode, resize, augment."""
