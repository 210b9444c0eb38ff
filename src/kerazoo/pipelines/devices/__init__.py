"""Devices, replicas and worker processes."""
