"""Fine-tuning: features, a probe on them, the network from there on, each phase judged."""
