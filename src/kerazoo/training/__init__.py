"""Training: the plan, Keras's `fit`, optimizers, schedules and trials."""
