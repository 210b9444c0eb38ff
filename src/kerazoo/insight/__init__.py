"""Pictures of numbers: a Keras model or numbers in, numbers or a picture out."""
