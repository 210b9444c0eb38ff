"""What a network is: builders, backbones, heads, weights. Nothing heavy is imported until it is used."""
