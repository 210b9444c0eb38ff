"""Files that run an export in production: Docker Compose, Kubernetes and KServe, each with TensorFlow Serving."""
