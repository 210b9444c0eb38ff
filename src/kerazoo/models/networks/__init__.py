"""The networks of the zoo, one module each."""
