"""The recipe: all that a run depends on, its presets, and the recipes of the zoo."""
