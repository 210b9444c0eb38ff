"""The gRPC side of a server: TensorFlow Serving's services, and gRPC's own health service."""
