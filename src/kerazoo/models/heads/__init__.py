"""The heads of networks, on top of the features."""
