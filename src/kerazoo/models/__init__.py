"""Networks: builders, backbones, heads and weights. Nothing heavy is imported until it is used."""
