"""The HTTP side of a server: TensorFlow Serving's paths under /v1/, and our own for people, probes and the page."""
