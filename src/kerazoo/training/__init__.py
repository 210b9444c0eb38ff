"""Training from random weights: the plan, Keras's `fit`, optimizers and trials."""
