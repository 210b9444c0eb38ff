"""Image backbones of keras-hub: presets, built flat, with their own preprocessing."""
