"""Images of numbers: a Keras model or numbers in, numbers or an image out."""
