"""Transfer learning in phases: features, a probe on them, and fine-tuning; each phase is kept only if it helps."""
